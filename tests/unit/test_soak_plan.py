"""A seed repeats a soak: the results it sends, and the time of each fault."""

from collections import Counter
from itertools import islice

import pytest

from local.soak.function_faults import FunctionFault
from local.soak.plan import Plan, fault_schedule

KINDS = [*FunctionFault]
EARLY = 60  # the calls of an operation, or the invocations, in a soak of 300 results


def test_a_seed_repeats_the_plan() -> None:
    """An engineer could not repeat the soak that found a bug."""
    plan = Plan.of(1000, "seed", "http://127.0.0.1/")
    again, other = (Plan.of(1000, seed, "http://127.0.0.1/") for seed in ("seed", "another"))
    texts = [item.text for item in plan.items]
    assert texts == [item.text for item in again.items]
    names = [[behaviour.name for behaviour in item.behaviours] for item in plan.items]
    assert names == [[behaviour.name for behaviour in item.behaviours] for item in again.items]
    assert texts != [item.text for item in other.items]


def test_a_plan_has_the_requested_number_of_results() -> None:
    """A soak would test fewer results than it reports."""
    for count in (300, 10_000):
        sent = len(Plan.of(count, "seed", "").items)
        assert abs(sent - count) <= count * 0.05


def test_a_seed_repeats_the_faults() -> None:
    """An engineer could not repeat the soak that found a bug."""
    first, again, other = (list(islice(fault_schedule(s, KINDS, 0.1, 3), 500)) for s in ("seed", "seed", "another"))
    assert first == again
    assert first != other


@pytest.mark.parametrize("most", [1, 3])
def test_each_fault_occurs_early_and_again(most: int) -> None:
    """A short soak would meet some faults by luck only, and a long one each of them once."""
    assert set(islice(fault_schedule("seed", KINDS, 0.0, most), EARLY)) == {None, *KINDS}
    later = Counter(islice(fault_schedule("seed", KINDS, 0.1, most), EARLY, 3000))
    assert all(later[fault] > 3 for fault in KINDS)
    assert later[None] > 2000
