"""Text for people: tables, progress bars, numbers and times. click and rich leave colours out without a terminal."""

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
GAP = "  "
LEAST_LAST_COLUMN = 20  # characters


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print rows under their columns; align the columns named in `right` to the right.

    The last column wraps to the width of a terminal. Without a terminal each row is one line.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    if sys.stdout.isatty():
        left = shutil.get_terminal_size().columns - sum(width + len(GAP) for width in widths[:-1])
        widths[-1] = min(widths[-1], max(LEAST_LAST_COLUMN, left))
    for row in (columns, *texts):
        sides = [str.rjust if name in right else str.ljust for name in columns]
        first, *more = textwrap.wrap(row[-1], widths[-1] or 1, break_on_hyphens=False) or [""]
        cells = [side(cell, width) for side, cell, width in zip(sides, (*row[:-1], first), widths, strict=True)]
        indent = " " * len(GAP.join((*cells[:-1], "")))
        for line in (GAP.join(cells), *(indent + line for line in more)):
            click.secho(line.rstrip(), bold=True if row is columns else None)


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


def paragraph(text: str, indent: str = "") -> None:
    """Print text; on a terminal, wrap it between words, and indent the lines after the first."""
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    wrapped = textwrap.wrap(text, limit, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    click.echo("\n".join(wrapped))
