"""Tables, numbers and times for people."""

import pytest

from ops import output


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


def test_progress_prints_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a script would be full of progress bars."""
    for total in (None, 0, 3):
        with output.progress("doing", total) as tell:
            tell(1)
            tell(3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
