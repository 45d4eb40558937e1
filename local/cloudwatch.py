"""What CloudWatch makes of a dashboard's definition and a log: as much of it as the relay's own dashboard asks for."""

import ast
import json
import math
import operator
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Series = dict[float, float]  # the period's beginning, in seconds since the epoch → its value
SEARCH = re.compile(r"""SEARCH\('\{(\w+),([\w,]+)\} MetricName="(\w+)" (\w+)="([^"]+)"', '(\w+)', (\d+)\)""")


@dataclass(frozen=True)
class Metric:
    """A metric: its namespace, its name, and the values of its dimensions by name, sorted."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Mapping[str, str]) -> "Metric":
        """Return the metric of these dimensions."""
        return cls(namespace, name, tuple(sorted(dimensions.items())))


@dataclass(frozen=True)
class Line:
    """One entry of a widget's `metrics`: a metric with its statistic, or an expression."""

    source: Metric | str
    stat: str = ""
    id: str = ""
    label: str = ""
    color: str = ""
    right: bool = False
    visible: bool = True


def lines(properties: Mapping[str, Any]) -> list[Line]:
    """Return a metric widget's lines.

    Raises:
        ValueError: if an entry is no namespace, name, pairs of dimension and value, and options, in this order.
    """
    read = []
    for entry in properties["metrics"]:
        *names, options = entry
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"not a metric: {entry}")
        looks = {
            "id": options.get("id", ""),
            "label": options.get("label", ""),
            "color": options.get("color", ""),
            "right": options.get("yAxis") == "right",
            "visible": options.get("visible", True),
        }
        if not names and "expression" in options:
            read.append(Line(options["expression"], **looks))
        elif len(names) >= 2 and len(names) % 2 == 0:
            dimensions = dict(zip(names[2::2], names[3::2], strict=True))
            read.append(Line(Metric.of(names[0], names[1], dimensions), options["stat"], **looks))
        else:
            raise ValueError(f"not a metric: {entry}")
    return read


@dataclass
class Figures:
    """What was observed of each metric: values, each with its time in seconds since the epoch."""

    observed: dict[Metric, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, metric: Metric, at: float, value: float) -> None:
        """Note one value."""
        self.observed[metric].append((at, value))

    def add_log(self, log: Iterable[str]) -> None:
        """Note what the blobs of CloudWatch's embedded metric format among these lines say."""
        for text in log:
            if '"_aws"' not in text:
                continue
            blob = json.loads(text)
            for directive in blob["_aws"]["CloudWatchMetrics"]:
                for dimensions in directive["Dimensions"]:
                    named = {name: blob[name] for name in dimensions}
                    for one in directive["Metrics"]:
                        metric = Metric.of(directive["Namespace"], one["Name"], named)
                        values = blob[one["Name"]]
                        for value in values if isinstance(values, list) else [values]:
                            self.add(metric, blob["_aws"]["Timestamp"] / 1000, value)

    def series(self, metric: Metric, stat: str, period: float) -> Series:
        """Return a metric's statistic, period by period (seconds)."""
        periods: dict[float, list[float]] = defaultdict(list)
        for at, value in self.observed.get(metric, ()):
            periods[math.floor(at / period) * period].append(value)
        return {begin: STATISTICS[stat](values) for begin, values in sorted(periods.items())}

    def widget(self, properties: Mapping[str, Any], period: float) -> list[tuple[Line, Series]]:
        """Return what a metric widget shows, each line with its label filled in.

        `period` (seconds) is used in place of the widget's own, and of the one in a search.
        """
        shown: list[tuple[Line, Series]] = []
        known: dict[str, Series | float] = {}
        for line in lines(properties):
            if isinstance(line.source, Metric):
                found = self.series(line.source, line.stat, period)
            elif search := SEARCH.fullmatch(line.source):
                shown += self._search(search, line, period)
                continue
            else:
                found = time_series(line.source, known)
            known[line.id] = found
            if line.visible:
                shown.append((line, found))
        return shown

    def _search(self, search: re.Match[str], line: Line, period: float) -> list[tuple[Line, Series]]:
        namespace, names, metric_name, dimension, value, stat, _ = search.groups()
        found = []
        for metric in sorted(self.observed, key=lambda one: one.dimensions):
            dimensions = dict(metric.dimensions)
            wanted = (namespace, metric_name, set(names.split(",")), value)
            if (metric.namespace, metric.name, set(dimensions), dimensions.get(dimension)) == wanted:
                label = re.sub(r"\$\{PROP\('Dim\.(\w+)'\)\}", lambda prop, at=dimensions: at[prop[1]], line.label)  # type: ignore[misc]
                found.append((Line(metric, stat, label=label, right=line.right), self.series(metric, stat, period)))
        return found


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile (0 to 100) of at least one value, between the closest two."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place % 1)


STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "Sum": sum,
    "Average": statistics.fmean,
    "Maximum": max,
    "p50": lambda values: percentile(values, 50),
    "p99": lambda values: percentile(values, 99),
}


# ---- metric math, whose syntax is a subset of Python's ----

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
FUNCTIONS: dict[str, Callable[[Series], float]] = {
    "AVG": lambda series: statistics.fmean(series.values()),
    "STDDEV": lambda series: statistics.pstdev(series.values()),
}


def time_series(expression: str, known: Mapping[str, Series | float]) -> Series:
    """Return the time series that an expression over the known ones gives; empty if they are.

    Raises:
        ValueError: if it uses what is not known here, or gives a number.
    """
    times = sorted({at for series in known.values() if isinstance(series, dict) for at in series})
    if not times:
        return {}
    result = _value(ast.parse(expression, mode="eval").body, known, times)
    if not isinstance(result, dict):
        raise ValueError(f"no time series: {expression}")  # noqa: TRY004 - the expression's fault
    return result


def _value(node: ast.expr, known: Mapping[str, Series | float], times: list[float]) -> Series | float:
    match node:
        case ast.Constant(int() | float() as number):
            return number
        case ast.Name(name) if name in known:
            return known[name]
        case ast.BinOp(left, symbol, right) if type(symbol) in OPERATORS:
            return _combined(OPERATORS[type(symbol)], _value(left, known, times), _value(right, known, times))
        case ast.Call(ast.Name("TIME_SERIES"), [argument]):
            value = _value(argument, known, times)
            if not isinstance(value, dict):
                return dict.fromkeys(times, value)
        case ast.Call(ast.Name(name), [argument]) if name in FUNCTIONS:
            series = _value(argument, known, times)
            if isinstance(series, dict):
                return FUNCTIONS[name](series)
    raise ValueError(f"not understood: {ast.unparse(node)}")


def _combined(symbol: Callable[[float, float], float], left: Series | float, right: Series | float) -> Series | float:
    """Combine by time: what is missing on one side counts as 0, and a division by zero leaves no value."""
    if not isinstance(left, dict) and not isinstance(right, dict):
        return symbol(left, right)
    series: Series = {}
    for at in sorted({at for side in (left, right) if isinstance(side, dict) for at in side}):
        sides = [side.get(at, 0) if isinstance(side, dict) else side for side in (left, right)]
        if symbol is not operator.truediv or sides[1]:
            series[at] = symbol(*sides)
    return series
