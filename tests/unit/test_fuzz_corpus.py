"""Message bodies, trigger events, replies and `Retry-After` headers: the saved cases of the fuzzer, and random ones."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, cases, words


@pytest.mark.parametrize(("target", "name"), [(target, name) for target in TARGETS for name in cases(target)])
def test_a_saved_input_keeps_every_promise(target: str, name: str) -> None:
    """A fixed bug would come back: a failing batch, a false confirmation, or a credential in the log."""
    TARGETS[target](cases(target)[name])


def spliced(data: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    """Return the data with each word written over what stands at its place."""
    for at, word in edits:
        start = at % (len(data) + 1)
        data = data[:start] + word + data[start + at % 3 * len(word) :]
    return data


@pytest.mark.parametrize("target", TARGETS)
def test_a_random_input_keeps_every_promise(target: str) -> None:
    """An unforeseen input would fail a batch, confirm a result falsely, or show a credential."""
    edits = st.lists(
        st.tuples(st.integers(0, 4096), st.sampled_from(words(target)) | st.binary(max_size=4)), max_size=5
    )
    inputs = st.builds(spliced, st.sampled_from([*cases(target).values()]), edits) | st.binary(max_size=200)
    check = given(inputs)(TARGETS[target])
    settings(max_examples=200, phases=set(Phase) - {Phase.shrink, Phase.explain})(check)()
