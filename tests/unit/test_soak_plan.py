"""A seed repeats a soak: the results it sends, and the time of each fault."""

from collections import Counter
from itertools import islice

import pytest

from local.soak.faults import FUNCTION_FAULTS, schedule
from local.soak.plan import Plan

EARLY = 60  # the calls of an operation, or the invocations, in a soak of 300 results


def planned(seed: str, count: int = 1000) -> list[tuple[str, list[int | str]]]:
    """Return the messages of a plan, and the endpoint's behaviours for each."""
    plan = Plan.of(count, seed, "http://127.0.0.1/")
    return [(item.text, [one.name for one in item.behaviours]) for item in (*plan.first, *plan.late)]


def test_a_seed_repeats_the_plan_and_the_faults() -> None:
    """An engineer could not repeat the soak that found a bug."""
    assert planned("seed") == planned("seed") != planned("another")
    first, again, other = (
        list(islice(schedule(seed, FUNCTION_FAULTS, 0.1, 3), 500)) for seed in ("seed", "seed", "another")
    )
    assert first == again != other


@pytest.mark.parametrize("count", [300, 10_000])
def test_a_plan_has_the_requested_number_of_results(count: int) -> None:
    """A soak would test fewer results than it reports."""
    assert len(planned("seed", count)) == pytest.approx(count, rel=0.05)


@pytest.mark.parametrize("most", [1, 3])
def test_each_fault_occurs_early_and_again(most: int) -> None:
    """A short soak would meet some faults by luck only, and a long one each of them once."""
    assert set(islice(schedule("seed", FUNCTION_FAULTS, 0.0, most), EARLY)) == {None, *FUNCTION_FAULTS}
    later = Counter(islice(schedule("seed", FUNCTION_FAULTS, 0.1, most), EARLY, 3000))
    assert all(later[fault] > 3 for fault in FUNCTION_FAULTS)
    assert later[None] > 2000
