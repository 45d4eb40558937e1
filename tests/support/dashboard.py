"""A dashboard's graphs as data: their metrics, statistics and expressions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SEARCH = re.compile(r"""SEARCH\('\{(\w+),([\w,]+)\} MetricName="(\w+)" (\w+)="([^"]+)"', '(\w+)', (\d+)\)""")


@dataclass(frozen=True)
class MetricId:
    """A metric: its namespace, its name, and the values of its dimensions by name, sorted."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Mapping[str, str]) -> "MetricId":
        """Return the metric of these dimensions."""
        return cls(namespace, name, tuple(sorted(dimensions.items())))


@dataclass(frozen=True)
class Line:
    """One entry of a widget's `metrics`: a metric with its statistic, or an expression."""

    source: MetricId | str
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
            read.append(Line(MetricId.of(names[0], names[1], dimensions), options["stat"], **looks))
        else:
            raise ValueError(f"not a metric: {entry}")
    return read
