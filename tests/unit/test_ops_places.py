"""Times as people write them, whether to go ahead, and what was done."""

import io
import sys
from datetime import UTC, datetime

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ops import show
from ops.places import Moment, go_ahead, sum_up
from ops.problems import Problem

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()


def convert(text: object) -> float:
    """What the option makes of it."""
    return Moment().convert(text, None, None)


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
def test_dates_and_times(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time would be read in the zone of the operator's machine, and a replay take the wrong messages."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert convert(text) == NOON


def test_a_day_begins_at_midnight_utc() -> None:
    """A day's messages could not be chosen by its date."""
    assert convert("2026-11-22") == NOON - 12 * 3600


@pytest.mark.parametrize(
    ("text", "seconds"), [("0d", 0), ("90min", 5400), ("90 min", 5400), ("6h", 21_600), ("2d", 172_800)]
)
def test_so_long_ago(text: str, seconds: int) -> None:
    """A replay of the last hours would take more or less than those."""
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
def test_what_is_no_time(text: str) -> None:
    """A wrong time would choose all messages or none, or end in a traceback."""
    with pytest.raises(click.BadParameter, match="is neither so long ago"):
        convert(text)


@example("99999d")
@example("99999 h")
@example("0001-01-01")
@example("0001-01-01T00:00+14:00")
@example("9999-12-31T23:59:59.999999-14:00")
@given(
    st.datetimes(timezones=st.none() | st.timezones()).map(datetime.isoformat)
    | st.text(st.characters(exclude_categories=()))
    | st.from_regex(r"\d{1,6} ?(min|h|d)", fullmatch=True)
)
def test_every_time_can_be_shown_and_given_to_aws(text: str) -> None:
    """A time long past or far ahead would end in a traceback, or AWS refuse it."""
    try:
        at = convert(text)
    except click.BadParameter:
        return
    assert at >= 0
    assert datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") == show.moment(at)


def test_a_default_is_read_once() -> None:
    """A command with a default time would end in a traceback."""
    assert convert(NOON) == NOON


class TestGoAhead:
    """Whether it is to be done."""

    @pytest.mark.parametrize(
        ("dry_run", "yes", "expected"), [(True, False, False), (True, True, False), (False, True, True)]
    )
    def test_without_a_question(self, *, dry_run: bool, yes: bool, expected: bool) -> None:
        """A dry run would delete, or a script hang on a question."""
        assert go_ahead("Delete?", dry_run=dry_run, yes=yes) is expected

    def test_nobody_to_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a pipe happens to hold would be taken for a yes."""
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
        with pytest.raises(Problem, match="add --yes, or --dry-run"):
            go_ahead("Delete?", dry_run=False, yes=False)


@pytest.mark.parametrize(
    ("deleted", "refused", "status", "says"),
    [
        ({"a", "b"}, {}, 0, ""),
        ({"a"}, {}, 1, "1 message left: 0 refused by SQS, 1 taken by somebody else or not deleted."),
        ({"a"}, {"b": "TooLong why"}, 1, "SQS refused b: TooLong why\n1 message left: 1 refused by SQS, 0 taken"),
    ],
)
def test_what_is_left_is_said(
    deleted: set[str], refused: dict[str, str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script would take a replay for complete that is not."""
    assert sum_up("replayed", 2, deleted, refused) == status
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{len(deleted)} message")
    assert captured.err.startswith(says)
    assert bool(captured.err) == bool(says)
