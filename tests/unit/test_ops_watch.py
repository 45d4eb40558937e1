"""`watch` shows what CloudWatch and SQS say, and continues after a failure."""

import json
import re
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from flash_call_relay.models import Reason
from ops import cli, watch
from tests.support.aws import REFUSED, busy_stack, counts
from tests.support.emitted import emitted_dimensions, emitted_metrics
from tests.support.operator import run, terminal

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
THROTTLED = ClientError({"Error": {"Code": "Throttling"}}, "GetQueueAttributes")
VALUES = {
    "received": [5.0, 7.0],
    "delivered": [3.0],
    "duplicate": [2.0],
    "deferred": [6.0, 1.0],
    "parked": [],
    "oldest_s": [84.2, 12.0],
    "throttled": [0.0, 1.0],
    "reason_timeout": [2.0],
    "reason_endpoint_error": [4.0, 1.0],
}


def metrics(values: dict[str, list[float]], asked: list[dict[str, Any]] | None = None) -> Any:
    """Return a `get_metric_data` that knows these values."""

    def answer(**request: Any) -> dict[str, Any]:
        if asked is not None:
            asked.append(request)
        keys = [query["Id"] for query in request["MetricDataQueries"]]
        return {"MetricDataResults": [{"Id": key, "Values": values.get(key, [])} for key in keys]}

    return answer


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that moves only while `watch` sleeps."""
    times = [1_764_000_000.0]
    clock = SimpleNamespace(time=lambda: times[-1], sleep=lambda seconds: times.append(times[-1] + seconds))
    clock.monotonic = clock.time
    monkeypatch.setattr(watch, "time", clock)
    return clock


def test_the_numbers_are_those_of_the_metrics() -> None:
    """An operator would see wrong numbers."""
    recent = watch.from_metrics(busy_stack(get_metric_data=metrics(VALUES)), NOW)
    assert recent == watch.Recent("metrics", 12, 3, 2, 7, 0, {"endpoint_error": 5, "timeout": 2}, 84.2, throttled=True)


def test_the_metrics_asked_for_are_those_that_the_relay_emits() -> None:
    """CloudWatch would refuse the call, or know none of the metrics."""
    asked: list[dict[str, Any]] = []
    watch.from_metrics(busy_stack(get_metric_data=metrics({}, asked)), NOW)
    (request,) = asked
    model = botocore.session.get_session().get_service_model("cloudwatch").operation_model("GetMetricData")
    assert model.input_shape
    assert not ParamValidator().validate(request, model.input_shape).has_errors()
    assert all(re.fullmatch("[a-z]\\w*", query["Id"]) for query in request["MetricDataQueries"])
    stats = [query["MetricStat"]["Metric"] for query in request["MetricDataQueries"]]
    assert {one["Namespace"] for one in stats} == {"FlashCallRelay"}
    assert {one["MetricName"] for one in stats} <= set(emitted_metrics())
    for one in stats:
        assert tuple(each["Name"] for each in one["Dimensions"]) in emitted_dimensions()[one["MetricName"]]
    reasons = [each["Value"] for one in stats for each in one["Dimensions"] if each["Name"] == "reason"]
    assert reasons == [reason.value for reason in Reason]


def test_without_metrics_the_numbers_are_those_of_the_log_lines() -> None:
    """On the local stack, and in the first minutes, an operator would see zeros."""
    recent = watch.from_logs(busy_stack(), NOW)
    assert recent == watch.Recent("logs", 6, 4, 1, 1, 0, {"endpoint_error": 1}, 84.2, throttled=False)


@pytest.mark.parametrize(("reason", "oldest_s", "throttled"), [("unknown_call", None, False), ("throttled", 700, True)])
def test_a_deferral_in_the_log_counts_as_in_the_metrics(reason: str, oldest_s: int | None, throttled: bool) -> None:  # noqa: FBT001
    """The age would not leave out unknown calls as the metric does, or an operator would not see the throttling."""
    line = json.dumps(
        {"timestamp": "2026-11-24T12:00:00Z", "message": "result.deferred", "reason": reason, "age_s": 700}
    )
    recent = watch.from_logs(busy_stack(filter_log_events={"events": [{"message": line}]}), NOW)
    assert (recent.deferred_by_reason, recent.oldest_s, recent.throttled) == ({reason: 1}, oldest_s, throttled)


def test_without_a_terminal_each_refresh_is_one_line() -> None:
    """The log of a script would be full of control characters."""
    ended = run(busy_stack(get_metric_data=metrics(VALUES)), "watch", "--count", "3")
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(
            r"\S+Z  waiting 1, hidden 0, parked 1, dead-lettered 1; in the last 15 minutes \(metrics\): "
            r"received 12, delivered 3, duplicate 2, deferred 7 \(endpoint_error 5, timeout 2\), parked 0, "
            r"oldest 84 s, throttled yes",
            line,
        )


@pytest.mark.parametrize(
    ("mapping", "start"),
    [
        ({"State": "Disabled"}, "intake PAUSED: results wait, waiting 1,"),
        ({"State": "Disabling"}, "intake PAUSED: results wait, waiting 1,"),
        ({"State": "Enabled"}, "waiting 1,"),
        (REFUSED, "waiting 1,"),
    ],
)
def test_a_pause_is_shown(mapping: Any, start: str) -> None:
    """During a pause an operator would see results that wait, and no cause."""
    (line,) = run(busy_stack(get_event_source_mapping=mapping), "watch", "--count", "1").out.splitlines()
    assert line.partition("  ")[2].startswith(start)


def test_an_empty_queue_has_no_oldest_result() -> None:
    """After an outage an operator would believe that a result still waits."""
    empty = busy_stack(get_metric_data=metrics(VALUES), get_queue_attributes=counts())
    assert run(empty, "watch", "--count", "1").out.endswith("oldest none, throttled yes\n")


def test_metrics_are_asked_for_once_a_minute() -> None:
    """A view left open would cost money with each refresh."""
    asked: list[dict[str, Any]] = []
    run(busy_stack(get_metric_data=metrics(VALUES, asked)), "watch", "--every", "10", "--count", "13")
    assert len(asked) == 3


def test_a_later_failure_does_not_end_the_view() -> None:
    """A short failure of the network would end the view at night."""
    replies = iter([*[counts(visible=1)] * 3, THROTTLED, *[counts(visible=2)] * 3])

    def depth(**_: Any) -> Any:
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    ended = run(busy_stack(get_queue_attributes=depth), "watch", "--count", "3")
    assert ended.status == 0
    assert [line.split()[2] for line in ended.out.splitlines()] == ["1,", "2,"]
    assert "AWS throttles GetQueueAttributes" in ended.err
    assert ended.err.count("\n") == 1


def test_a_first_failure_ends_the_command() -> None:
    """An operator without permission would watch nothing."""
    ended = run(busy_stack(get_queue_attributes=THROTTLED), "watch")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)


def test_ctrl_c_ends_it_with_status_0(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    """A script would treat the end of a view as a failure."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep", interrupt)
    ended = run(busy_stack(), "watch")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("\n") == 1


def screen(**environment: str) -> str:
    """Return what two refreshes write on a terminal."""
    with terminal("stdout", 100, **environment) as read, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "Stack", lambda *_, **__: busy_stack())
        assert cli.main(["watch", "--count", "2"]) == 0
        return read()


def test_on_a_terminal_the_view_is_redrawn() -> None:
    """The view would scroll away."""
    text = screen()
    assert text.count("dead-lettered") >= 2
    assert "\x1b[1A" in text, "the cursor moves up"
    assert "a-stack (eu-central-1), every 5 s; Ctrl-C ends" in text
    assert re.search(r"\x1b\[33m", text), "parked messages are yellow"
    assert re.search(r"endpoint_error 1", text)


def test_no_color_leaves_the_colours_out() -> None:
    """An operator who set NO_COLOR would see colours."""
    text = screen(NO_COLOR="1")
    assert "dead-lettered" in text
    assert not re.search(r"\x1b\[[\d;]*[349]\dm", text)


def test_a_terminal_without_a_cursor_gets_lines() -> None:
    """The output of an editor's shell would be full of control characters."""
    text = screen(TERM="dumb")
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2
