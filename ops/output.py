"""Text for people: tables, progress bars, numbers and times. click and rich leave colours out without a terminal."""

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
GAP, INDENT = "  ", "    "
LEAST_LAST_COLUMN = 20  # characters; a narrower last column moves to a line of its own


def on_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print rows under their columns; align the columns named in `right` to the right.

    On a terminal that is too narrow, the last column wraps, and the columns that do not fit follow on an indented line.
    Without a terminal each row is one line.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    lines = [list(range(len(columns)))]
    if sys.stdout.isatty():
        lines = _fit(widths, shutil.get_terminal_size().columns)
    for row in (columns, *texts):
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        cells[-1], *wrapped = textwrap.wrap(row[-1], widths[-1], break_on_hyphens=False) or [""]
        for number, line in enumerate(lines):
            text = (INDENT if number else "") + GAP.join(cells[one] for one in line)
            _print_line(text, bold=row is columns)
        before_last = len(text) - len(cells[-1])
        for more in wrapped:
            _print_line(" " * before_last + more, bold=row is columns)


def _fit(widths: list[int], limit: int) -> list[list[int]]:
    """Return the columns of each line of a row; narrow the last column to what is left of its line."""
    lines, used = [[0]], widths[0]
    for column, width in list(enumerate(widths))[1:]:
        least = min(width, LEAST_LAST_COLUMN) if column == len(widths) - 1 else width
        if used + len(GAP) + least <= limit:
            lines[-1].append(column)
            used += len(GAP) + width
        else:
            lines.append([column])
            used = len(INDENT) + width
    widths[-1] = max(1, min(widths[-1], widths[-1] + limit - used))
    return lines


def _print_line(text: str, *, bold: bool) -> None:
    click.secho(text.rstrip(), bold=True if bold else None)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return the rate of a task, empty until it is known."""
        return Text(f"{task.speed:,.0f} per s" if task.speed else "")


@contextlib.contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show number done, rate and time left on stderr if that is a terminal; yield a function that takes the number."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), disable=not on_terminal(sys.stderr), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


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
