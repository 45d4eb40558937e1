"""CloudWatch's embedded metric format, read by its specification: a value that CloudWatch would drop fails here.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

MAX_METRICS = MAX_VALUES = 100
MAX_DIMENSIONS = 29
MAX_TEXT = 1024  # characters of a name, a namespace or a dimension's value
UNITS = {unit.value for unit in MetricUnit}


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
    meta = blob["_aws"]
    assert type(meta["Timestamp"]) is int
    metrics = [metric for directive in meta["CloudWatchMetrics"] for metric in _read(blob, directive)]
    assert metrics, "a blob without metrics"
    return metrics


def _read(blob: dict[str, Any], directive: dict[str, Any]) -> Iterable[EmfMetric]:
    namespace, definitions = directive["Namespace"], directive["Metrics"]
    assert 1 <= len(namespace) <= MAX_TEXT
    assert 1 <= len(definitions) <= MAX_METRICS, "too many metrics"
    assert len({definition["Name"] for definition in definitions}) == len(definitions), "a metric is defined twice"
    for keys in directive["Dimensions"]:
        assert len(keys) <= MAX_DIMENSIONS, "too many dimensions"
        dimensions = {key: blob[key] for key in keys}
        assert all(isinstance(value, str) and 1 <= len(value) <= MAX_TEXT for value in dimensions.values())
        for definition in definitions:
            name, unit, values = definition["Name"], definition["Unit"], blob[definition["Name"]]
            values = values if isinstance(values, list) else [values]
            assert 1 <= len(name) <= MAX_TEXT
            assert unit in UNITS
            assert 1 <= len(values) <= MAX_VALUES, f"{len(values)} values of {name}"
            assert all(type(value) in (int, float) for value in values)
            yield EmfMetric(namespace, name, unit, dimensions, values)


def values_of(metrics: Iterable[EmfMetric], name: str, dimensions: dict[str, str]) -> list[float]:
    """Return the values of a metric with exactly these dimensions, in written order."""
    return [value for one in metrics if (one.name, one.dimensions) == (name, dimensions) for value in one.values]
