"""The log: a line for each outcome and each batch, and no failure of the log changes an outcome."""

import json
import logging
import re
import threading
from contextlib import redirect_stdout
from typing import Any, cast

import pytest

from flash_call_relay import telemetry
from flash_call_relay.models import Deferred, Delivered, FlashCallResult, Processed, Reason, Record
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import error
from local.processes import wait_until
from tests.support.payloads import result
from tests.support.relay import PATIENCE_S, SUCCESS, UUID, Context, FailingStream, InProcessRelay

RUNTIME = {"level", "timestamp", "service", "function_request_id"}  # the logger adds these to every line


def own(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line's fields other than the logger's."""
    assert line.keys() >= RUNTIME
    return {name: value for name, value in line.items() if name not in RUNTIME}


def test_a_delivered_line_has_at_most_300_bytes_of_its_own(relay: InProcessRelay) -> None:
    """At a million results a day, CloudWatch would cost more than the relay."""
    relay.endpoint.issue(UUID)
    (record,) = relay.send(result(UUID))
    relay.invoke_with([record])
    (line,) = map(own, relay.lines("result."))
    assert line.keys() == {
        *("message", "uuid", "status", "outcome", "http_status"),
        *("receive_count", "duration_ms", "age_s", "message_id"),
    }
    assert len(json.dumps(line).encode()) <= 300
    assert line["message"] == "result.delivered"
    assert (line["uuid"], line["status"], line["http_status"]) == (UUID, "Success", 200)
    assert (line["receive_count"], line["message_id"]) == (1, record["messageId"])
    assert line["duration_ms"] > 0


def test_every_outcome_is_logged_with_its_fields(relay: InProcessRelay) -> None:
    """An on-call engineer could not find out what became of a result, or search for it."""
    relay.endpoint.issue(UUID)
    relay.endpoint.misbehave("refused", error(400))
    relay.endpoint.misbehave("failed", error(500))
    calls = (UUID, "refused", "failed", "unknown")
    relay.invoke_with([*relay.send(*(result(uuid, "Failed") for uuid in calls), "malformed")], Context())
    lines = {line.get("uuid", "malformed"): own(line) for line in relay.lines("result.")}
    assert len(relay.lines("result.")) == len(lines) == 5
    seen = {
        uuid: (line["message"], line["outcome"], line.get("reason"), line.get("http_status"))
        for uuid, line in lines.items()
    }
    assert seen == {
        UUID: ("result.delivered", "delivered", None, 200),
        "refused": ("result.parked", "parked", "rejected", 400),
        "failed": ("result.deferred", "deferred", "endpoint_error", 500),
        "unknown": ("result.deferred", "deferred", "unknown_call", 404),
        "malformed": ("result.parked", "parked", "invalid_event", None),
    }
    always = {"message", "outcome", "receive_count", "age_s", "message_id"}
    assert {uuid for uuid, line in lines.items() if not line.keys() >= always} == set()
    assert {uuid for uuid, line in lines.items() if line.get("status") == "Failed"} == set(calls)
    assert {uuid for uuid, line in lines.items() if "retry_in_s" in line} == {"failed", "unknown"}
    assert lines["refused"]["detail"] == "HTTP 400 Bad Request"


def test_at_debug_each_attempt_has_a_line(relay: InProcessRelay, caplog: pytest.LogCaptureFixture) -> None:
    """`LogLevel: DEBUG` would do nothing, so a person who looks for one result would not see a repeated attempt."""
    caplog.set_level(logging.DEBUG, telemetry.logger.name)
    relay.endpoint.issue(UUID)
    relay.endpoint.misbehave(UUID, error(408), error(503))
    relay.invoke_with(relay.send(result(UUID)))
    relay.invoke_with(relay.send(result(UUID)))
    relay.invoke_with(relay.send(result(UUID)))
    attempts = [own(line) for line in relay.lines("attempt.ended")]
    assert [(line["uuid"], line["status"], line["attempt"]["reason"]) for line in attempts] == [
        (UUID, "Success", reason) for reason in ("throttled", "endpoint_error", None)
    ]
    assert attempts[1]["attempt"]["detail"] == "HTTP 503 Service Unavailable"
    assert all(line.keys() == {"message", "uuid", "status", "attempt"} for line in attempts), "queries count by others"
    assert all(line["level"] == "DEBUG" for line in relay.lines("attempt.ended"))


def test_every_batch_ends_with_a_line_of_counts(relay: InProcessRelay) -> None:
    """A partly settled batch would look like any other."""
    relay.endpoint.issue("a", "b")
    relay.invoke_with(relay.send(result("a"), result("b"), result("unknown"), "malformed"))
    (line,) = map(own, relay.lines("batch.settled"))
    assert line == {"message": "batch.settled", "records": 4, "delivered": 2, "deferred": 1, "parked": 1}


def test_every_line_carries_its_request_id(relay: InProcessRelay) -> None:
    """An engineer could not match a line with Lambda's own report of a time-out."""
    for request_id in ("first", "second"):
        relay.invoke_with(relay.send(result("unknown")), Context(aws_request_id=request_id))
        relay.endpoint.issue("unknown")
    assert [line["function_request_id"] for line in relay.lines()] == ["first"] * 2 + ["second"] * 2


def test_an_outcome_is_logged_before_its_batch_ends(relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed function would leave no log of its whole batch."""
    post, over = Webhook.post, threading.Event()

    def wait_for_one(webhook: Webhook, sent: FlashCallResult, *further: Any, **options: Any) -> Any:
        if sent.uuid == "slow":
            over.wait(2 * PATIENCE_S)
        return post(webhook, sent, *further, **options)

    monkeypatch.setattr(Webhook, "post", wait_for_one)
    relay.endpoint.issue("slow", "prompt")
    records = relay.send(result("slow"), result("prompt"), "malformed")
    invocation = threading.Thread(target=relay.invoke_with, args=[records])
    invocation.start()
    seen = wait_until(lambda: len(relay.lines("result.")) == 2, limit_s=PATIENCE_S)
    over.set()
    invocation.join()
    assert seen, "the finished records are logged before the slow one ends"
    assert [line["outcome"] for line in relay.lines("result.")][-1:] == ["delivered"]
    assert len(relay.lines("result.")) == 3


def test_every_line_has_the_level_and_timestamp_that_lambda_reads(relay: InProcessRelay) -> None:
    """Lambda would take each line for INFO, and date it by its arrival."""
    relay.invoke_with(relay.send(result("unknown"), "malformed"))
    assert {line["level"] for line in relay.lines()} == {"INFO", "WARNING", "ERROR"}
    for line in relay.lines():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)", line["timestamp"])


def test_debug_level_does_not_open_the_libraries_logs(
    relay: InProcessRelay, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At DEBUG, an engineer would drown in the libraries' lines, and the customer would pay for them."""
    heard: list[logging.LogRecord] = []
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", heard.append)
    monkeypatch.setattr(logging.getLogger(), "handlers", [listener])
    caplog.set_level(logging.DEBUG)
    logging.getLogger("some.library").debug("heard")
    relay.endpoint.issue("call")
    relay.invoke_with(relay.send(result("call"), result("unknown")))
    assert heard[0].getMessage() == "heard"
    assert {record.name for record in heard[1:] if record.levelno < logging.WARNING} <= {telemetry.SERVICE}


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
