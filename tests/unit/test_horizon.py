"""The retry horizon of the template as it is: 24 hours, proven; and fresh results tried every minute."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay import policy
from flash_call_relay.gate import BLOCK_S
from flash_call_relay.settings import Settings
from tests.support.template import default_settings, defaults, template

PARAMETERS = template()["Parameters"]
SETTINGS = default_settings()
RESULT_QUEUE = template()["Resources"]["ResultQueue"]["Properties"]
FUNCTION_TIMEOUT_S = template()["Resources"]["RelayFunction"]["Properties"]["Timeout"]


def allowed(name: str) -> st.SearchStrategy[int]:
    """Return the values that the template allows for a parameter; its bounds and its default often."""
    parameter = PARAMETERS[name]
    least, most = parameter["MinValue"], parameter["MaxValue"]
    return st.sampled_from([least, most, parameter["Default"]]) | st.integers(least, most)


STACKS = st.builds(
    replace,
    st.just(SETTINGS),
    retry_base_seconds=allowed("RetryBaseSeconds"),
    retry_cap_seconds=allowed("RetryCapSeconds"),
    fresh_seconds=allowed("FreshSeconds"),
    fresh_retry_cap_seconds=allowed("FreshRetryCapSeconds"),
    retry_horizon_seconds=allowed("RetryHorizonSeconds"),
    max_receive_count=allowed("MaxReceiveCount"),
)


def receives(settings: Settings, jitter: float, at_most_s: float = math.inf) -> Iterator[float]:
    """Yield the age at each receive in an outage without end, with delays of at most so much."""
    age_s = 0.0
    for receive in range(1, settings.max_receive_count + 1):
        yield age_s
        age_s += min(policy.schedule_s(settings, receive, age_s, jitter), at_most_s)


def test_the_function_knows_the_queue() -> None:
    """The warning about a schedule that is too short would rest on another number than the queue's."""
    assert SETTINGS.visibility_timeout_seconds == RESULT_QUEUE["VisibilityTimeout"]
    assert RESULT_QUEUE["RedrivePolicy"]["maxReceiveCount"] == {"Ref": "MaxReceiveCount"}
    assert int(defaults()["MaxReceiveCount"]) == SETTINGS.max_receive_count


def test_the_horizon_is_a_day() -> None:
    """Results would be given up sooner than promised."""
    assert SETTINGS.retry_horizon_seconds == 24 * 3600


def test_receives_do_not_run_out_before_the_horizon() -> None:
    """SQS would dead-letter a good result while the relay still means to try it."""
    assert policy.earliest_exhaustion_s(SETTINGS) >= SETTINGS.retry_horizon_seconds


def test_what_a_day_of_outage_uses_of_the_receives() -> None:
    """docs/delivery.md would give other figures than those that the proof rests on."""
    for jitter, fresh, later in ((policy.JITTER[0], 77, 115), (1.0, 62, 92)):
        ages_s = [age_s for age_s in receives(SETTINGS, jitter) if age_s < SETTINGS.retry_horizon_seconds]
        assert sum(age_s < SETTINGS.fresh_seconds for age_s in ages_s) == fresh
        assert len(ages_s) == fresh + later
    # Where each hide fails that is longer than the queue's own time-out, 400 s come in place of 720.
    worst = receives(SETTINGS, policy.JITTER[0], at_most_s=SETTINGS.visibility_timeout_seconds)
    assert sum(age_s < SETTINGS.retry_horizon_seconds for age_s in worst) == 284


@given(
    settings=STACKS,
    jitters=st.lists(st.sampled_from([*policy.JITTER, 1.0]), min_size=1, max_size=7),
    hides=st.lists(st.booleans(), min_size=1, max_size=11),
    works_s=st.sampled_from([0, 1, FUNCTION_TIMEOUT_S]),
)
def test_no_sequence_of_receives_is_faster_than_reckoned_in_any_allowed_stack(
    settings: Settings, jitters: list[float], hides: list[bool], works_s: int
) -> None:
    """Hides that fail, kills and throttles, in whatever order, would use the receives up without a warning."""
    age_s = 0.0
    for receive in range(1, settings.max_receive_count):
        delay_s = policy.schedule_s(settings, receive, age_s, jitters[receive % len(jitters)])
        hidden = hides[receive % len(hides)]
        age_s += works_s + (delay_s if hidden else settings.visibility_timeout_seconds)
    assert age_s >= policy.earliest_exhaustion_s(settings)  # below its horizon, the function warns when it starts


def test_the_last_receive_comes_after_the_horizon_and_before_the_message_expires() -> None:
    """A result would expire in the queue, unseen, before the relay gives it up."""
    longest_cap_s = max(PARAMETERS[name]["MaxValue"] for name in ("RetryCapSeconds", "FreshRetryCapSeconds"))
    longest_gap_s = max(longest_cap_s * policy.JITTER[1], policy.MAX_RETRY_AFTER_S) + FUNCTION_TIMEOUT_S
    longest_horizon_s = PARAMETERS["RetryHorizonSeconds"]["MaxValue"]
    assert longest_horizon_s + longest_gap_s < RESULT_QUEUE["MessageRetentionPeriod"]


@pytest.mark.parametrize(("age_s", "limit_s"), [(0, 120), (3600, 20 * 60)], ids=["fresh", "old"])
def test_a_waiting_result_is_tried_soon_after_the_endpoint_is_back(age_s: int, limit_s: int) -> None:
    """Results would wait on long after the recovery, and be confirmed when they no longer count."""
    longest_s = max(policy.schedule_s(SETTINGS, n, age_s, policy.JITTER[1]) for n in range(1, 301))
    # At worst it comes up just before the gate lets a probe through, and so once more in vain.
    gate_s = max(BLOCK_S, SETTINGS.request_timeout_seconds)
    assert gate_s + longest_s <= limit_s


@pytest.mark.parametrize(
    "broken",
    [
        replace(SETTINGS, max_receive_count=150),
        replace(SETTINGS, retry_cap_seconds=200),
        replace(SETTINGS, fresh_seconds=7200),
        replace(SETTINGS, fresh_retry_cap_seconds=40),
        replace(SETTINGS, visibility_timeout_seconds=200),
        replace(SETTINGS, retry_horizon_seconds=2 * 86_400),
    ],
    ids=["receives", "cap", "fresh", "fresh cap", "visibility", "horizon"],
)
def test_a_changed_number_breaks_the_proof(broken: Settings) -> None:
    """Somebody could change a number and nobody would notice that the promise is gone."""
    assert policy.earliest_exhaustion_s(broken) < broken.retry_horizon_seconds
