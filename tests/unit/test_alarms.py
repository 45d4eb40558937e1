"""The alarms, as CloudWatch evaluates them, over what the relay and AWS report: they fire when their text says so."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from flash_call_relay.models import Reason
from local.emulator.stack import ROOT
from tests.support.alarms import RETRIEVED_BEYOND, MetricHistory, Reported, state, states
from tests.support.template import alarms, default_settings
from tests.support.traffic import Traffic, between, one_in

SETTINGS = default_settings()
ALARMS = alarms()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
HOUR, DAY = 60, 24 * 60  # in minutes, as all times here that don't say otherwise
BEGINS = 2 * HOUR  # of trouble: when a result comes, at any rate
AFTERWARDS = {"one an hour": 3 * HOUR, "one a minute": 3 * HOUR, "50 a second": 65}
RATES = {
    "one an hour": Traffic(SETTINGS, 3600),
    "one a minute": Traffic(SETTINGS, 60),
    "50 a second": Traffic(SETTINGS, 2, at_once=100, environments=10),
}
ISOLATED = {"one an hour": 5, "one a minute": 100, "50 a second": 1000}  # one in so many
TRIED_EVERY_S = {"one an hour": 400, "one a minute": 60, "50 a second": 1}  # what Lambda refuses, or crashes on
every_rate = pytest.mark.parametrize("rate", RATES)
every_alarm = pytest.mark.parametrize("name", ALARMS)

Trouble = Callable[[str, int], Reported]  # the rate, and for how long → what is reported


# ---- what is reported in trouble ----


@cache
def outage(rate: str, lasts: int, reason: Reason = Reason.ENDPOINT_ERROR) -> Reported:
    """The endpoint fails for that long."""
    begin_s = BEGINS * 60
    ends = BEGINS + lasts + AFTERWARDS[rate]
    return RATES[rate].meets(ends * 60, trouble=between(begin_s, begin_s + lasts * 60, reason))


@cache
def without_ledger(rate: str, lasts: int) -> Reported:
    """DynamoDB fails for that long."""
    begin_s = BEGINS * 60
    return RATES[rate].meets((BEGINS + lasts + AFTERWARDS[rate]) * 60, ledger=between(begin_s, begin_s + lasts * 60))


def reported(name: str, values: Iterable[tuple[float, float]]) -> Reported:
    """Return a metric of AWS's, from (minute, value)."""
    metric = MetricHistory()
    for minute, value in values:
        metric.report(minute * 60, value)
    return {name: metric}


def pages(rate: str, lasts: int) -> Reported:
    """A proxy answers 200 for that long."""
    return outage(rate, lasts, Reason.UNCONFIRMED)


def refusals(rate: str, lasts: int) -> Reported:
    """The endpoint refuses the credentials for that long."""
    return outage(rate, lasts, Reason.CREDENTIALS_REJECTED)


def pause(rate: str, lasts: int) -> Reported:
    """The relay is paused for that long; SQS tells the age of the oldest message, a minute each."""
    ages = [0] * BEGINS + [60 * minute for minute in range(1, lasts)] + [0] * AFTERWARDS[rate]
    return reported("ApproximateAgeOfOldestMessage", enumerate(map(float, ages)))


def _of_lambda(name: str, rate: str, lasts: int) -> Reported:
    """Lambda reports a figure of each invocation, and of none else: 1 while it lasts, then 0."""
    every = TRIED_EVERY_S[rate] / 60
    ends = BEGINS + lasts
    times = [BEGINS + number * every for number in range(int(lasts / every) + 2)]  # the last one finds all well again
    well = itertools.count(0, RATES[rate].every_s / 60)
    quiet = [at for at in itertools.takewhile(lambda at: at < ends + AFTERWARDS[rate], well) if not BEGINS <= at < ends]
    return reported(name, [(at, float(BEGINS <= at < ends)) for at in [*times, *quiet]])


def throttles(rate: str, lasts: int) -> Reported:
    """Lambda refuses invocations for that long."""
    return _of_lambda("Throttles", rate, lasts)


def crashes(_rate: str, lasts: int) -> Reported:
    """A batch that crashes comes back every 400 s for that long."""
    return _of_lambda("Errors", "one an hour", lasts)


def messages(_rate: str, lasts: int) -> Reported:
    """A message lies on the parked and on the dead-letter queue for that long."""
    visible = [0.0] * BEGINS + [1.0] * lasts + [0.0] * 4 * HOUR
    return reported("ApproximateNumberOfMessagesVisible", enumerate(visible))


@cache
def isolated(rate: str) -> Reported:
    """Here and there a POST, the ledger or Lambda fails once."""
    one = one_in(ISOLATED[rate])
    lasts = {"one an hour": 40, "one a minute": 40, "50 a second": 4}[rate] * HOUR
    hourly = [(minute, float(minute % HOUR == 0)) for minute in range(lasts)]
    figures = RATES[rate].meets(lasts * 60, trouble=one, ledger=one)
    return {**figures, **reported("Errors", hourly), **reported("Throttles", hourly)}


@dataclass(frozen=True)
class Case:
    """What an alarm is about.

    Attributes:
        trouble: what is reported while it lasts.
        claim: for how long it has to last, in the words of the alarm's text and of the runbook.
        silent: it may last so long, in minutes, at each of the `RATES`.
        fires: if it lasts so long, the alarm fires before it is over; at each of the `RATES`.
        over: the alarm is over so many minutes after it.
        over_words: the same in the runbook's words.
    """

    trouble: Trouble
    claim: str
    silent: tuple[int, int, int]
    fires: tuple[int, int, int]
    over: int
    over_words: str


CASES = {
    "results-late": Case(outage, "10 minutes", (9,) * 3, (12, 12, 12), 27, "within 25 minutes"),
    "results-not-received": Case(pause, "15 minutes", (14,) * 3, (17, 17, 17), 6, "within 5 minutes"),
    "dead-letter-queue-not-empty": Case(
        messages, "on the dead-letter queue", (0,) * 3, (1, 1, 1), 6, "within 5 minutes"
    ),
    "parked-queue-not-empty": Case(messages, "parked", (0,) * 3, (1, 1, 1), 6, "within 5 minutes"),
    "dead-letter-queue-expiring": Case(messages, "a week", (6 * DAY,) * 3, (8 * DAY,) * 3, 121, "within two hours"),
    "parked-queue-expiring": Case(messages, "a week", (6 * DAY,) * 3, (8 * DAY,) * 3, 121, "within two hours"),
    "credentials-refused": Case(
        refusals, "refuses the credentials", (0,) * 3, (2, 2, 2), 30, "25 minutes after the last"
    ),
    "endpoint-failing": Case(outage, "20 minutes", (19,) * 3, (25, 22, 21), 3, "within 2 minutes"),
    "replies-doubtful": Case(pages, "three spans of five minutes", (4,) * 3, (11, 11, 11), 62, "for an hour"),
    "function-errors": Case(crashes, "15 minutes", (6,) * 3, (8, 8, 8), 16, "15 minutes"),
    "function-throttled": Case(throttles, "15 minutes", (8, 14, 14), (17, 17, 17), 8, "within 7 minutes"),
    "ledger-failing": Case(without_ledger, "more than an hour", (55,) * 3, (65, 65, 65), 60, "within an hour"),
}


def changes(alarm: dict[str, Any], what: Reported, beyond: int, last: int) -> list[tuple[int, str]]:
    """Return when an alarm changes its state, and to which, in minutes after the trouble began."""
    began = BEGINS - BEGINS % HOUR
    found = ["OK", *states(alarm, what, range(began, last), beyond)]
    return [
        (began + minute + 1 - BEGINS, state)
        for minute, (before, state) in enumerate(pairwise(found))
        if state != before
    ]


def last_minute(what: Reported) -> int:
    """Return the last minute to look at: that of which something is reported last."""
    return max(max(metric.counts) for metric in what.values())


@pytest.mark.parametrize("beyond", RETRIEVED_BEYOND)
@every_rate
@every_alarm
def test_what_is_shorter_than_the_text_says_wakes_nobody(name: str, rate: str, beyond: int) -> None:
    """Somebody would be woken up for what is over before they could do anything."""
    what = CASES[name].trouble(rate, CASES[name].silent[list(RATES).index(rate)])
    assert changes(ALARMS[name], what, beyond, last_minute(what)) == []


@pytest.mark.parametrize("beyond", RETRIEVED_BEYOND)
@every_rate
@every_alarm
def test_what_is_longer_than_the_text_says_fires_while_it_lasts_and_ends(name: str, rate: str, beyond: int) -> None:
    """Nobody would be told of an outage, or only after it; or the alarm would stay up when all is well."""
    case = CASES[name]
    which = list(RATES).index(rate)
    lasts = case.fires[which]
    what = case.trouble(rate, lasts)
    (fired, to), (ended, back) = changes(ALARMS[name], what, beyond, last_minute(what))
    assert (to, back) == ("ALARM", "OK")
    assert case.silent[which] < fired <= lasts + 1
    assert ended <= lasts + case.over


@pytest.mark.parametrize("beyond", RETRIEVED_BEYOND)
@every_rate
@every_alarm
def test_isolated_errors_wake_nobody(name: str, rate: str, beyond: int) -> None:
    """People would learn to ignore the alarms."""
    what = isolated(rate)
    assert changes(ALARMS[name], what, beyond, last_minute(what)) == []


@pytest.mark.parametrize("beyond", RETRIEVED_BEYOND)
@pytest.mark.parametrize("rate", ["one an hour", "one a minute"])
@every_alarm
def test_a_long_outage_is_one_alarm(name: str, rate: str, beyond: int) -> None:
    """An alarm would come and go with each try of the one result that waits, and each time somebody would be called."""
    lasts = max(7 * HOUR, *CASES[name].fires)
    what = CASES[name].trouble(rate, lasts)
    assert [state for _, state in changes(ALARMS[name], what, beyond, BEGINS + lasts)] == ["ALARM"]


@pytest.mark.parametrize("beyond", RETRIEVED_BEYOND)
@every_alarm
def test_without_any_data_nothing_fires(name: str, beyond: int) -> None:
    """A relay that nobody uses would wake people up, or a metric's gap end an alarm that stands for something."""
    stays = ALARMS[name]["TreatMissingData"] == "ignore"
    for before in ("OK", "ALARM"):
        *_, after = states(ALARMS[name], {}, range(2 * DAY), beyond, before)
        assert after == (before if stays else "OK")


@every_alarm
def test_text_and_runbook_say_what_the_alarm_does(name: str) -> None:
    """Somebody who reads one of them would wait for the wrong thing."""
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
        (3, "0----", "OK", "OK"),
        (3, "-----", "retain", "OK"),
        (3, "0XX-X", "ALARM", "ALARM"),
        (3, "----X", "retain", "OK"),
        (3, "X----", "retain", "OK"),
        (2, "0-X-X", "ALARM", "ALARM"),
        (2, "00X0X", "ALARM", "ALARM"),
        (2, "0-X--", "OK", "OK"),
        (2, "----0", "OK", "OK"),
        (2, "----X", "retain", "OK"),
    ],
)
@pytest.mark.parametrize("before", ["OK", "ALARM"])
def test_missing_data_is_treated_as_in_the_tables_of_aws(
    of_three: int, points: str, ignore: str, not_breaching: str, before: str
) -> None:
    """All else that is simulated here would prove nothing."""
    values = [{"0": 0.0, "X": 1.0}.get(point) for point in points]
    alarm = statistic("any", "Maximum", Period=300, EvaluationPeriods=3, DatapointsToAlarm=of_three)
    assert state(alarm, values, before) == (before if ignore == "retain" else ignore)
    assert state(alarm | {"TreatMissingData": "notBreaching"}, values, before) == not_breaching


def statistic(metric: str, name: str, **changes: Any) -> dict[str, Any]:
    """Return an alarm of the plain kind."""
    plain = {"MetricName": metric, "Dimensions": [], "Statistic": name, "TreatMissingData": "ignore", "Threshold": 1}
    return plain | {"ComparisonOperator": "GreaterThanOrEqualToThreshold"} | changes


def test_long_periods_fire_after_short_outages() -> None:
    """The simulator would not show why the alarms are not plainer: N periods need little more than N-2 of trouble."""
    two_of_twenty = statistic("EndpointFailing", "Maximum", Period=1200, EvaluationPeriods=2)
    (fired, state), _ = changes(two_of_twenty, outage("one a minute", 4), 0, BEGINS + HOUR)
    assert (fired > 20, state) == (True, "ALARM")
    # Over a long period, the retries of an outage outweigh what went well before it.
    shares = two_of_twenty | {"Statistic": "Average", "Threshold": 0.5}
    (fired, state), *_ = changes(shares, outage("50 a second", 12), 0, BEGINS + HOUR)
    assert (fired > 12, state) == (True, "ALARM")
