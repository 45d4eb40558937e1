"""The log: a line for each outcome and each batch, and no failure of the log changes an outcome."""

import json
import logging
import re
from contextlib import redirect_stdout
from typing import Any, cast

import pytest

from flash_call_relay import telemetry
from flash_call_relay.models import Deferred, Delivered, Processed, Reason, Record
from local.endpoint.behaviour import after, error
from tests.support.payloads import result
from tests.support.relay import SUCCESS, UUID, Context, FailingStream, InProcessRelay

RUNTIME = ["timestamp", "service", "function_request_id"]  # the logger adds these to every line
OF_A_RECORD = "receive_count duration_ms age_s message_id"
LINES = [
    f"ERROR result.parked outcome reason detail {OF_A_RECORD}".replace(" duration_ms", ""),
    f"INFO result.delivered uuid status outcome http_status {OF_A_RECORD}",
    f"INFO result.duplicate uuid status outcome {OF_A_RECORD}".replace(" duration_ms", ""),
    "INFO batch.settled records parked delivered duplicate",
    f"WARNING result.deferred uuid status outcome reason detail http_status retry_in_s {OF_A_RECORD}",
    "INFO batch.settled records deferred",
]


def own(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line's fields other than the logger's."""
    return {name: value for name, value in line.items() if name not in [*RUNTIME, "level"]}


def test_each_outcome_and_each_batch_has_exactly_its_documented_line(relay: InProcessRelay) -> None:
    """After an update, saved queries, alarms and people's scripts would find nothing."""
    relay.endpoint.issue(UUID)
    relay.invoke_with(relay.send(result(UUID), result(UUID), {"status": "Success"}))
    relay.invoke_with(relay.send(result(UUID[::-1], "Failed")), Context(aws_request_id="f" * 36))
    lines = relay.lines()
    assert [line["function_request_id"] for line in lines] == [Context().aws_request_id] * 4 + ["f" * 36] * 2
    assert [" ".join([line["level"], line["message"], *list(line)[5:]]) for line in lines] == LINES
    for line, text in zip(lines, relay.log.getvalue().splitlines(), strict=True):
        assert list(line)[:5] == ["level", "message", *RUNTIME]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["timestamp"])
        assert text == json.dumps(line, separators=(",", ":")), "spaces cost money"
    assert len(json.dumps(own(lines[1])).encode()) <= 300, "at a million results a day, CloudWatch would cost too much"


def test_at_debug_each_attempt_has_a_line(relay: InProcessRelay, caplog: pytest.LogCaptureFixture) -> None:
    """`LogLevel: DEBUG` would do nothing, so a person who looks for one result would not see a repeated attempt."""
    caplog.set_level(logging.DEBUG, telemetry.logger.name)
    relay.endpoint.issue(UUID)
    relay.endpoint.misbehave(UUID, error(408), error(503))
    for _ in range(3):
        relay.invoke_with(relay.send(result(UUID)))
    attempts = [own(line) for line in relay.lines("attempt.ended")]
    assert [(line["uuid"], line["status"], line["attempt"]["reason"]) for line in attempts] == [
        (UUID, "Success", reason) for reason in ("throttled", "endpoint_error", None)
    ]
    assert attempts[1]["attempt"]["detail"] == "HTTP 503 Service Unavailable"
    assert all(line.keys() == {"message", "uuid", "status", "attempt"} for line in attempts), "queries count by others"
    assert all(line["level"] == "DEBUG" for line in relay.lines("attempt.ended"))


def test_an_outcome_is_logged_before_its_batch_ends(relay: InProcessRelay) -> None:
    """A killed function would leave no log of its whole batch."""
    relay.endpoint.issue("prompt")
    relay.endpoint.misbehave("slow", after(lambda: len(relay.lines("result.")) == 2, error(503)))
    relay.invoke_with(relay.send(result("slow"), result("prompt"), "malformed"))
    assert sorted(relay.outcomes()[:2]) == [("delivered", None), ("parked", "invalid_event")]
    assert relay.outcomes()[2:] == [("deferred", "endpoint_error")], "a timeout if the others were not logged"


def test_a_schedule_that_uses_up_the_receives_is_warned_of(relay: InProcessRelay) -> None:
    """An engineer who shortens the schedule would learn from the dead-letter queue only that the horizon is gone."""
    relay.configure(RETRY_CAP_SECONDS="3", MAX_RECEIVE_COUNT="300")
    relay.invoke_with([])
    (line,) = relay.lines("settings.receives_run_out_before_the_horizon")
    assert line["level"] == "WARNING"
    assert line["exhausted_after_s"] < line["retry_horizon_s"] == 86_400


def test_a_line_that_cannot_be_built_costs_no_other_line(relay: InProcessRelay) -> None:
    """One odd outcome would hide the rest of its batch from the log and the metrics."""
    ageless = Processed(Record("odd", "", "", 0.0, 1, SUCCESS), Delivered(200), cast("Any", None))
    good = Processed(Record("good", "", "", 0.0, 1, SUCCESS), Deferred(Reason.THROTTLED, "detail", 10), 1.0)
    batch = telemetry.Invocation("request")
    with redirect_stdout(relay.printed):
        batch.log_outcome(ageless)
        batch.log_outcome(good)
        batch.close({}, failing=False, throttling=False, late_after_s=0)
    assert [line["message_id"] for line in relay.lines("result.")] == ["good"]
    assert {line["detail"] for line in relay.lines("telemetry.failed")} == {"TypeError"}
    assert relay.lines("batch.settled")[0]["records"] == 2
    assert [one.values for one in relay.metrics() if one.name == "ResultsDeferred"] == [[1]]


def test_a_log_that_cannot_be_written_changes_no_outcome(
    relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a full disk or a closed pipe, the relay would send delivered results again."""
    for writing in telemetry.logger.handlers:
        monkeypatch.setattr(writing, "stream", FailingStream(range(1000)))
    relay.endpoint.issue("call")
    records = relay.send(result("call"), "malformed", result("unknown"))
    assert relay.invoke_with(records) == [records[2]["messageId"]]
    assert relay.endpoint.accepted == [("call", "Success")]
    assert len(relay.parked(1)) == 1
