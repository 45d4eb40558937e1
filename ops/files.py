"""Files: read results from CSV or JSON lines, and write messages to JSON lines."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult
from ops.errors import CommandError
from ops.messages import Message

COLUMNS = ("uuid", "status")


@dataclass
class Lines:
    """The contents of a file of results."""

    good: dict[int, FlashCallResult] = field(default_factory=dict)  # by line number
    bad: dict[int, str] = field(default_factory=dict)  # the faults of the other lines, by line number
    copies: int = 0  # lines that repeat an earlier result; they are left out


def read(name: str) -> Lines:
    """Read and check a file of results; `-` is standard input.

    Raises:
        CommandError: if the file can't be read, is not text, is empty, or is CSV without a header.
    """
    text = _text(name)
    start = text.replace("\ufeff", "").lstrip()[:1]  # a byte order mark makes its own line bad, and no other
    if not start:
        raise CommandError(f"{name} is empty: expected CSV with the header uuid,status, or one JSON object per line.")
    if start == "[":
        raise CommandError(f"{name} is a JSON array: expected one object per line (`jq -c '.[]' {name}` converts it).")
    lines = Lines()
    first: dict[str, tuple[int, FlashCallResult]] = {}
    bodies = _json_lines(text) if start == "{" else _csv_rows(name, text)
    for number, body in bodies:
        content = parse_body(body)
        if not isinstance(content, FlashCallResult):
            lines.bad[number] = content.fault.replace("the body", "the line")
        elif content.uuid not in first:
            first[content.uuid] = number, content
            lines.good[number] = content
        elif first[content.uuid][1] == content:
            lines.copies += 1
        else:
            earlier, other = first[content.uuid]
            lines.good.pop(earlier, None)
            lines.bad[earlier] = f"contradicts line {number}, which says {content.status}; a call has one status"
            lines.bad[number] = f"contradicts line {earlier}, which says {other.status}; a call has one status"
    lines.bad = dict(sorted(lines.bad.items()))
    if not lines.good and not lines.bad:
        raise CommandError(f"{name} has a header and no results.")
    return lines


def _text(name: str) -> str:
    try:
        if name == "-" and sys.stdin is None:
            raise CommandError("There is no standard input.")
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except IsADirectoryError:
        raise CommandError(f"{name} is a directory: name a file, or - for standard input.") from None
    except OSError as error:
        raise CommandError(f"{name} can't be read: {error.strerror}.") from None
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CommandError(f"{name} is not UTF-8 text (line {line}): save it as UTF-8.") from None


def _json_lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _csv_rows(name: str, text: str) -> Iterator[tuple[int, str]]:
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        header = [column.strip().lower() for column in next(rows)]
        if any(header.count(column) != 1 for column in COLUMNS):
            found = ",".join(header)[:60]
            raise CommandError(
                f"{name} has no header: its first line must name the columns uuid and status once, not {found!r}."
            )
        number = rows.line_num
        for row in rows:
            begins, number = number + 1, rows.line_num
            texts = [cell.strip() for cell in row]
            if any(texts):
                cells = dict(zip(header, texts, strict=False))
                yield begins, json.dumps({key: cells[key] for key in COLUMNS if key in cells})
    except csv.Error:
        raise CommandError(f"{name} is not valid CSV from line {number + 1} on: check the quotes there.") from None


def write(path: str, messages: Sequence[Message]) -> None:
    """Write messages to a new file, and wait until the disk has it.

    Raises:
        CommandError: if the file exists or can't be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:  # noqa: PTH123 - of a descriptor
            file.writelines(json.dumps(line) + "\n" for message in messages for line in message.as_json())
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise CommandError(f"{path} exists: name a new file with --to. Nothing was deleted.") from None
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}. Nothing was deleted.") from None
