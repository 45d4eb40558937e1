"""CloudWatch's embedded metric format, read by its specification: a value that CloudWatch would drop fails here.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
Units have the type MetricUnit, and the relay's names and dimensions are few, short and its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_METRICS = MAX_VALUES = 100


@dataclass(frozen=True)
class EmfMetric:
    """One metric of one blob."""

    namespace: str
    name: str
    unit: str
    dimensions: dict[str, str]
    values: list[float]


def read(blob: dict[str, Any]) -> list[EmfMetric]:
    """Return a blob's metrics.

    Raises:
        AssertionError: if CloudWatch would refuse a part of the blob.
    """
    assert type(blob["_aws"]["Timestamp"]) is int
    metrics = []
    for directive in blob["_aws"]["CloudWatchMetrics"]:
        names = [definition["Name"] for definition in directive["Metrics"]]
        assert 1 <= len(names) <= MAX_METRICS, "too few or too many metrics"
        assert len({*names}) == len(names), "a metric is defined twice"
        for keys in directive["Dimensions"]:
            dimensions = {key: blob[key] for key in keys}
            assert all(isinstance(value, str) and value for value in dimensions.values())
            for definition in directive["Metrics"]:
                name, found = definition["Name"], blob[definition["Name"]]
                values = found if isinstance(found, list) else [found]
                assert 1 <= len(values) <= MAX_VALUES, f"{len(values)} values of {name}"
                assert all(type(value) in (int, float) for value in values)
                metrics.append(EmfMetric(directive["Namespace"], name, definition["Unit"], dimensions, values))
    return metrics


def values_of(metrics: Iterable[EmfMetric], name: str, dimensions: dict[str, str]) -> list[float]:
    """Return the values of a metric with exactly these dimensions, in written order."""
    return [value for one in metrics if (one.name, one.dimensions) == (name, dimensions) for value in one.values]
