"""Message bodies, trigger events, replies and `Retry-After` headers: the saved cases of the fuzzer, and random ones."""

import pytest

from tests.fuzz.replay import check_random, check_saved
from tests.fuzz.targets import TARGETS, cases


@pytest.mark.parametrize(("target", "name"), [(target, name) for target in TARGETS for name in cases(target)])
def test_a_saved_input_keeps_every_promise(target: str, name: str) -> None:
    """A fixed bug would come back: a failing batch, a false confirmation, or a credential in the log."""
    check_saved(target, name)


@pytest.mark.parametrize("target", TARGETS)
def test_a_random_input_keeps_every_promise(target: str) -> None:
    """An unforeseen input would fail a batch, confirm a result falsely, or show a credential."""
    check_random(target)
