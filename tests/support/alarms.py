"""CloudWatch's evaluation of an alarm, by AWS's documentation (docs/decisions/aws.md#alarms).

CloudWatch evaluates an alarm every minute, over windows of the alarm's period that end then. It retrieves more windows
than the alarm needs; AWS does not say how many. Older windows with data replace windows without data. If they are too
few, `TreatMissingData` decides.
"""

import operator
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

MINUTE_S = 60
RETRIEVED_BEYOND = (0, 2)  # windows; in AWS's example an alarm needs three, and CloudWatch retrieves five
REPEAT = "REPEAT"
MULTI_DAY_S = 86_400  # CloudWatch evaluates an alarm over more than this once an hour

Datapoints = list[float | None]  # of consecutive windows, oldest first; None: no data


_STATISTICS: Mapping[str, Callable[[list[float]], float]] = {
    "Average": statistics.fmean,
    "Maximum": max,
    "SampleCount": len,
    "Sum": sum,
}


class MetricHistory:
    """A metric's reported values, by minute."""

    def __init__(self) -> None:
        self.values = defaultdict[int, list[float]](list)

    def report(self, at_s: float, value: float) -> None:
        """Add a value that was reported at the moment `at_s`, in seconds."""
        self.values[int(at_s // MINUTE_S)].append(value)

    def statistic(self, name: str, minutes: range) -> float | None:
        """Return a statistic over these minutes; None if they have no data."""
        values = [value for minute in minutes for value in self.values.get(minute, ())]
        return _STATISTICS[name](values) if values else None


Reported = Mapping[str, MetricHistory]  # by metric name, or name and reason: "ResultsDeferred/unconfirmed"


def _metric_name(metric: Mapping[str, Any]) -> str:
    reason = [one["Value"] for one in metric["Dimensions"] if one["Name"] == "reason"]
    return "/".join([metric["MetricName"], *reason])


def period_s(alarm: Mapping[str, Any]) -> int:
    """Return an alarm's period in seconds; all its metrics have the same."""
    periods = {one["MetricStat"]["Period"] for one in alarm.get("Metrics", ()) if "MetricStat" in one}
    (period,) = periods or {alarm["Period"]}
    return int(period)


def _datapoints(alarm: Mapping[str, Any], reported: Reported, now: int, windows: int) -> Datapoints:
    """Return the values that CloudWatch retrieves for an alarm at the end of the minute before `now`."""
    single = {"Id": "metric", "MetricStat": {"Metric": alarm, "Stat": alarm.get("Statistic")}}
    metrics = alarm.get("Metrics", [single, {"Expression": "metric"}])
    stats = {one["Id"]: one["MetricStat"] for one in metrics if "MetricStat" in one}
    histories = {name: reported.get(_metric_name(stat["Metric"]), MetricHistory()) for name, stat in stats.items()}
    (expression,) = [compile(one["Expression"], "alarm", "eval") for one in metrics if "Expression" in one]
    points: Datapoints = []

    def fill(value: float | None, other: Any) -> Any:
        return value if value is not None else other if other != REPEAT else points[-1] if points else None

    known = {"FILL": fill, "IF": lambda condition, value, other: value if condition else other, REPEAT: REPEAT}
    length = period_s(alarm) // MINUTE_S
    for end in range(now - (windows - 1) * length, now + 1, length):
        minutes = range(end - length, end)
        values = {name: histories[name].statistic(stat["Stat"], minutes) for name, stat in stats.items()}
        try:
            points.append(eval(expression, known, values))
        except TypeError:  # an operand has no data
            points.append(None)
    return points


def state(alarm: Mapping[str, Any], points: Sequence[float | None], before: str) -> str:
    """Return an alarm's state after the state `before`, from the retrieved values, oldest first."""
    needed, threshold = alarm["EvaluationPeriods"], alarm["Threshold"]
    breaches = {"GreaterThanOrEqualToThreshold": operator.ge, "GreaterThanThreshold": operator.gt}
    real = [breaches[alarm["ComparisonOperator"]](value, threshold) for value in points if value is not None][-needed:]
    if sum(real) >= alarm.get("DatapointsToAlarm", needed):
        return "ALARM"
    if len(real) == needed or alarm["TreatMissingData"] == "notBreaching":
        return "OK"
    return before if all(real) else "OK"  # ignore


def states(alarm: Mapping[str, Any], reported: Reported, minutes: range, beyond: int) -> Iterator[str]:
    """Yield an alarm's state at the end of each of these minutes; before them it is OK.

    CloudWatch retrieves `beyond` more windows than the alarm needs.
    """
    now, every = "OK", 60 if period_s(alarm) * alarm["EvaluationPeriods"] > MULTI_DAY_S else 1
    for minute in minutes:
        if minute % every == 0:
            points = _datapoints(alarm, reported, minute + 1, alarm["EvaluationPeriods"] + beyond)
            now = state(alarm, points, now)
        yield now
