"""Tables, numbers and times for people."""

import re
from functools import partial

import pytest
from rich.console import Console

from ops import output
from tests.support.operator import terminal


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (0.99, "0 s"),
        (1, "1 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (2 * 86_400 - 1, "47 h"),
        (2 * 86_400, "2 d"),
        (14 * 86_400 - 1, "13 d"),
    ],
)
def test_a_duration_is_rounded_down_to_its_unit(seconds: float, text: str) -> None:
    """A message would expire before the time that the table shows."""
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 results"), (1, "1 result"), (2, "2 results"), (1_234_567, "1,234,567 results")]
)
def test_a_number_has_separators_and_the_right_plural(number: int, text: str) -> None:
    """An operator would misread a million as a hundred thousand."""
    assert output.count(number, "result") == text


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_763_800_000.999, "2025-11-22T08:26:40Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ],
)
def test_a_timestamp_is_utc_to_the_second(at: float, text: str) -> None:
    """The times of a story would differ from the times in the logs."""
    assert output.timestamp(at) == text


def test_a_table_aligns_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers in a column would not line up, or lines would end in blanks."""
    output.table(("what", "n", "why"), [("a", 7, None), ("longer", "1,234", "x"), (None, 0, "")], right=("n",))
    assert capsys.readouterr().out.split("\n") == [
        "what        n  why",
        "a           7",
        "longer  1,234  x",
        "            0",
        "",
    ]


def test_an_empty_table_shows_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """A command without rows would end in a traceback."""
    output.table(("what", "n"), [])
    assert capsys.readouterr().out == "what  n\n"


COLUMNS = ("since", "uuid", "detail")
ROW = ("2026-11-22T15:57:48Z", "01JV5V54KPYK9GB29265EQRZ4C", "HTTP 404 The flash call does not exist")


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (200, ["since                 uuid                        detail", "  ".join(ROW)]),
        (
            70,
            [
                "since                 uuid                        detail",
                "2026-11-22T15:57:48Z  01JV5V54KPYK9GB29265EQRZ4C  HTTP 404 The flash",
                "                                                  call does not exist",
            ],
        ),
        (
            60,
            [
                "since                 uuid",
                "    detail",
                "2026-11-22T15:57:48Z  01JV5V54KPYK9GB29265EQRZ4C",
                "    HTTP 404 The flash call does not exist",
            ],
        ),
    ],
)
def test_a_table_fits_the_terminal_and_loses_nothing(columns: int, lines: list[str]) -> None:
    """On a narrow terminal the columns would run into each other, or the reason of a failure would be cut."""
    with terminal("stdout", columns) as read:
        output.table(COLUMNS, [ROW])
        text = re.sub(r"\x1b\[\d*m", "", read())
    assert text.splitlines() == lines


@pytest.mark.parametrize("columns", ["1", "40"])
def test_a_piped_table_has_one_line_per_row(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`grep` and `awk` would see parts of rows."""
    monkeypatch.setenv("COLUMNS", columns)
    output.table(COLUMNS, [ROW])
    assert capsys.readouterr().out.splitlines()[1] == "  ".join(ROW)


def test_every_width_is_survived() -> None:
    """A table on a very narrow terminal would end in a traceback."""
    for columns in (1, 5, 21, 49, 53, 54, 69):
        with terminal("stdout", columns) as read:
            output.table(COLUMNS, [ROW])
            words = re.sub(r"\x1b\[\d*m|\s", "", read())
        assert words == "".join((*COLUMNS, *ROW)).replace(" ", "")


def test_progress_shows_the_number_done_and_the_rate_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator would not know how long a replay takes."""
    now = [1000.0]
    monkeypatch.setattr(output, "Console", partial(Console, get_time=lambda: now[-1]))
    with terminal("stderr", 120) as read, output.progress("to be replayed", 10) as tell:
        tell(1)
        now.append(1001.0)
        tell(3)
        read(r"to be replayed.*3/10.*2 per s.*0:00:04")


def test_progress_is_silent_on_a_terminal_without_a_cursor() -> None:
    """The output of an editor's shell would be full of control characters."""
    with terminal("stderr", TERM="dumb") as read:
        with output.progress("to be replayed", 10) as tell:
            tell(3)
        assert read() == ""


def test_no_color_leaves_the_colours_out() -> None:
    """An operator who set NO_COLOR would see colours."""
    with terminal("stderr", 120, NO_COLOR="1") as read, output.progress("to be replayed", 10) as tell:
        tell(3)
        text = read("3/10")
    assert not re.search(r"\x1b\[[\d;]*\b[349]\dm", text)


def test_progress_prints_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a script would be full of progress bars."""
    for total in (None, 0, 3):
        with output.progress("doing", total) as tell:
            tell(1)
            tell(3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
