"""The gate, with a clock that the test moves."""

import inspect
import time
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any

import pytest

from flash_call_relay import budget
from flash_call_relay.budget import Deadline
from flash_call_relay.credentials import Credentials, CredentialsStore
from flash_call_relay.gate import OUT_OF_TIME, OVER_THE_LIMIT, Gate
from flash_call_relay.models import Judgement, Reason

AGAINST_ENDPOINT = [reason for reason in Reason if reason.against_endpoint]
PROOFS = [None, Reason.REJECTED, Reason.UNKNOWN_CALL, Reason.CONTRADICTED]  # of good credentials
OLD, NEW = Credentials("old", "user"), Credentials("new", "user")
FAR, OVER = Deadline(1e9), Deadline(0)
TIMEOUT_S = 0.5  # on the clock below; waiting for a trial takes real time
PATIENCE_S = 30
Clock = SimpleNamespace  # with `now`, in seconds


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still until a test moves it."""
    return Clock(now=1000.0)


@pytest.fixture
def gate(clock: Clock) -> Gate:
    """Return a new gate."""
    return Gate(TIMEOUT_S, clock=lambda: clock.now)


def refusal(gate: Gate, credentials: Credentials = NEW, end: Deadline = FAR) -> Reason | None:
    """Ask the gate to admit an attempt; return the reason if it does not, else None."""
    answer = gate.admit(credentials, end)
    return answer.reason if isinstance(answer, Judgement) else None


def learn(
    gate: Gate, reason: Reason | None, credentials: Credentials = NEW, *, trial: bool = False, **reply: Any
) -> None:
    """Tell the gate how an attempt ended."""
    gate.learn(Judgement(reason, "why", **reply), credentials, is_trial=trial)


def fail(gate: Gate, times: int, reason: Reason = Reason.ENDPOINT_ERROR) -> None:
    """Let `times` attempts fail that began before the gate closed."""
    for _ in range(times):
        learn(gate, reason)


@pytest.mark.parametrize("kind", [Gate, CredentialsStore])
def test_a_time_that_outlasts_an_invocation_is_of_the_wall_clock(kind: Any) -> None:
    """In an environment that Lambda keeps suspended, the gate would spare an endpoint for hours after its recovery."""
    assert inspect.signature(kind).parameters["clock"].default is time.time


@pytest.mark.parametrize(
    ("interval_s", "why"), [(0, OUT_OF_TIME), (10, OVER_THE_LIMIT)], ids=["the invocation ends", "a rate limit"]
)
def test_an_attempt_that_cannot_end_in_time_is_not_admitted(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, interval_s: float, why: Judgement
) -> None:
    """Lambda would kill the function, and its batch would come back; or the log would blame the time for a limit."""
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock.now))
    gate = Gate(TIMEOUT_S, interval_s, clock=lambda: clock.now)
    assert refusal(gate, end=Deadline(clock.now + TIMEOUT_S)) is None
    assert gate.admit(NEW, Deadline(clock.now + interval_s + TIMEOUT_S - 0.1)) == why


@pytest.mark.parametrize("reason", AGAINST_ENDPOINT)
def test_five_failures_in_a_row_block_the_endpoint_for_30_s(
    gate: Gate, clock: Clock, reason: Reason, reported: list[str]
) -> None:
    """The relay would keep sending to an endpoint that is down, and each invocation would wait for time-outs."""
    fail(gate, 4, reason)
    assert refusal(gate) is None
    fail(gate, 1, reason)
    clock.now += 29.9
    fail(gate, 9)  # attempts that were under way prolong nothing
    assert refusal(gate) is Reason.ENDPOINT_FAILING
    clock.now += 0.1
    assert refusal(gate) is None
    assert reported == ["endpoint.failing"]


@pytest.mark.parametrize(
    "answer", [*PROOFS, Reason.THROTTLED, Reason.CREDENTIALS_REJECTED], ids=lambda reason: reason or "confirmed"
)
def test_an_answer_between_failures_resets_the_count(gate: Gate, answer: Reason | None, reported: list[str]) -> None:
    """Scattered failures, or an endpoint that refuses the key, would stop all deliveries."""
    for _ in range(3):
        fail(gate, 4)
        learn(gate, answer, OLD)
    assert refusal(gate) is None
    assert "endpoint.failing" not in reported


def test_a_failing_endpoint_is_tried_by_one_attempt_at_a_time(gate: Gate, clock: Clock, reported: list[str]) -> None:
    """All lanes would send at the same moment to an endpoint that is coming back, or none ever again."""
    fail(gate, 5)
    clock.now += 30
    assert refusal(gate) is None
    assert refusal(gate, end=OVER) is Reason.ENDPOINT_FAILING, "the trial is under way"
    learn(gate, Reason.ENDPOINT_ERROR, trial=True)
    assert refusal(gate) is Reason.ENDPOINT_FAILING, "it failed"
    clock.now += TIMEOUT_S
    assert refusal(gate) is None, "the next trial"
    assert refusal(gate, end=OVER) is Reason.ENDPOINT_FAILING
    learn(gate, None, trial=True)
    assert [refusal(gate) for _ in range(20)] == [None] * 20
    assert reported == ["endpoint.failing", "endpoint.recovered"]


@pytest.mark.parametrize(
    ("doubt", "answer", "told"),
    [
        ([Reason.ENDPOINT_ERROR] * 5, None, None),
        ([Reason.ENDPOINT_ERROR] * 5, Reason.THROTTLED, None),
        ([Reason.ENDPOINT_ERROR] * 5, Reason.TIMEOUT, Reason.ENDPOINT_FAILING),
        ([Reason.CREDENTIALS_REJECTED], None, None),
    ],
    ids=["confirmed", "throttled", "timed out", "credentials confirmed"],
)
def test_the_rest_of_a_batch_waits_for_the_trial_and_shares_its_finding(
    clock: Clock, doubt: list[Reason], answer: Reason | None, told: Reason | None
) -> None:
    """After a recovery, each batch would deliver one result and defer the others."""
    gate = Gate(PATIENCE_S, clock=lambda: clock.now)
    for reason in doubt:
        learn(gate, reason)
    clock.now += 30
    assert refusal(gate) is None
    with ThreadPoolExecutor(4) as lanes:
        others = [lanes.submit(refusal, gate) for _ in range(4)]
        assert not wait(others, timeout=0.1).done
        learn(gate, answer, trial=True)
        assert [other.result(PATIENCE_S) for other in others] == [told] * 4


def test_a_trial_that_never_reports_its_end_blocks_only_for_its_timeout(gate: Gate, clock: Clock) -> None:
    """After a bug or a freeze during a trial, this execution environment would never send again."""
    fail(gate, 5)
    clock.now += 30
    assert refusal(gate) is None
    clock.now += TIMEOUT_S + 0.9
    assert refusal(gate) is Reason.ENDPOINT_FAILING, "an attempt that times out reports its end a moment later"
    clock.now += 0.1
    assert refusal(gate) is None


def test_refused_credentials_are_blocked_for_30_s(gate: Gate, clock: Clock, reported: list[str]) -> None:
    """The relay would try a wrong key with each result until BetaTel locks the account."""
    learn(gate, Reason.CREDENTIALS_REJECTED, OLD)
    assert refusal(gate, OLD) is Reason.CREDENTIALS_REJECTED
    assert refusal(gate, NEW) is None, "the gate admits rotated credentials immediately"
    clock.now += 30
    assert refusal(gate, OLD) is None
    assert refusal(gate, OLD, OVER) is Reason.CREDENTIALS_REJECTED, "one attempt at a time"
    learn(gate, Reason.CREDENTIALS_REJECTED, OLD, trial=True)
    clock.now += 29
    assert refusal(gate, OLD) is Reason.CREDENTIALS_REJECTED
    assert reported == ["credentials.rejected"]


def test_within_a_minute_of_an_acceptance_only_the_fifth_refusal_in_a_row_blocks(gate: Gate, clock: Clock) -> None:
    """One call that BetaTel forbids would stop all others, or a rotated key would be tried with each result."""
    for age_s, refusals in ((60, 1), (59, 5)):
        learn(gate, None)
        clock.now += age_s
        for _ in range(refusals):
            assert refusal(gate) is None
            learn(gate, Reason.CREDENTIALS_REJECTED)
        assert refusal(gate) is Reason.CREDENTIALS_REJECTED


@pytest.mark.parametrize(
    "answer", [*PROOFS, Reason.THROTTLED, *AGAINST_ENDPOINT], ids=lambda reason: reason or "confirmed"
)
def test_only_a_reply_that_proves_the_credentials_unblocks_them(gate: Gate, answer: Reason | None) -> None:
    """Results would wait although the key is good again, or a proxy's error page would prove that it is."""
    learn(gate, Reason.CREDENTIALS_REJECTED)
    learn(gate, answer)
    assert refusal(gate) is (None if answer in PROOFS else Reason.CREDENTIALS_REJECTED)


def throttle(gate: Gate, wait_s: float | None = None, *, trial: bool = False, http_status: int = 429) -> None:
    """Let an attempt end with a reply that asks to wait."""
    reason = Reason.THROTTLED if http_status == 429 else Reason.ENDPOINT_ERROR
    learn(gate, reason, trial=trial, http_status=http_status, wait_s=wait_s)


@pytest.mark.parametrize("http_status", [429, 503])
def test_nothing_is_asked_until_the_time_the_endpoint_asked_for(
    gate: Gate, clock: Clock, http_status: int, reported: list[str]
) -> None:
    """Each batch would send ten POSTs to an endpoint that has asked for none, and get a longer ban."""
    throttle(gate, 120, http_status=http_status)
    throttle(gate, 20, http_status=http_status)  # an attempt that was under way
    clock.now += 119
    held = gate.admit(NEW, FAR)
    assert isinstance(held, Judgement)
    assert (held.reason, held.wait_s) == (Reason.THROTTLED, 1)
    assert (gate.failing, gate.throttling) == (False, True)
    clock.now += 1
    assert gate.admit(NEW, FAR) is True
    learn(gate, None, trial=True)
    assert gate.admit(NEW, FAR) is False
    assert (gate.failing, gate.throttling) == (False, False)
    assert reported == ["endpoint.throttling", "endpoint.throttling_ended"]


def test_a_429_without_a_time_holds_for_a_second_then_twice_as_long_up_to_a_minute(gate: Gate, clock: Clock) -> None:
    """The relay would ask a throttling endpoint again every second, or wait a minute after a short peak."""
    throttle(gate)
    for hold_s in (1, 2, 4, 8, 16, 32, 60, 60):
        for _ in range(9):
            throttle(gate)  # attempts that were under way are no reason to wait longer
        clock.now += hold_s - 0.1
        assert refusal(gate) is Reason.THROTTLED
        clock.now += 0.1
        assert refusal(gate) is None
        throttle(gate, trial=True)
    clock.now += 60
    assert refusal(gate) is None
    learn(gate, None, trial=True)
    throttle(gate)
    clock.now += 1
    assert refusal(gate) is None, "a new period of throttling begins with a second"


@pytest.mark.parametrize(
    ("http_status", "wait_s", "failing", "throttling"),
    [(429, None, False, True), (429, 120, False, True), (503, 120, True, True), (503, 0, True, False)],
    ids=["429", "429 with a time", "503 with a time", "503 without a time"],
)
def test_only_a_503_is_a_failure_and_it_holds_only_with_a_time(
    gate: Gate, http_status: int, wait_s: float | None, *, failing: bool, throttling: bool
) -> None:
    """A busy endpoint would be called down, or one failed request of many would stop all deliveries for a second."""
    for _ in range(5):
        throttle(gate, wait_s, http_status=http_status)
    assert (gate.failing, gate.throttling) == (failing, throttling)
    assert refusal(gate) is (Reason.THROTTLED if throttling else Reason.ENDPOINT_FAILING)


def test_a_429_is_no_recovery(gate: Gate, clock: Clock) -> None:
    """A 429 would send a whole batch to an endpoint that is down."""
    fail(gate, 4)
    throttle(gate)
    fail(gate, 1)
    clock.now += 30
    assert refusal(gate) is None
    throttle(gate, 5, trial=True)
    assert (gate.failing, gate.throttling) == (True, True)


def test_a_late_request_to_wait_outlasts_a_good_trial(gate: Gate, clock: Clock) -> None:
    """The relay would send although the endpoint's last word on waiting still holds."""
    throttle(gate, 1)
    clock.now += 1
    assert refusal(gate) is None
    throttle(gate, 60)  # an attempt that was under way
    learn(gate, None, trial=True)
    assert refusal(gate) is Reason.THROTTLED


def test_a_trial_that_fails_otherwise_leaves_the_endpoint_held(gate: Gate, clock: Clock, reported: list[str]) -> None:
    """The rest of a batch would meet an endpoint that throttled, and by now answers nothing."""
    throttle(gate, 5)
    clock.now += 5
    assert refusal(gate) is None
    for _ in range(4):
        learn(gate, Reason.TIMEOUT, trial=True)
        assert refusal(gate) is Reason.THROTTLED
        clock.now += TIMEOUT_S
        assert refusal(gate) is None, "no longer than a failing endpoint"
    assert reported == ["endpoint.throttling"]


@pytest.mark.parametrize("passed_s", [0, -3600], ids=["the clock stands still", "the clock was put back"])
def test_attempts_keep_the_interval_of_a_rate_limit(clock: Clock, passed_s: float) -> None:
    """The relay would exceed the rate that a customer has agreed with BetaTel, or send nothing for an hour."""
    gate = Gate(TIMEOUT_S, 0.25, clock=lambda: clock.now)
    assert refusal(gate) is None
    clock.now += passed_s
    with ThreadPoolExecutor(1) as lanes:
        second = lanes.submit(refusal, gate)
        assert not wait([second], timeout=0.6).done  # the clock stands still
        clock.now += 0.25
        assert second.result(PATIENCE_S) is None
    clock.now += 3600  # idle time is not saved up
    assert refusal(gate) is None
    assert refusal(gate, end=OVER) is Reason.THROTTLED
