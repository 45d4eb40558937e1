"""A file of results, CSV or JSON lines, read and checked whole before any of it is sent."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult
from ops.problems import Problem

COLUMNS = ("uuid", "status")


@dataclass
class Lines:
    """What a file holds.

    Attributes:
        good: the results, by the number of their line.
        bad: what is wrong with the others, by the number of their line.
        copies: how many lines say the same as one before them; they are left out.
    """

    good: dict[int, FlashCallResult] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    copies: int = 0


def read(name: str) -> Lines:
    """Read a file; `-` is standard input.

    Raises:
        Problem: if it can't be read, is no text, is empty, or is CSV without a header.
    """
    text = _text(name)
    if not text.strip():
        raise Problem(f"{name} is empty: expected CSV with the header uuid,status or a JSON object a line.")
    if text.lstrip()[0] == "[":
        raise Problem(f"{name} is a JSON array: one object a line is wanted (`jq -c '.[]' {name}` makes that of it).")
    lines = Lines()
    first: dict[str, tuple[int, FlashCallResult]] = {}
    for number, body in _json_lines(text) if text.lstrip()[0] == "{" else _csv_rows(name, text):
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
            for one, another, status in ((earlier, number, content.status), (number, earlier, other.status)):
                lines.bad[one] = f"contradicts line {another}, which says {status}; a call has one verdict"
    lines.bad = dict(sorted(lines.bad.items()))
    if not lines.good and not lines.bad:
        raise Problem(f"{name} has a header and no results.")
    return lines


def _text(name: str) -> str:
    try:
        if name == "-" and sys.stdin is None:
            raise Problem("There is no standard input.")
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except IsADirectoryError:
        raise Problem(f"{name} is a directory: name a file, or - for standard input.") from None
    except OSError as error:
        raise Problem(f"{name} can't be read: {error.strerror}.") from None
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Problem(f"{name} is no UTF-8 text (line {line}): save it as UTF-8.") from None


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
            raise Problem(
                f"{name} has no header: its first line must name the columns uuid and status once, not {found!r}."
            )
        number = rows.line_num
        for row in rows:
            begins, number = number + 1, rows.line_num
            texts = [cell.strip() for cell in row]
            if any(texts):
                cells = dict(zip(header, texts, strict=False))
                yield begins, json.dumps({key: cells[key] for key in COLUMNS if key in cells})
    except csv.Error as error:
        raise Problem(f"{name} is no CSV from line {number + 1} on: {error}.") from None
