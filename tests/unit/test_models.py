"""Text from outside becomes fit for SQS attributes and log lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay.text import printable


@given(st.text(st.characters(exclude_categories=())), st.integers(3, 300))
def test_any_text_becomes_1_to_limit_printable_characters(text: str, limit: int) -> None:
    """SQS would refuse to park a message because of its `detail`, and the message would circle for ever."""
    clean = printable(text, limit)
    assert 1 <= len(clean) <= limit
    assert all(" " <= character <= "~" for character in clean)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("HTTP 500 Oops", "HTTP 500 Oops"),
        ("", "-"),
        (" \t\r\n\x00\x7f", "-"),
        ("two\r\nlines", "two  lines"),
        ("caf\xe9 \U0001f4de \ud800", r"caf\xe9 \U0001f4de \ud800"),
        ("a" * 256, "a" * 256),
        ("a" * 257, "a" * 253 + "..."),
    ],
    ids=["plain", "empty", "control characters", "two lines", "not ASCII", "256 characters", "257 characters"],
)
def test_printable_text_stays_readable(text: str, clean: str) -> None:
    """An on-call engineer could not read what the endpoint said, or would not see that the text was cut."""
    assert printable(text) == clean
