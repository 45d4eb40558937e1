"""Whatever comes in from outside: the saved cases of `tests/fuzz/corpus/`, and random ones beside them."""

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets

MAX_PEAK_BYTES = 8 * 1024 * 1024  # many times what the largest reply may hold
SAVED = [(target, name) for target in targets.TARGETS for name in targets.cases(target)]


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
    targets.TARGETS[target](targets.cases(target)[name])


@pytest.mark.parametrize("target", targets.TARGETS)
def test_a_random_case_keeps_every_promise(target: str) -> None:
    """Something that nobody thought of would fail a batch, confirm what is not confirmed, or show a credential."""
    pieces = st.sampled_from(targets.tokens(target)) | st.sampled_from([*targets.cases(target).values()])
    inputs = st.lists(pieces | st.binary(max_size=4), max_size=12).map(b"".join)

    @settings(deadline=None, max_examples=200, phases=set(Phase) - {Phase.shrink, Phase.explain})
    @given(inputs | st.binary(max_size=200))
    def check(data: bytes) -> None:
        targets.TARGETS[target](data)

    check()
