"""`send`: put one result, or a file of results, on the result queue."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import get_args

import click

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult, NoResult, Status
from ops.errors import CommandError
from ops.output import complain, count, progress
from ops.queues import RESULTS
from ops.stack import Stack

COLUMNS = ("uuid", "status")
# A rounded number, an error or a formula of a spreadsheet, and the empty cell of a database
NO_UUID = re.compile(
    r"""-?\d+([.,]\d+)?E[+-]\d+ | \#(N/A|DIV/0!|[A-Z]+[!?]) | ="\S*" | NULL""", re.IGNORECASE | re.VERBOSE
)

Line = tuple[int, FlashCallResult | NoResult]  # its number, and what it says


@click.command()
@click.option("--uuid", help="The call, as BetaTel named it.")
@click.option("--status", type=click.Choice(get_args(Status)), help="The call's status.")
@click.option("--file", help="CSV with the header uuid,status, or JSON lines; - is stdin.")
@click.pass_obj
def send(stack: Stack, *, uuid: str | None, status: str | None, file: str | None) -> int:
    """Put one result, or a file of results, on the result queue.

    The command checks the whole file first. If a line is bad, it sends nothing.
    """
    if file and not (uuid or status):
        results = read(file)
    elif uuid is not None and status and not file:
        content = parse_body(json.dumps({"uuid": uuid, "status": status}))
        if isinstance(content, NoResult):
            raise CommandError(f"{content.fault}.")
        results = {1: content}
    else:
        raise CommandError("Say what to send: --uuid and --status, or --file.")
    bodies = {f"line {line}": one.as_json() for line, one in results.items()}
    with progress("sent", len(results)) as tell:
        refused = RESULTS.of(stack).send(bodies, tell)
    complain(f"SQS refused {line}: {fault}" for line, fault in refused.items())
    click.echo(f"{count(len(results) - len(refused), 'result')} sent to the result queue of {stack.label}.")
    return 1 if refused else 0


def read(name: str) -> dict[int, FlashCallResult]:
    """Read a file of results (`-` is stdin); return them by their lines. A bad file or line ends the command."""
    lines = _lines(name)
    results, first, bad = dict[int, FlashCallResult](), dict[str, int](), dict[int, str]()
    for number, said in lines:
        if isinstance(said, NoResult):
            bad[number] = said.fault.replace("the body", "the line")
        elif (earlier := first.setdefault(said.uuid, number)) == number:
            results[number] = said
        elif (status := results[earlier].status) != said.status:
            bad[number] = f"contradicts line {earlier}, which says {status}; a call has one status"
    complain(f"line {number}: {fault}" for number, fault in bad.items())
    if bad:
        unusable = f"{len(bad):,} of {count(len(lines), 'line')} can't be used"
        raise CommandError(f"Nothing was done: {unusable}. Correct or delete them.")
    if not results:
        raise CommandError(f"{name} has no results: expected CSV with the header uuid,status, or JSON lines.")
    if repeated := len(lines) - len(results):
        click.echo(f"{count(repeated, 'repeated line')} left out.", err=True)
    return results


def _lines(name: str) -> list[Line]:
    try:
        with click.open_file(name, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise CommandError(f"{name} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise CommandError(f"{name} is not UTF-8 text (line {line}): save it as UTF-8.") from None
    if text.lstrip()[:1] == "{":
        return [(number, parse_body(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return list(_csv_rows(name, text))


def _csv_rows(name: str, text: str) -> Iterator[Line]:
    rows, number = csv.reader(io.StringIO(text, newline=""), strict=True), 0
    try:
        header = [column.strip().lower() for column in next(rows, COLUMNS)]
        if any(header.count(column) != 1 for column in COLUMNS):
            raise CommandError(f"{name} has no header: its first line must be uuid,status, or name both among others.")
        for row in rows:
            number = rows.line_num
            cells = {key: cell.strip() for key, cell in zip(header, row, strict=False) if key in COLUMNS}
            if NO_UUID.fullmatch(made := cells.get("uuid", "")):
                fault = f"a spreadsheet made {made} of the uuid: format the column as text, and export it"
                yield number, NoResult(fault)
            elif any(map(str.strip, row)):
                yield number, parse_body(json.dumps(cells))
    except csv.Error:
        raise CommandError(f"{name} is not valid CSV after line {number}: check the quotes there.") from None
