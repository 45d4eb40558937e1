"""CloudWatch's evaluation of an alarm, by AWS's documentation (docs/decisions/aws.md#alarms).

CloudWatch evaluates an alarm every minute, over windows of the alarm's period that end then. It retrieves more windows
than the alarm needs; AWS does not say how many. Older windows with data replace windows without data. If they are too
few, `TreatMissingData` decides.
"""

import operator
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Series:
    """A time series with the operations of CloudWatch's metric math that the template's alarms use."""

    points: Datapoints

    def __add__(self, other: "_Series") -> "_Series":
        pairs = zip(self.points, other.points, strict=True)
        return _Series([None if a is None or b is None else a + b for a, b in pairs])

    def __gt__(self, limit: float) -> "_Series":
        return _Series([None if point is None else float(point > limit) for point in self.points])


def _fill(series: _Series, value: str | float) -> _Series:
    if value != REPEAT:
        return _Series([float(value) if point is None else point for point in series.points])
    points: Datapoints = []
    for point in series.points:
        points.append(points[-1] if point is None and points else point)
    return _Series(points)


def _if(condition: _Series, value: _Series, otherwise: float) -> _Series:
    pairs = zip(condition.points, value.points, strict=True)
    return _Series([None if c is None else v if c else otherwise for c, v in pairs])


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
    length = period_s(alarm) // MINUTE_S
    ranges = [range(now - (i + 1) * length, now - i * length) for i in reversed(range(windows))]

    def series(metric: Mapping[str, Any], statistic: str) -> _Series:
        known = reported.get(_metric_name(metric), MetricHistory())
        return _Series([known.statistic(statistic, minutes) for minutes in ranges])

    if "Metrics" not in alarm:
        return series(alarm, alarm["Statistic"]).points
    stats = {one["Id"]: one["MetricStat"] for one in alarm["Metrics"] if "MetricStat" in one}
    names: dict[str, Any] = {name: series(stat["Metric"], stat["Stat"]) for name, stat in stats.items()}
    (expression,) = [one["Expression"] for one in alarm["Metrics"] if "Expression" in one]
    result: _Series = eval(expression, {"FILL": _fill, "IF": _if, REPEAT: REPEAT}, names)
    return result.points


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
