"""CloudWatch's embedded metric format, read by its specification: a value that CloudWatch would drop fails here.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
Units have the type MetricUnit, and the relay's names and dimensions are few, short and its own.
"""

from dataclasses import dataclass
from typing import Any

MAX_VALUES = 100


@dataclass(frozen=True)
class EmfMetric:
    """One metric of one blob."""

    namespace: str
    name: str
    unit: str
    dimensions: dict[str, str]
    values: list[float]


def read(blob: dict[str, Any]) -> list[EmfMetric]:
    """Return a blob's metrics; AssertionError: CloudWatch would refuse a part of the blob."""
    assert type(blob["_aws"]["Timestamp"]) is int
    metrics = []
    for directive in blob["_aws"]["CloudWatchMetrics"]:
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
