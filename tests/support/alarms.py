"""CloudWatch's evaluation of an alarm, by AWS's documentation (docs/decisions/aws.md#alarms).

CloudWatch evaluates an alarm every minute, over windows of the alarm's period that end then. It retrieves more windows
than the alarm needs; AWS does not say how many. Older windows with data replace windows without data. If they are too
few, `TreatMissingData` decides.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

MINUTE_S = 60
RETRIEVED_BEYOND = (0, 2)  # windows; in AWS's example an alarm needs three, and CloudWatch retrieves five
REPEAT = "REPEAT"
MULTI_DAY_S = 86_400  # CloudWatch evaluates an alarm over more than this once an hour

Datapoints = list[float | None]  # of consecutive windows, oldest first; None: no data


@dataclass
class MetricHistory:
    """A metric's reported values, by minute."""

    sums: dict[int, float] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    maxima: dict[int, float] = field(default_factory=dict)

    def report(self, at_s: float, value: float, times: int = 1) -> None:
        """Add a value that was reported `times` times at the moment `at_s`, in seconds."""
        minute = int(at_s // MINUTE_S)
        self.sums[minute] = self.sums.get(minute, 0.0) + value * times
        self.counts[minute] = self.counts.get(minute, 0) + times
        self.maxima[minute] = max(value, self.maxima.get(minute, value))

    def statistic(self, name: str, minutes: range) -> float | None:
        """Return a statistic over these minutes; None if they have no data."""
        present = [minute for minute in minutes if minute in self.counts]
        if not present:
            return None
        count, total = sum(self.counts[m] for m in present), sum(self.sums[m] for m in present)
        figures = {
            "Sum": total,
            "SampleCount": float(count),
            "Average": total / count,
            "Maximum": max(self.maxima[m] for m in present),
        }
        return figures[name]


Reported = Mapping[str, MetricHistory]  # by metric name, or name and reason: "ResultsDeferred/unconfirmed"


class _Series:
    """A time series with the operations of CloudWatch's metric math that the template's alarms use."""

    def __init__(self, points: Datapoints) -> None:
        self.points = points

    def _with(self, other: "_Series | float", operation: Callable[[float, float], float]) -> "_Series":
        others = other.points if isinstance(other, _Series) else [other] * len(self.points)
        pairs = zip(self.points, others, strict=True)
        return _Series([None if a is None or b is None else operation(a, b) for a, b in pairs])

    def __add__(self, other: "_Series | float") -> "_Series":
        return self._with(other, lambda a, b: a + b)

    def __gt__(self, other: "_Series | float") -> "_Series":
        return self._with(other, lambda a, b: float(a > b))


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


def metric_names(alarm: Mapping[str, Any]) -> list[str]:
    """Return the names of an alarm's metrics."""
    stats = [one["MetricStat"]["Metric"] for one in alarm.get("Metrics", ()) if "MetricStat" in one]
    return [_metric_name(metric) for metric in stats or [alarm]]


def period_s(alarm: Mapping[str, Any]) -> int:
    """Return an alarm's period in seconds."""
    (period,) = {one["MetricStat"]["Period"] for one in alarm.get("Metrics", ()) if "MetricStat" in one} or {
        alarm["Period"]
    }
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
    result = eval(_compiled(expression), {"FILL": _fill, "IF": _if, REPEAT: REPEAT}, names)
    assert isinstance(result, _Series)
    return result.points


@cache
def _compiled(expression: str) -> Any:
    return compile(expression, expression, "eval")


def state(alarm: Mapping[str, Any], points: Sequence[float | None], before: str) -> str:
    """Return an alarm's state after the state `before`, from the retrieved values, oldest first."""
    needed = alarm["EvaluationPeriods"]
    to_alarm = alarm.get("DatapointsToAlarm", needed)
    threshold, inclusive = alarm["Threshold"], alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    real = [value > threshold or (inclusive and value == threshold) for value in points if value is not None]
    real = real[-needed:]
    if sum(real) >= to_alarm:
        return "ALARM"
    if len(real) == needed or alarm["TreatMissingData"] == "notBreaching":
        return "OK"
    return before if all(real) else "OK"  # ignore


def states(
    alarm: Mapping[str, Any], reported: Reported, minutes: range, beyond: int, before: str = "OK"
) -> Iterator[str]:
    """Yield an alarm's state at the end of each of these minutes.

    Args:
        alarm: the alarm's properties, resolved.
        reported: the metrics.
        minutes: the minutes to evaluate.
        beyond: how many windows CloudWatch retrieves beyond the windows that the alarm needs.
        before: the state at the beginning.
    """
    windows = alarm["EvaluationPeriods"] + beyond
    every = 60 if period_s(alarm) * alarm["EvaluationPeriods"] > MULTI_DAY_S else 1
    for minute in minutes:
        if minute % every == 0:
            before = state(alarm, _datapoints(alarm, reported, minute + 1, windows), before)
        yield before
