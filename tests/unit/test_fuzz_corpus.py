"""Message bodies, trigger events, replies and `Retry-After` headers: the saved cases of the fuzzer, and random ones."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, cases, tokens


@pytest.mark.parametrize(("target", "name"), [(target, name) for target in TARGETS for name in cases(target)])
def test_a_saved_input_keeps_every_promise(target: str, name: str) -> None:
    """A fixed bug would come back: a failing batch, a false confirmation, or a credential in the log."""
    TARGETS[target](cases(target)[name])


@pytest.mark.parametrize("target", TARGETS)
def test_a_random_input_keeps_every_promise(target: str) -> None:
    """An unforeseen input would fail a batch, confirm a result falsely, or show a credential."""
    pieces = st.sampled_from([*tokens(target), *cases(target).values()]) | st.binary(max_size=4)
    inputs = st.lists(pieces, max_size=12).map(b"".join) | st.binary(max_size=200)
    check = given(inputs)(TARGETS[target])
    settings(max_examples=200, phases=set(Phase) - {Phase.shrink, Phase.explain})(check)()
