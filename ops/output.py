"""What a person reads and answers: tables, progress, numbers, times, and the question before a change."""

import contextlib
import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ops.errors import CommandError

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
LEAST_LAST_COLUMN = 20  # characters

Tell = Callable[[int], object]  # takes the number done so far


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print rows under their columns; align the columns named in `right` to the right.

    The last column wraps to the width of a terminal. Without a terminal each row is one line.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    sides = [str.rjust if name in right else str.ljust for name in columns]
    for number, (*cells, last) in enumerate(texts):
        start = "".join(f"{side(cell, width)}  " for side, cell, width in zip(sides, cells, widths, strict=False))
        paragraph(last, start, " " * len(start), bold=True if number == 0 else None)


def paragraph(text: str, start: str = "", indent: str = "", *, bold: bool | None = None) -> None:
    """Print text after `start`; on a terminal, wrap it between words, and indent the lines after the first."""
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    width = max(limit, len(start) + LEAST_LAST_COLUMN)
    lines = textwrap.wrap(
        text, width, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    for line in lines or [start]:
        click.secho(line.rstrip(), bold=bold)


@contextlib.contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the number done on stderr if that is a terminal; yield a function that takes the number.

    If an error or Ctrl-C ends the work, the number is printed.
    """
    moves = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), disable=not moves, transient=True) as bar:
        task = bar.add_task(title, total=total)
        try:
            yield lambda done: bar.update(task, completed=done)
        except BaseException:
            if total and (done := bar.tasks[task].completed):
                bar.stop()
                click.echo(f"At least {done:,.0f} of {total:,} {title}.", err=True)
            raise


def complain(faults: Iterable[str]) -> None:
    """Print the first 20 faults on standard error, a line each."""
    for fault in itertools.islice(faults, 20):
        click.echo(fault.rstrip(), err=True)


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def timestamp(at: float) -> str:
    """Return a time in seconds since the epoch as UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """Return a duration in whole units of the largest that it holds twice."""
    for size, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


def confirmed(question: str, *, yes: bool) -> bool:
    """Return whether to make a change; ask unless --yes is given."""
    if not yes and not sys.stdin.isatty():
        raise CommandError("No terminal to ask on: look with `list` first, then add --yes.")
    return yes or click.confirm(question)
