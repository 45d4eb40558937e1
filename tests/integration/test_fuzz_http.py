"""Whole HTTP answers on a real connection: the saved cases of the fuzzer, and random ones."""

import pytest

from tests.fuzz.replay import check_random, check_saved
from tests.fuzz.targets import cases


@pytest.mark.parametrize("name", cases("http"))
def test_a_saved_answer_keeps_every_promise(name: str) -> None:
    """A fixed bug would come back: an endless attempt, a spoilt connection, or a credential in the log."""
    check_saved("http", name)


def test_a_random_answer_keeps_every_promise() -> None:
    """An unforeseen answer would crash an attempt, spoil the next one, or show a credential."""
    check_random("http")
