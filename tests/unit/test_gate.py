"""The gate, by a clock of the test's own."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from flash_call_relay.credentials import Credentials
from flash_call_relay.gate import Gate
from flash_call_relay.models import Reason
from flash_call_relay.policy import ENDPOINT_FAILURES

OLD, NEW = Credentials("old", "user"), Credentials("new", "user")
FAR = 1e9
TIMEOUT_S = 0.5  # by the clock below; but who waits for a probe waits for real
PATIENCE_S = 30


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        """Tell the time in seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    """Return a gate that nothing has happened at."""
    return Gate(TIMEOUT_S, clock=clock)


def held(gate: Gate, credentials: Credentials = NEW, last_moment: float = FAR) -> Reason | None:
    """Return why the gate is closed; None where it lets an attempt through."""
    answer = gate.hold(credentials, last_moment)
    return None if answer is None else answer.reason


def fail(gate: Gate, times: int, reason: Reason = Reason.ENDPOINT_ERROR) -> None:
    """Let so many attempts fail."""
    for _ in range(times):
        gate.learn(reason, NEW)


def test_no_attempt_starts_that_cannot_end_in_time(gate: Gate, clock: Clock) -> None:
    """The function would be killed in mid-attempt, and its whole batch would come back."""
    assert held(gate, last_moment=clock.now + TIMEOUT_S) is None
    assert held(gate, last_moment=clock.now + TIMEOUT_S - 0.1) is Reason.OUT_OF_TIME


@pytest.mark.parametrize("reason", sorted(ENDPOINT_FAILURES))
def test_five_failures_in_a_row_close_the_gate_for_30_s(gate: Gate, clock: Clock, reason: Reason) -> None:
    """An endpoint that is down would be pressed on, and each invocation would wait for its time-outs."""
    fail(gate, 4, reason)
    assert held(gate) is None
    fail(gate, 1, reason)
    assert held(gate) is Reason.ENDPOINT_FAILING
    assert gate.news() == ["endpoint.failing"]
    clock.now += 29.9
    assert held(gate) is Reason.ENDPOINT_FAILING
    clock.now += 0.1
    assert held(gate) is None


@pytest.mark.parametrize("answer", [None, Reason.REJECTED, Reason.UNKNOWN_CALL, Reason.THROTTLED, Reason.CONTRADICTED])
def test_an_answer_in_between_keeps_the_gate_open(gate: Gate, answer: Reason | None) -> None:
    """Scattered failures would hold all results back."""
    for _ in range(3):
        fail(gate, 4)
        gate.learn(answer, NEW)
    assert held(gate) is None
    assert gate.news() == []


def test_one_attempt_at_a_time_probes_a_failing_endpoint(gate: Gate, clock: Clock) -> None:
    """An endpoint that comes back would be met by everything at once, or never be asked again."""
    fail(gate, 5)
    clock.now += 30
    assert held(gate) is None
    assert held(gate) is Reason.ENDPOINT_FAILING, "the probe is under way"
    fail(gate, 1)
    assert held(gate) is Reason.ENDPOINT_FAILING, "it failed"
    clock.now += TIMEOUT_S
    assert held(gate) is None, "the next probe"
    assert held(gate) is Reason.ENDPOINT_FAILING
    gate.learn(None, NEW)
    assert [held(gate) for _ in range(20)] == [None] * 20
    assert gate.news() == ["endpoint.failing", "endpoint.recovered"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [(None, None), (Reason.THROTTLED, None), (Reason.TIMEOUT, Reason.ENDPOINT_FAILING)],
    ids=["confirmed", "answered", "failed"],
)
def test_others_of_a_batch_wait_for_what_the_probe_ends_with(
    clock: Clock, answer: Reason | None, told: Reason | None
) -> None:
    """A batch that finds the endpoint well again would be put off but for one result, batch after batch."""
    gate = Gate(PATIENCE_S, clock=clock)
    fail(gate, 5)
    clock.now += 30
    assert held(gate) is None
    with ThreadPoolExecutor(4) as lanes:
        others = [lanes.submit(held, gate) for _ in range(4)]
        assert not wait(others, timeout=0.1).done
        gate.learn(answer, NEW)
        assert [other.result(PATIENCE_S) for other in others] == [told] * 4


def test_others_wait_for_the_probe_of_refused_credentials_too(clock: Clock) -> None:
    """After a key was accepted again, results would be put off once more, but for one in each batch."""
    gate = Gate(PATIENCE_S, clock=clock)
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    clock.now += 30
    assert held(gate, OLD) is None
    with ThreadPoolExecutor(1) as lanes:
        other = lanes.submit(held, gate, OLD)
        assert held(gate, NEW) is None, "others are not doubted"
        gate.learn(None, OLD)
        assert other.result(PATIENCE_S) is None


def test_a_failed_probe_holds_the_rest_of_a_long_batch(gate: Gate, clock: Clock) -> None:
    """A batch of a hundred in an outage would last for a probe's time-out again and again, and be paid for."""
    fail(gate, 5)
    clock.now += 30
    assert held(gate) is None
    clock.now += TIMEOUT_S
    fail(gate, 1, Reason.TIMEOUT)
    assert held(gate) is Reason.ENDPOINT_FAILING


def test_it_is_known_before_a_batch_that_nothing_may_be_asked(gate: Gate, clock: Clock) -> None:
    """What waits would cost a look into the ledger and at the secret each minute."""
    assert gate.closed(None) is None
    fail(gate, 5)
    assert (closed := gate.closed(None))
    assert closed.reason is Reason.ENDPOINT_FAILING
    clock.now += 30
    assert gate.closed(NEW) is None
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    assert gate.closed(NEW) is None
    assert gate.closed(None) is None
    assert (closed := gate.closed(OLD))
    assert closed.reason is Reason.CREDENTIALS_REJECTED
    clock.now += 30
    assert gate.closed(OLD) is None


def test_a_probe_that_is_never_heard_of_again_does_not_close_the_gate_for_good(gate: Gate, clock: Clock) -> None:
    """After a bug or a freeze in mid-attempt, nothing would ever be sent from this environment again."""
    fail(gate, 5)
    clock.now += 30
    assert held(gate) is None
    clock.now += TIMEOUT_S
    assert held(gate) is None


def test_failures_under_way_do_not_prolong_the_hold(gate: Gate, clock: Clock) -> None:
    """Attempts that were under way when the gate closed would keep it closed."""
    fail(gate, 5)
    clock.now += 20
    fail(gate, 9)
    clock.now += 10
    assert held(gate) is None
    assert gate.news() == ["endpoint.failing"]


def test_refused_credentials_are_not_used_for_30_s(gate: Gate, clock: Clock) -> None:
    """A wrong key would be tried with each result, until the endpoint locks the account."""
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    assert held(gate, OLD) is Reason.CREDENTIALS_REJECTED
    assert held(gate, NEW) is None, "rotated ones go through at once"
    clock.now += 30
    assert held(gate, OLD) is None
    assert held(gate, OLD) is Reason.CREDENTIALS_REJECTED, "one attempt at a time"
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    clock.now += 29
    assert held(gate, OLD) is Reason.CREDENTIALS_REJECTED
    assert gate.news() == ["credentials.rejected"]


def test_a_refusal_after_an_acceptance_is_the_records_own(gate: Gate, clock: Clock) -> None:
    """One call that BetaTel forbids would hold back all its neighbours."""
    gate.learn(None, NEW)
    clock.now += 59
    gate.learn(Reason.CREDENTIALS_REJECTED, NEW)
    assert held(gate) is None
    clock.now += 1
    gate.learn(Reason.CREDENTIALS_REJECTED, NEW)
    assert held(gate) is Reason.CREDENTIALS_REJECTED


def test_a_row_of_refusals_outweighs_an_acceptance(gate: Gate) -> None:
    """For a minute after the key was rotated, each waiting result would be sent with the old one."""
    gate.learn(None, OLD)
    for _ in range(4):
        gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    assert held(gate, OLD) is None
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    assert held(gate, OLD) is Reason.CREDENTIALS_REJECTED
    assert gate.news() == ["credentials.rejected"]


@pytest.mark.parametrize("answer", [None, Reason.REJECTED, Reason.UNKNOWN_CALL, Reason.CONTRADICTED])
def test_an_acceptance_frees_the_credentials(gate: Gate, answer: Reason | None) -> None:
    """Results would wait although the credentials are good again."""
    gate.learn(Reason.CREDENTIALS_REJECTED, NEW)
    gate.learn(answer, NEW)
    assert held(gate) is None
    assert gate.news() == ["credentials.rejected", "credentials.accepted"]


@pytest.mark.parametrize("answer", [Reason.THROTTLED, *sorted(ENDPOINT_FAILURES)])
def test_what_does_not_look_at_credentials_does_not_free_them(gate: Gate, answer: Reason) -> None:
    """A proxy's error page would pass for an acceptance."""
    gate.learn(Reason.CREDENTIALS_REJECTED, NEW)
    gate.learn(answer, NEW)
    assert held(gate) is Reason.CREDENTIALS_REJECTED


def test_a_refusal_is_an_answer(gate: Gate) -> None:
    """An endpoint that refuses the key would count as down."""
    fail(gate, 4)
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    fail(gate, 4)
    assert held(gate) is None
