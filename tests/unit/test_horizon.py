"""The retry horizon of the template as it is: 24 hours, proven."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay import policy
from flash_call_relay.settings import Settings
from tests.template import defaults, environment, template

SETTINGS = Settings.from_environment(environment(defaults()))
RESULT_QUEUE = template()["Resources"]["ResultQueue"]["Properties"]
FUNCTION_TIMEOUT_S = template()["Resources"]["RelayFunction"]["Properties"]["Timeout"]


def gaps_s(settings: Settings, receive: int, jitter: float) -> tuple[int, int]:
    """Return how soon a message can come back after a receive: hidden by the relay, or left to the queue."""
    return policy.schedule_s(settings, receive, jitter), settings.visibility_timeout_seconds


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


@given(data=st.data())
def test_no_sequence_of_receives_is_faster(data: st.DataObject) -> None:
    """Hides that fail, kills and throttles, in whatever order, would use the receives up sooner than reckoned."""
    receives = SETTINGS.max_receive_count
    hidden = data.draw(st.lists(st.booleans(), min_size=receives - 1, max_size=receives - 1))
    jitter = data.draw(st.floats(*policy.JITTER))
    age_s = sum(gaps_s(SETTINGS, n, jitter)[0 if by_relay else 1] for n, by_relay in enumerate(hidden, start=1))
    assert age_s >= policy.earliest_exhaustion_s(SETTINGS)


def test_the_last_receive_comes_after_the_horizon_and_before_the_message_expires() -> None:
    """A result would expire in the queue, unseen, before the relay gives it up."""
    longest_gap_s = max(max(gaps_s(SETTINGS, n, policy.JITTER[1])) for n in range(1, SETTINGS.max_receive_count))
    longest_gap_s = max(longest_gap_s, policy.MAX_RETRY_AFTER_S) + FUNCTION_TIMEOUT_S
    assert SETTINGS.retry_horizon_seconds + longest_gap_s < RESULT_QUEUE["MessageRetentionPeriod"]
    longest_horizon_s = template()["Parameters"]["RetryHorizonSeconds"]["MaxValue"]
    assert longest_horizon_s + 3600 * policy.JITTER[1] + FUNCTION_TIMEOUT_S < RESULT_QUEUE["MessageRetentionPeriod"]


def test_a_waiting_result_is_tried_within_twenty_minutes() -> None:
    """Results would wait on long after the endpoint has recovered."""
    waits_s = [max(gaps_s(SETTINGS, n, policy.JITTER[1])) for n in range(1, SETTINGS.max_receive_count + 1)]
    assert max(*waits_s, policy.MAX_RETRY_AFTER_S) + FUNCTION_TIMEOUT_S <= 20 * 60


@pytest.mark.parametrize(
    "broken",
    [
        replace(SETTINGS, max_receive_count=150),
        replace(SETTINGS, retry_cap_seconds=200),
        replace(SETTINGS, visibility_timeout_seconds=200),
        replace(SETTINGS, retry_horizon_seconds=2 * 86_400),
    ],
    ids=["receives", "cap", "visibility", "horizon"],
)
def test_a_changed_number_breaks_the_proof(broken: Settings) -> None:
    """Somebody could change a number and nobody would notice that the promise is gone."""
    assert policy.earliest_exhaustion_s(broken) < broken.retry_horizon_seconds
