"""Times as people write them, and the question before a change."""

import io
import sys
from datetime import UTC, datetime

import click
import pytest

from ops.errors import CommandError
from ops.options import Time, confirmed

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-22T12:00", NOON),
        ("2026-11-22T13:00+01:00", NOON),
        ("2026-11-22", NOON - 12 * 3600),
        ("0001-01-01T00:00+14:00", 0),
        ("99999d", 0),
    ],
)
def test_a_time_is_read(text: str, at: float) -> None:
    """A command would search another time, or AWS would refuse it."""
    assert Time().convert(text, None, None) == at


@pytest.mark.parametrize(("text", "seconds"), [("0d", 0), ("90min", 5400), ("6h", 21_600), ("2d", 172_800)])
def test_a_duration_counts_back_from_now(text: str, seconds: int) -> None:
    """A search of the last hours would find older lines, or too few."""
    before = datetime.now(UTC).timestamp()
    assert before - 1e-3 <= Time().convert(text, None, None) + seconds <= datetime.now(UTC).timestamp() + 1e-3


@pytest.mark.parametrize("text", ["", "2", "2w", "-2d", "2.5h", "yesterday", "2026-13-01", "12:00", "\udcff"])
def test_text_that_is_not_a_time_is_refused(text: str) -> None:
    """A mistyped time would search everything, or end in a traceback."""
    with pytest.raises(click.BadParameter, match="is neither a duration"):
        Time().convert(text, None, None)


@pytest.mark.parametrize(
    ("dry_run", "yes", "expected"), [(True, False, False), (True, True, False), (False, True, True)]
)
def test_dry_run_and_yes_answer_without_a_question(*, dry_run: bool, yes: bool, expected: bool) -> None:
    """A dry run would delete messages, or a script would hang on a question."""
    assert confirmed("Delete?", dry_run=dry_run, yes=yes) is expected


def test_without_a_terminal_nothing_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command would read a pipe's content as a yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(CommandError, match="add --yes, or --dry-run"):
        confirmed("Delete?", dry_run=False, yes=False)
