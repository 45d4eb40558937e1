"""The alarms, evaluated as CloudWatch does, over metrics of the relay and AWS: they fire when their text says so."""

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import pytest

from flash_call_relay import policy
from flash_call_relay.budget import Deadline
from flash_call_relay.credentials import Credentials
from flash_call_relay.gate import Gate
from flash_call_relay.models import Judgement, Reason
from local import ROOT
from tests.support.alarms import RETRIEVED_BEYOND, MetricHistory, Reported, state, states
from tests.support.template import alarms, default_settings

ALARMS = alarms()
SETTINGS = default_settings()
KEY = Credentials("key", "user")
JITTERS = (1.2, 0.8, 1.0, 1.1, 0.9)
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
HOUR, DAY = 60, 24 * 60  # in minutes, like every time here without a unit
BEGINS = 2 * HOUR  # the failure; a result arrives at this moment at each rate
every_alarm = pytest.mark.parametrize("name", ALARMS)
every_beyond = pytest.mark.parametrize("beyond", RETRIEVED_BEYOND, ids=["needed windows", "two windows more"])

Failure = Callable[[str, int], Reported]  # the rate, and for how many minutes → the metrics


# ---- the metrics during a failure ----


class Traffic(NamedTuple):
    """Results at a steady rate from time 0.

    Attributes:
        every_s: the time between two batches, in seconds.
        batch_size: the results in a batch; they stay together in one invocation.
        environments: the number of execution environments; invocations use them in turn.
        failing_s: the time between two invocations that Lambda reports as failed, in seconds.
        afterwards: for how long the metrics go on after a failure.
    """

    every_s: float
    batch_size: int
    environments: int
    failing_s: float
    afterwards: int


RATES = {
    "one an hour": Traffic(3600, 1, 1, 400, 3 * HOUR),
    "one a minute": Traffic(60, 1, 1, 60, 3 * HOUR),
    "10 a second": Traffic(2, 20, 10, 1, 65),
}
every_rate = pytest.mark.parametrize("rate", RATES)


@cache
def outage(rate: str, lasts: int, reason: Reason | None = Reason.ENDPOINT_ERROR) -> Reported:
    """Return the metrics while each attempt fails with this reason for `lasts` minutes; None: the ledger fails."""
    traffic, ends, now = RATES[rate], BEGINS + lasts, 0.0
    until_s, timeout_s = (ends + traffic.afterwards) * 60, SETTINGS.request_timeout_seconds
    environments = itertools.cycle([Gate(timeout_s, clock=lambda: now) for _ in range(traffic.environments)])
    ties, jitters = itertools.count(), itertools.cycle(JITTERS)
    metrics = defaultdict[str, MetricHistory](MetricHistory)
    # When the results are received next, a tie-breaker, when they were sent, their receives, and their number.
    arrivals = itertools.takewhile(lambda at: at < until_s, itertools.count(0, traffic.every_s))
    due = [(at, next(ties), at, 1, traffic.batch_size) for at in arrivals]
    while due:
        now, _, sent_at, receives, count = heapq.heappop(due)
        gate, age_s, fails = next(environments), now - sent_at, BEGINS <= now / 60 < ends
        blocked = gate.blocked(KEY)
        figures = {"LedgerErrors": float(fails and not (blocked or reason))}
        reasons = Counter[Reason]()
        for _ in range(count):
            judged = blocked or gate.admit(KEY, Deadline(math.inf))
            if not isinstance(judged, Judgement):
                is_trial, judged = judged, Judgement(reason if fails else None, "why")
                gate.learn(judged, KEY, is_trial=is_trial)
            if judged.reason:
                reasons[judged.reason] += 1
        if deferred := sum(reasons.values()):
            delay_s = policy.schedule_s(SETTINGS, receives, age_s, next(jitters))
            if now + delay_s < until_s:
                heapq.heappush(due, (now + delay_s, next(ties), sent_at, receives + 1, deferred))
        figures["OldestPendingAge"] = age_s if deferred else 0.0
        figures["EndpointFailing"] = float(gate.failing or reasons[Reason.ENDPOINT_FAILING] > 0)
        figures["CredentialsRejected"] = float(reasons[Reason.CREDENTIALS_REJECTED])
        figures |= {f"ResultsDeferred/{word}": float(times) for word, times in reasons.items()}
        for name, value in figures.items():
            metrics[name].report(now, value)
    return metrics


def reported(name: str, values: Iterable[tuple[float, float]]) -> Reported:
    """Return a metric that AWS reports, from its values as (minute, value)."""
    metric = MetricHistory()
    for minute, value in values:
        metric.report(minute * 60, value)
    return {name: metric}


def pause(rate: str, lasts: int) -> Reported:
    """Return the age of the oldest message, as SQS reports it each minute, while the relay is paused."""
    ages = [0] * BEGINS + [60 * minute for minute in range(1, lasts)] + [0] * RATES[rate].afterwards
    return reported("ApproximateAgeOfOldestMessage", enumerate(map(float, ages)))


def of_lambda(name: str, rate: str, lasts: int) -> Reported:
    """Return a metric that Lambda reports for each invocation: 1 while the failure lasts, then 0."""
    every, ends = RATES[rate].failing_s / 60, BEGINS + lasts
    times = [BEGINS + number * every for number in range(int(lasts / every) + 2)]  # the last one succeeds
    well = itertools.count(0, RATES[rate].every_s / 60)
    before_and_after = itertools.takewhile(lambda at: at < ends + RATES[rate].afterwards, well)
    times += [at for at in before_and_after if not BEGINS <= at < ends]
    return reported(name, [(at, float(BEGINS <= at < ends)) for at in times])


def messages(_rate: str, lasts: int) -> Reported:
    """Return the metrics while a queue holds a message for `lasts` minutes; on the second day SQS reports nothing."""
    visible = [0.0] * BEGINS + [1.0] * lasts + [0.0] * 4 * HOUR
    values = [(minute, value) for minute, value in enumerate(visible) if not DAY <= minute < 2 * DAY]
    return reported("ApproximateNumberOfMessagesVisible", values)


def losses(metric: str, rate: str, lasts: int) -> Reported:
    """Return a metric that is reported for each event that is lost during `lasts` minutes."""
    at_each = itertools.count(BEGINS, RATES[rate].every_s / 60)
    events = itertools.takewhile(lambda at: at < BEGINS + lasts, at_each)
    return reported(metric, [*((at, 1.0) for at in events), (BEGINS + lasts + 65, 0.0)])


@dataclass(frozen=True)
class Case:
    """An alarm's timing.

    Attributes:
        failure: returns the metrics during the failure that the alarm is for.
        claim: how long the failure must last, in the words of the alarm's text and of the runbook.
        silent: the alarm does not fire in a failure this long, in minutes, at each of the `RATES`.
        fires: the alarm fires during a failure this long, in minutes, at each of the `RATES`.
        over: the alarm ends at most this many minutes after the failure.
        over_words: the same in the runbook's words.
    """

    failure: Failure
    claim: str
    silent: tuple[int, int, int]
    fires: tuple[int, int, int]
    over: int
    over_words: str


REFUSED = partial(outage, reason=Reason.CREDENTIALS_REJECTED)
PROXY_PAGES = partial(outage, reason=Reason.UNCONFIRMED)  # answered with a 200
LEDGER_FAILS = partial(outage, reason=None)
THROTTLED = partial(of_lambda, "Throttles")
NOT_EMPTY = partial(Case, messages, silent=(0,) * 3, fires=(1,) * 3, over=6, over_words="within 5 minutes")
# On single events: it lasts an hour after the last, so that it fires once.
LOSSY = partial(Case, silent=(0,) * 3, fires=(1,) * 3, over=62, over_words="an hour after the last")
EXPIRING = Case(messages, "a week", (6 * DAY,) * 3, (8 * DAY,) * 3, 121, "within two hours")
CASES = {
    "results-late": Case(outage, "10 minutes", (9,) * 3, (12,) * 3, 27, "within 25 minutes"),
    "results-not-received": Case(pause, "15 minutes", (14,) * 3, (17,) * 3, 6, "within 5 minutes"),
    "dead-letter-queue-not-empty": NOT_EMPTY(claim="on the dead-letter queue"),
    "parked-queue-not-empty": NOT_EMPTY(claim="parked"),
    "dead-letter-queue-expiring": EXPIRING,
    "parked-queue-expiring": EXPIRING,
    "credentials-refused": Case(
        REFUSED, "refuses the credentials", (0,) * 3, (2,) * 3, 30, "25 minutes after the last"
    ),
    "endpoint-failing": Case(outage, "20 minutes", (19,) * 3, (25, 22, 21), 3, "within 2 minutes"),
    "replies-doubtful": Case(PROXY_PAGES, "three spans of five minutes", (4,) * 3, (11,) * 3, 62, "for an hour"),
    "function-errors": Case(
        lambda _, lasts: of_lambda("Errors", "one an hour", lasts), "15 minutes", (6,) * 3, (8,) * 3, 16, "15 minutes"
    ),
    "function-throttled": Case(THROTTLED, "15 minutes", (8, 14, 14), (17,) * 3, 8, "within 7 minutes"),
    "events-lost": LOSSY(
        partial(losses, "InvocationsFailedToBeSentToDlq"), claim="neither to the relay nor to the dead-letter queue"
    ),
    "function-dead-letters-lost": LOSSY(
        partial(losses, "DeadLetterErrors"), claim="could not put it on the dead-letter queue"
    ),
    "function-events-dropped": LOSSY(partial(losses, "AsyncEventsDropped"), claim="Lambda gave up an event"),
    "statuses-conflicting": LOSSY(partial(losses, "ConflictingResults"), claim="different statuses"),
    "ledger-failing": Case(LEDGER_FAILS, "more than an hour", (55,) * 3, (65,) * 3, 60, "within an hour"),
}


def changes(name: str, what: Reported, beyond: int) -> list[tuple[int, str]]:
    """Return the changes of an alarm's state while a metric reports: (minutes after the failure began, state)."""
    last = max(max(metric.values, default=0) for metric in what.values())
    found = ["OK", *states(ALARMS[name], what, range(BEGINS, last), beyond)]
    pairs = enumerate(pairwise(found), start=1)
    return [(minute, state) for minute, (before, state) in pairs if state != before]


@every_beyond
@every_rate
@every_alarm
def test_an_alarm_stays_silent_in_a_shorter_failure_than_its_text_says(name: str, rate: str, beyond: int) -> None:
    """An on-call engineer would be woken for nothing, and learn to ignore the alarms."""
    case = CASES[name]
    assert changes(name, case.failure(rate, case.silent[list(RATES).index(rate)]), beyond) == []


@every_beyond
@every_rate
@every_alarm
def test_an_alarm_fires_once_in_a_longer_failure_than_its_text_says_and_ends_after_it(
    name: str, rate: str, beyond: int
) -> None:
    """An outage would raise no alarm, or one with each retry, or the alarm would stay up after the recovery."""
    case, which = CASES[name], list(RATES).index(rate)
    silent, fires = case.silent[which], case.fires[which]
    for lasts in (fires, max(7 * HOUR, fires)) if rate != "10 a second" else (fires,):
        (fired, to), (ended, back) = changes(name, case.failure(rate, lasts), beyond)
        assert (to, back) == ("ALARM", "OK")
        assert silent < fired <= fires + 1
        assert ended <= lasts + case.over


@every_alarm
def test_alarm_text_and_runbook_state_the_alarms_real_timing(name: str) -> None:
    """An engineer would wait for an alarm to fire or to end at the wrong time."""
    case = CASES[name]
    section = " ".join(RUNBOOK.split(f"\n### {name}\n")[1].split("\n### ")[0].split("\n## ")[0].split())
    assert case.claim in ALARMS[name]["AlarmDescription"]
    assert case.claim in section.split("- **Look**")[0]
    assert case.over_words in section.split("- **Over**")[1]


# ---- the simulator itself ----


@pytest.mark.parametrize(
    ("of_three", "points", "ignore", "not_breaching"),
    [
        (3, "0-X-X", "OK", "OK"),
        (3, "-----", "retain", "OK"),
        (3, "0XX-X", "ALARM", "ALARM"),
        (3, "----X", "retain", "OK"),
        (2, "0-X-X", "ALARM", "ALARM"),
        (2, "0-X--", "OK", "OK"),
        (2, "----X", "retain", "OK"),
    ],
)
@pytest.mark.parametrize("before", ["OK", "ALARM"])
def test_the_simulator_treats_missing_data_as_the_tables_of_aws_do(
    of_three: int, points: str, ignore: str, not_breaching: str, before: str
) -> None:
    """The other tests in this file would prove nothing about CloudWatch."""
    values = [{"0": 0.0, "X": 1.0}.get(point) for point in points]
    alarm = {"EvaluationPeriods": 3, "DatapointsToAlarm": of_three, "Threshold": 1, "TreatMissingData": "ignore"}
    alarm |= {"ComparisonOperator": "GreaterThanOrEqualToThreshold"}
    assert state(alarm, values, before) == (before if ignore == "retain" else ignore)
    assert state(alarm | {"TreatMissingData": "notBreaching"}, values, before) == not_breaching
