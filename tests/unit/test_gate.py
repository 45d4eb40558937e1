"""The gate, by a clock of the test's own."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from flash_call_relay.budget import Deadline
from flash_call_relay.credentials import Credentials
from flash_call_relay.gate import Gate
from flash_call_relay.models import Reason

AGAINST_ENDPOINT = [reason for reason in Reason if reason.against_endpoint]
OLD, NEW = Credentials("old", "user"), Credentials("new", "user")
FAR = Deadline(1e9)
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


def refusal(gate: Gate, credentials: Credentials = NEW, end: Deadline = FAR) -> Reason | None:
    """Ask the gate to admit an attempt; return why it does not, or None if it does."""
    not_asked = gate.admit(credentials, end)
    return not_asked.reason if not_asked else None


def fail(gate: Gate, times: int, reason: Reason = Reason.ENDPOINT_ERROR) -> None:
    """Let so many attempts fail."""
    for _ in range(times):
        gate.learn(reason, NEW)


def test_an_attempt_that_cannot_end_in_time_is_not_admitted(gate: Gate, clock: Clock) -> None:
    """The function would be killed in mid-attempt, and its whole batch would come back."""
    assert refusal(gate, end=Deadline(clock.now + TIMEOUT_S, clock)) is None
    assert refusal(gate, end=Deadline(clock.now + TIMEOUT_S - 0.1, clock)) is Reason.OUT_OF_TIME


@pytest.mark.parametrize("reason", AGAINST_ENDPOINT)
def test_five_failures_in_a_row_block_the_endpoint_for_30_s(gate: Gate, clock: Clock, reason: Reason) -> None:
    """An endpoint that is down would be pressed on, and each invocation would wait for its time-outs."""
    fail(gate, 4, reason)
    assert refusal(gate) is None
    fail(gate, 1, reason)
    assert refusal(gate) is Reason.ENDPOINT_FAILING
    assert gate.events() == ["endpoint.failing"]
    clock.now += 29.9
    assert refusal(gate) is Reason.ENDPOINT_FAILING
    clock.now += 0.1
    assert refusal(gate) is None


@pytest.mark.parametrize("answer", [None, Reason.REJECTED, Reason.UNKNOWN_CALL, Reason.THROTTLED, Reason.CONTRADICTED])
def test_an_answer_between_failures_starts_the_count_again(gate: Gate, answer: Reason | None) -> None:
    """Scattered failures would hold all results back."""
    for _ in range(3):
        fail(gate, 4)
        gate.learn(answer, NEW)
    assert refusal(gate) is None
    assert gate.events() == []


def test_a_failing_endpoint_is_probed_by_one_attempt_at_a_time(gate: Gate, clock: Clock) -> None:
    """An endpoint that comes back would be met by everything at once, or never be asked again."""
    fail(gate, 5)
    clock.now += 30
    assert refusal(gate) is None
    assert refusal(gate) is Reason.ENDPOINT_FAILING, "the probe is under way"
    fail(gate, 1)
    assert refusal(gate) is Reason.ENDPOINT_FAILING, "it failed"
    clock.now += TIMEOUT_S
    assert refusal(gate) is None, "the next probe"
    assert refusal(gate) is Reason.ENDPOINT_FAILING
    gate.learn(None, NEW)
    assert [refusal(gate) for _ in range(20)] == [None] * 20
    assert gate.events() == ["endpoint.failing", "endpoint.recovered"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [(None, None), (Reason.THROTTLED, None), (Reason.TIMEOUT, Reason.ENDPOINT_FAILING)],
    ids=["confirmed", "answered", "failed"],
)
def test_the_rest_of_a_batch_waits_for_the_probe_and_shares_its_end(
    clock: Clock, answer: Reason | None, told: Reason | None
) -> None:
    """A batch that finds the endpoint well again would be put off but for one result, batch after batch."""
    gate = Gate(PATIENCE_S, clock=clock)
    fail(gate, 5)
    clock.now += 30
    assert refusal(gate) is None
    with ThreadPoolExecutor(4) as lanes:
        others = [lanes.submit(refusal, gate) for _ in range(4)]
        assert not wait(others, timeout=0.1).done
        gate.learn(answer, NEW)
        assert [other.result(PATIENCE_S) for other in others] == [told] * 4


def test_the_rest_of_a_batch_waits_for_the_probe_of_refused_credentials(clock: Clock) -> None:
    """After a key was accepted again, results would be put off once more, but for one in each batch."""
    gate = Gate(PATIENCE_S, clock=clock)
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    clock.now += 30
    assert refusal(gate, OLD) is None
    with ThreadPoolExecutor(1) as lanes:
        other = lanes.submit(refusal, gate, OLD)
        assert refusal(gate, NEW) is None, "others are not doubted"
        gate.learn(None, OLD)
        assert other.result(PATIENCE_S) is None


def test_a_failed_probe_blocks_the_rest_of_its_batch(gate: Gate, clock: Clock) -> None:
    """A batch of a hundred in an outage would last for a probe's time-out again and again, and be paid for."""
    fail(gate, 5)
    clock.now += 30
    assert refusal(gate) is None
    clock.now += TIMEOUT_S
    fail(gate, 1, Reason.TIMEOUT)
    assert refusal(gate) is Reason.ENDPOINT_FAILING


def test_a_block_is_known_before_the_batch_begins(gate: Gate, clock: Clock) -> None:
    """What waits would cost a look into the ledger and at the secret each minute."""
    assert gate.blocked(None) is None
    fail(gate, 5)
    assert (blocked := gate.blocked(None))
    assert blocked.reason is Reason.ENDPOINT_FAILING
    clock.now += 30
    assert gate.blocked(NEW) is None
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    assert gate.blocked(NEW) is None
    assert gate.blocked(None) is None
    assert (blocked := gate.blocked(OLD))
    assert blocked.reason is Reason.CREDENTIALS_REJECTED
    clock.now += 30
    assert gate.blocked(OLD) is None


def test_a_probe_that_never_reports_its_end_blocks_only_for_its_timeout(gate: Gate, clock: Clock) -> None:
    """After a bug or a freeze in mid-attempt, nothing would ever be sent from this environment again."""
    fail(gate, 5)
    clock.now += 30
    assert refusal(gate) is None
    clock.now += TIMEOUT_S
    assert refusal(gate) is None


def test_failures_of_earlier_attempts_do_not_prolong_the_block(gate: Gate, clock: Clock) -> None:
    """Attempts that were under way when the gate closed would keep it closed."""
    fail(gate, 5)
    clock.now += 20
    fail(gate, 9)
    clock.now += 10
    assert refusal(gate) is None
    assert gate.events() == ["endpoint.failing"]


def test_refused_credentials_are_blocked_for_30_s(gate: Gate, clock: Clock) -> None:
    """A wrong key would be tried with each result, until the endpoint locks the account."""
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    assert refusal(gate, OLD) is Reason.CREDENTIALS_REJECTED
    assert refusal(gate, NEW) is None, "rotated ones go through at once"
    clock.now += 30
    assert refusal(gate, OLD) is None
    assert refusal(gate, OLD) is Reason.CREDENTIALS_REJECTED, "one attempt at a time"
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    clock.now += 29
    assert refusal(gate, OLD) is Reason.CREDENTIALS_REJECTED
    assert gate.events() == ["credentials.rejected"]


def test_a_refusal_within_a_minute_of_an_acceptance_does_not_block(gate: Gate, clock: Clock) -> None:
    """One call that BetaTel forbids would hold back all its neighbours."""
    gate.learn(None, NEW)
    clock.now += 59
    gate.learn(Reason.CREDENTIALS_REJECTED, NEW)
    assert refusal(gate) is None
    clock.now += 1
    gate.learn(Reason.CREDENTIALS_REJECTED, NEW)
    assert refusal(gate) is Reason.CREDENTIALS_REJECTED


def test_five_refusals_in_a_row_block_in_spite_of_an_acceptance(gate: Gate) -> None:
    """For a minute after the key was rotated, each waiting result would be sent with the old one."""
    gate.learn(None, OLD)
    for _ in range(4):
        gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    assert refusal(gate, OLD) is None
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    assert refusal(gate, OLD) is Reason.CREDENTIALS_REJECTED
    assert gate.events() == ["credentials.rejected"]


@pytest.mark.parametrize("answer", [None, Reason.REJECTED, Reason.UNKNOWN_CALL, Reason.CONTRADICTED])
def test_a_reply_that_proves_the_credentials_unblocks_them(gate: Gate, answer: Reason | None) -> None:
    """Results would wait although the credentials are good again."""
    gate.learn(Reason.CREDENTIALS_REJECTED, NEW)
    gate.learn(answer, NEW)
    assert refusal(gate) is None
    assert gate.events() == ["credentials.rejected", "credentials.accepted"]


@pytest.mark.parametrize("answer", [Reason.THROTTLED, *AGAINST_ENDPOINT])
def test_a_reply_that_does_not_prove_the_credentials_leaves_them_blocked(gate: Gate, answer: Reason) -> None:
    """A proxy's error page would pass for an acceptance."""
    gate.learn(Reason.CREDENTIALS_REJECTED, NEW)
    gate.learn(answer, NEW)
    assert refusal(gate) is Reason.CREDENTIALS_REJECTED


def test_a_refusal_of_credentials_ends_a_row_of_failures(gate: Gate) -> None:
    """An endpoint that refuses the key would count as down."""
    fail(gate, 4)
    gate.learn(Reason.CREDENTIALS_REJECTED, OLD)
    fail(gate, 4)
    assert refusal(gate) is None
