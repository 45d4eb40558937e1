"""What a person reads."""

import pytest

from ops import show


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
def test_spans(seconds: float, text: str) -> None:
    """A message would seem to have longer to live than it has."""
    assert show.span(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 results"), (1, "1 result"), (2, "2 results"), (1_234_567, "1,234,567 results")]
)
def test_counts(number: int, text: str) -> None:
    """A million would be taken for a hundred thousand."""
    assert show.count(number, "result") == text


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_763_800_000.999, "2025-11-22T08:26:40Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ],
)
def test_moments(at: float, text: str) -> None:
    """The times of a story would not compare with those of the logs."""
    assert show.moment(at) == text


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures could not be compared at a glance, or lines would end in blanks."""
    show.table(("what", "n", "why"), [("a", 7, None), ("longer", "1,234", "x"), (None, 0, "")], right=("n",))
    assert capsys.readouterr().out.split("\n") == [
        "what        n  why",
        "a           7",
        "longer  1,234  x",
        "            0",
        "",
    ]


def test_an_empty_table_has_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """A command with nothing to show would end in a traceback."""
    show.table(("what", "n"), [])
    assert capsys.readouterr().out == "what  n\n"


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A script's log would be full of bars."""
    for total in (None, 0, 3):
        with show.progress("doing", total) as tell:
            tell(1)
            tell(3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
