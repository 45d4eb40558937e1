"""The picture of the dashboard shows what CloudWatch would show."""

import json
from collections.abc import Sequence

import pytest

from local.cloudwatch import Figures, Metric, Series, lines, percentile, time_series

SERVICE = {"service": "a-stack"}


def blob(at_s: float, values: dict[str, float | list[float]], **dimensions: str) -> str:
    """Return a line in CloudWatch's embedded metric format."""
    directive = {
        "Namespace": "FlashCallRelay",
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in values],
    }
    return json.dumps({"_aws": {"Timestamp": at_s * 1000, "CloudWatchMetrics": [directive]}, **dimensions, **values})


def graph(*metrics: Sequence[object]) -> dict[str, object]:
    """Return a metric widget's properties."""
    return {"metrics": list(metrics)}


def test_figures_come_from_the_log() -> None:
    """The picture would leave out what was measured, or show another stack's."""
    figures = Figures()
    figures.add_log(
        [
            '{"message": "result.delivered"}',
            "not JSON",
            blob(100, {"ResultsReceived": 3, "PostLatency": [10, 30, 20]}, **SERVICE),
            blob(104, {"ResultsReceived": 4}, **SERVICE),
            blob(111, {"ResultsReceived": 5}, **SERVICE),
            blob(100, {"ResultsReceived": 1000}, service="another"),
        ]
    )
    received = ["FlashCallRelay", "ResultsReceived", "service", "a-stack", {"label": "received", "stat": "Sum"}]
    latency = ["FlashCallRelay", "PostLatency", "service", "a-stack", {"label": "latency", "stat": "p50"}]
    shown = figures.widget(graph(received, latency), period=10)
    assert [(line.label, series) for line, series in shown] == [
        ("received", {100: 7, 110: 5}),
        ("latency", {100: 20}),
    ]


def test_a_search_finds_each_reason_of_this_stack() -> None:
    """The picture would show no reasons, or not say which is which."""
    figures = Figures()
    figures.add_log(
        [
            blob(0, {"ResultsDeferred": 9}, **SERVICE),
            blob(0, {"ResultsDeferred": 2}, **SERVICE, reason="timeout"),
            blob(0, {"ResultsDeferred": 1}, **SERVICE, reason="bad_reply"),
            blob(0, {"ResultsParked": 1}, **SERVICE, reason="rejected"),
            blob(0, {"ResultsDeferred": 5}, service="another", reason="timeout"),
        ]
    )
    search = "SEARCH('{FlashCallRelay,reason,service} MetricName=\"ResultsDeferred\" service=\"a-stack\"', 'Sum', 300)"
    shown = figures.widget(graph([{"expression": search, "label": "${PROP('Dim.reason')}"}]), period=10)
    assert [(line.label, series) for line, series in shown] == [("bad_reply", {0: 1}), ("timeout", {0: 2})]


def test_expressions_are_worked_out_from_lines_that_may_be_hidden() -> None:
    """The success rate in the picture would be wrong."""
    figures = Figures()
    verified = Metric.of("FlashCallRelay", "CallsVerified", SERVICE)
    figures.observed[verified] = [(0, 3), (10, 1), (20, 0)]
    figures.observed[Metric.of("FlashCallRelay", "CallsFailed", SERVICE)] = [(0, 1), (10, 1)]
    hidden = {"stat": "Sum", "visible": False}
    rows: list[list[object]] = [
        ["FlashCallRelay", "CallsVerified", "service", "a-stack", {"id": "verified", **hidden}],
        ["FlashCallRelay", "CallsFailed", "service", "a-stack", {"id": "failed", **hidden}],
        [{"id": "rate", "expression": "100 * verified / (verified + failed)", "label": "rate"}],
        [{"id": "most", "expression": "TIME_SERIES(AVG(rate) + 2 * STDDEV(rate))", "label": "most"}],
    ]
    (_, rate), (_, most) = figures.widget(graph(*rows), period=10)
    assert rate == {0: 75, 10: 50}
    assert most == {0: 87.5, 10: 87.5, 20: 87.5}


def test_without_figures_there_is_nothing_to_work_out() -> None:
    """A relay that nothing was sent to could not be drawn."""
    rate: list[object] = [{"id": "rate", "expression": "AVG(missing)", "label": "rate"}]
    ((_, series),) = Figures().widget(graph(rate), period=10)
    assert series == {}


@pytest.mark.parametrize("expression", ["unknown + 1", "MAX(known)", "AVG(known)", "known ** 2", "known.real"])
def test_expressions_that_are_not_understood_are_refused(expression: str) -> None:
    """The picture would silently show something else than CloudWatch."""
    known: dict[str, Series | float] = {"known": {0: 1.0}}
    with pytest.raises(ValueError, match=r"not understood|no time series"):
        time_series(expression, known)


@pytest.mark.parametrize(
    "entry",
    [
        ["AWS/SQS", "Depth", "QueueName", {"stat": "Sum"}],
        ["AWS/SQS", "Depth", "QueueName", "queue"],
        ["AWS/SQS", 7, {"stat": "Sum"}],
        [{"label": "nothing"}],
    ],
)
def test_entries_that_are_no_metrics_are_refused(entry: list[object]) -> None:
    """CloudWatch would refuse the dashboard, and the tests would not."""
    with pytest.raises(ValueError, match="not a metric"):
        lines({"metrics": [entry]})


def test_percentiles_lie_between_the_closest_values() -> None:
    """The latencies in the picture would be wrong."""
    assert percentile([40, 10, 20, 30], 50) == 25
    assert percentile([7], 99) == 7
    assert percentile(list(range(101)), 99) == 99
