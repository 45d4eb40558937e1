"""Whatever comes in from outside: the saved cases of `tests/corpus/`, and random ones beside them."""

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests import fuzz_targets

MAX_PEAK_BYTES = 8 * 1024 * 1024  # many times what the largest reply may hold
SAVED = [(target, name) for target in fuzz_targets.TARGETS for name in fuzz_targets.cases(target)]


@pytest.fixture
def _bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES


@pytest.mark.usefixtures("_bounded_memory")
@pytest.mark.parametrize(("target", "name"), SAVED)
def test_a_saved_case_keeps_every_promise(target: str, name: str) -> None:
    """What was found once would come back: a batch that fails, a wrong confirmation, a credential in the log."""
    fuzz_targets.TARGETS[target](fuzz_targets.cases(target)[name])


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_a_random_case_keeps_every_promise(target: str) -> None:
    """Something that nobody thought of would fail a batch, confirm what is not confirmed, or show a credential."""
    pieces = st.sampled_from(fuzz_targets.tokens(target)) | st.sampled_from([*fuzz_targets.cases(target).values()])
    inputs = st.lists(pieces | st.binary(max_size=4), max_size=12).map(b"".join)

    @settings(deadline=None, max_examples=200, phases=set(Phase) - {Phase.shrink, Phase.explain})
    @given(inputs | st.binary(max_size=200))
    def check(data: bytes) -> None:
        fuzz_targets.TARGETS[target](data)

    check()
