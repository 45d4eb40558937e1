"""A seed repeats a soak: the results it sends, and the time of each fault."""

from collections import Counter
from itertools import islice

from local.soak.faults import FAULTS, fault_schedule
from local.soak.plan import Plan
from local.soak.strikes import Strike, strike_schedule

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
    for operation in FAULTS:
        first, again, other = (
            list(islice(fault_schedule(s, operation, 0.1), 500)) for s in ("seed", "seed", "another")
        )
        assert first == again
        assert first != other
    strikes, same = (list(islice(strike_schedule("seed", 0.1), 500)) for _ in range(2))
    assert strikes == same


def test_each_fault_occurs_early_and_again() -> None:
    """A short soak would meet some faults by luck only, and a long one each of them once."""
    for operation, faults in FAULTS.items():
        assert set(islice(fault_schedule("seed", operation, 0.0), EARLY)) == {None, *faults}
        later = Counter(islice(fault_schedule("seed", operation, 0.1), EARLY, 3000))
        assert all(later[fault] > 3 for fault in faults)
        assert later[None] > 2000
    assert set(islice(strike_schedule("seed", 0.0), EARLY)) == {None, *Strike}
    later_strikes = Counter(islice(strike_schedule("seed", 0.1), EARLY, 3000))
    assert all(later_strikes[strike] > 3 for strike in Strike)
