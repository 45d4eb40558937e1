"""The tests of one fuzzing target: its saved cases, and random inputs."""

import tracemalloc

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets

MAX_PEAK_BYTES = 8 * 1024 * 1024  # many times the largest reply


def check_saved(target: str, name: str) -> None:
    """Run a target on a saved case, within bounded memory."""
    tracemalloc.start()
    try:
        targets.TARGETS[target](targets.cases(target)[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES


def check_random(target: str) -> None:
    """Run a target on random inputs, many of them pieced together from its tokens and saved cases."""
    pieces = st.sampled_from(targets.tokens(target)) | st.sampled_from([*targets.cases(target).values()])
    inputs = st.lists(pieces | st.binary(max_size=4), max_size=12).map(b"".join)

    @settings(max_examples=200, phases=set(Phase) - {Phase.shrink, Phase.explain})
    @given(inputs | st.binary(max_size=200))
    def check(data: bytes) -> None:
        targets.TARGETS[target](data)

    check()
