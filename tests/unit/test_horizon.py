"""The template's numbers keep the retry horizon of 24 hours, and try fresh results every minute."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay import policy
from flash_call_relay.gate import BLOCK_S
from flash_call_relay.models import Deferred, FlashCallResult, Judgement, Reason, Record
from flash_call_relay.reply import MAX_RETRY_AFTER_S
from flash_call_relay.settings import Settings
from ops.doctor import earliest_exhaustion_s
from ops.queues import RECEIVES, VISIBILITY_S
from tests.support.template import default_settings, template

PARAMETERS = template()["Parameters"]
SETTINGS = default_settings()
RESULT = FlashCallResult("call", "Success")
RESULT_QUEUE = template()["Resources"]["ResultQueue"]["Properties"]
FUNCTION_TIMEOUT_S = template()["Resources"]["RelayFunction"]["Properties"]["Timeout"]


def allowed(name: str) -> st.SearchStrategy[int]:
    """Return the values that the template allows for a parameter, often its bounds and its default."""
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
)


def test_the_horizon_is_24_hours_and_receives_do_not_run_out_before_it() -> None:
    """The relay would give up results sooner than promised, or SQS would dead-letter good ones."""
    assert SETTINGS.retry_horizon_seconds == 24 * 3600
    assert earliest_exhaustion_s(SETTINGS) >= SETTINGS.retry_horizon_seconds
    assert RESULT_QUEUE["VisibilityTimeout"] == VISIBILITY_S
    assert RESULT_QUEUE["RedrivePolicy"]["maxReceiveCount"] == RECEIVES


def test_a_day_of_outage_uses_192_receives_77_of_them_in_the_first_hour() -> None:
    """docs/delivery.md would give wrong figures."""
    ages_s = [0]
    while ages_s[-1] < SETTINGS.retry_horizon_seconds:
        ages_s.append(ages_s[-1] + policy.schedule_s(SETTINGS, len(ages_s), ages_s[-1], policy.JITTER[0]))
    assert (len(ages_s) - 1, sum(age_s < SETTINGS.fresh_seconds for age_s in ages_s)) == (192, 77)


@given(
    settings=STACKS,
    jitters=st.lists(st.sampled_from([*policy.JITTER, 1.0]), min_size=1, max_size=7),
    hides=st.lists(st.booleans(), min_size=1, max_size=11),
    waits_s=st.lists(st.none() | st.floats(0, MAX_RETRY_AFTER_S), min_size=1, max_size=5),
    works_s=st.sampled_from([0, 1, FUNCTION_TIMEOUT_S]),
)
def test_no_sequence_of_receives_in_any_allowed_stack_runs_out_before_the_computed_time(
    settings: Settings, jitters: list[float], hides: list[bool], waits_s: list[float | None], works_s: int
) -> None:
    """Failed hides, kills and requests to wait in some order would use up the receives without a warning."""
    age_s, never = 0.0, replace(settings, retry_horizon_seconds=10**9)
    for receive in range(1, RECEIVES):
        held = Judgement(Reason.THROTTLED, "held", wait_s=waits_s[receive % len(waits_s)])
        record, jitter = Record("id", "handle", "body", 0.0, receive, RESULT), jitters[receive % len(jitters)]
        outcome = policy.decide(never, record, RESULT, held, now=age_s, jitter=jitter)
        assert isinstance(outcome, Deferred)
        assert outcome.retry_in_s is not None
        hidden = hides[receive % len(hides)]
        age_s += works_s + (outcome.retry_in_s if hidden else VISIBILITY_S)
    # `doctor` warns if this time is below the horizon.
    assert age_s >= earliest_exhaustion_s(settings)


def test_the_last_receive_comes_after_the_horizon_and_before_the_message_expires() -> None:
    """A result would expire in the queue, unseen, before the relay parks it."""
    longest_cap_s = max(PARAMETERS[name]["MaxValue"] for name in ("RetryCapSeconds", "FreshRetryCapSeconds"))
    longest_gap_s = max(longest_cap_s * policy.JITTER[1], MAX_RETRY_AFTER_S * 1.2) + FUNCTION_TIMEOUT_S
    longest_horizon_s = PARAMETERS["RetryHorizonSeconds"]["MaxValue"]
    assert longest_horizon_s + longest_gap_s < RESULT_QUEUE["MessageRetentionPeriod"]


@pytest.mark.parametrize(("age_s", "limit_s"), [(0, 120), (3600, 20 * 60)], ids=["fresh: 2 minutes", "old: 20 minutes"])
def test_a_waiting_result_is_tried_within_its_limit_after_a_recovery(age_s: int, limit_s: int) -> None:
    """BetaTel would get results so long after the recovery that they no longer count."""
    longest_s = max(policy.schedule_s(SETTINGS, n, age_s, policy.JITTER[1]) for n in range(1, 301))
    # At worst SQS returns it just before the gate admits a trial, so that it is deferred once more.
    gate_s = max(BLOCK_S, SETTINGS.request_timeout_seconds)
    assert gate_s + longest_s <= limit_s
