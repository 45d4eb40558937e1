"""Times as people write them, and the question before a change."""

import io
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ops.errors import CommandError
from ops.options import Time, confirmed
from ops.output import timestamp

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()
OFFSETS = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59))


def convert(text: object) -> float:
    """Return the value of the option."""
    return Time().convert(text, None, None)


@pytest.fixture
def _elsewhere() -> Iterator[None]:
    """Let this process be in another time zone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "NPT-5:45")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T12:00",
        "2026-11-22 12:00:00",
        "2026-11-22T12:00Z",
        "2026-11-22T12:00:00.000+00:00",
        "2026-11-22T13:00+01:00",
        "2026-11-21T22:00-14:00",
        "20261122T120000Z",
    ],
)
@pytest.mark.usefixtures("_elsewhere")
def test_a_time_without_an_offset_is_utc(text: str) -> None:
    """A replay would take the wrong messages on a machine in another time zone."""
    assert convert(text) == NOON


def test_a_date_is_its_midnight_in_utc() -> None:
    """An operator could not select the messages of one day."""
    assert convert("2026-11-22") == NOON - 12 * 3600


@pytest.mark.parametrize(
    ("text", "seconds"), [("0d", 0), ("90min", 5400), ("90 min", 5400), ("6h", 21_600), ("2d", 172_800)]
)
def test_a_duration_counts_back_from_now(text: str, seconds: int) -> None:
    """A replay of the last hours would take older messages, or too few."""
    before = datetime.now(UTC).timestamp()
    at = convert(text)
    assert before - 1e-3 <= at + seconds <= datetime.now(UTC).timestamp() + 1e-3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "2w",
        "2days",
        "d",
        "-2d",
        "2.5h",
        "99999999d",
        "yesterday",
        "2026-13-01",
        "12:00",
        "22.11.2026",
        "\udcff",
    ],
)
def test_text_that_is_not_a_time_is_refused(text: str) -> None:
    """A mistyped time would select all messages, or end in a traceback."""
    with pytest.raises(click.BadParameter, match="is neither a duration"):
        convert(text)


@example("99999d")
@example("99999 h")
@example("0001-01-01")
@example("0001-01-01T00:00+14:00")
@example("9999-12-31T23:59:59.999999-14:00")
@given(
    st.datetimes(timezones=st.none() | OFFSETS.map(timezone)).map(datetime.isoformat)
    | st.text(st.characters(exclude_categories=()))
    | st.from_regex(r"\d{1,6} ?(min|h|d)", fullmatch=True)
)
def test_every_accepted_time_can_be_printed_and_sent_to_aws(text: str) -> None:
    """A very early or late time would end in a traceback, or AWS would refuse it."""
    try:
        at = convert(text)
    except click.BadParameter:
        return
    assert at >= 0
    assert datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") == timestamp(at)


def test_a_converted_time_is_accepted_again() -> None:
    """A command with a default time would end in a traceback."""
    assert convert(NOON) == NOON


class TestConfirmed:
    """The question before a change."""

    @pytest.mark.parametrize(
        ("dry_run", "yes", "expected"), [(True, False, False), (True, True, False), (False, True, True)]
    )
    def test_dry_run_and_yes_answer_without_a_question(self, *, dry_run: bool, yes: bool, expected: bool) -> None:
        """A dry run would delete messages, or a script would hang on a question."""
        assert confirmed("Delete?", dry_run=dry_run, yes=yes) is expected

    def test_without_a_terminal_nothing_is_confirmed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command would read a pipe's content as a yes."""
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
        with pytest.raises(CommandError, match="add --yes, or --dry-run"):
            confirmed("Delete?", dry_run=False, yes=False)
