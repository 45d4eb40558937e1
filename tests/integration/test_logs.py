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


HEAD = '"timestamp":"<time>","service":"flash-call-relay","function_request_id":"<id>",'
DELIVERED = (
    '{"level":"INFO","message":"result.delivered",' + HEAD + '"uuid":"<uuid>","status":"Success","outcome":"delivered",'
    '"http_status":200,"receive_count":1,"duration_ms":<n>,"age_s":<n>,"message_id":"<id>"}'
)
DUPLICATE = (
    '{"level":"INFO","message":"result.duplicate",' + HEAD + '"uuid":"<uuid>","status":"Success","outcome":"duplicate",'
    '"receive_count":1,"age_s":<n>,"message_id":"<id>"}'
)
DEFERRED = (
    '{"level":"WARNING","message":"result.deferred",' + HEAD + '"uuid":"<uuid>","status":"Failed","outcome":"deferred",'
    '"reason":"unknown_call","detail":"HTTP 404 The flash call does not exist","http_status":404,"retry_in_s":<n>,'
    '"receive_count":1,"duration_ms":<n>,"age_s":<n>,"message_id":"<id>"}'
)
PARKED = (
    '{"level":"ERROR","message":"result.parked",' + HEAD + '"outcome":"parked","reason":"invalid_event",'
    '"detail":"the body has no uuid; expected a JSON object with uuid and status",'
    '"receive_count":1,"age_s":<n>,"message_id":"<id>"}'
)
SETTLED = '{"level":"INFO","message":"batch.settled",' + HEAD + '"records":%d,%s}'


def general(text: str) -> list[str]:
    """Return log lines with placeholders for the values that differ each time."""
    text = re.sub(r'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"', '"timestamp":"<time>"', text)
    text = re.sub(r'"(function_request_id|message_id)":"[0-9a-f-]{36}"', r'"\1":"<id>"', text)
    text = re.sub(r'"uuid":"\w{26}"', '"uuid":"<uuid>"', text)
    return re.sub(r'"(duration_ms|age_s|retry_in_s)":\d+(\.\d)?\b', r'"\1":<n>', text).splitlines()


def test_each_outcome_and_each_batch_has_exactly_its_documented_line(relay: InProcessRelay) -> None:
    """After an update, saved queries, alarms and people's scripts would find nothing."""
    relay.endpoint.issue(UUID)
    relay.invoke_with(relay.send(result(UUID), result(UUID), {"status": "Success"}))
    relay.invoke_with(relay.send(result(UUID[::-1], "Failed")), Context(aws_request_id="f" * 36))
    assert [line["function_request_id"] for line in relay.lines()] == [Context().aws_request_id] * 4 + ["f" * 36] * 2
    assert general(relay.log.getvalue()) == [
        *(PARKED, DELIVERED, DUPLICATE, SETTLED % (3, '"parked":1,"delivered":1,"duplicate":1')),
        *(DEFERRED, SETTLED % (1, '"deferred":1')),
    ]
    (delivered,) = map(own, relay.lines("result.delivered"))
    assert len(json.dumps(delivered).encode()) <= 300, "at a million results a day, CloudWatch would cost too much"


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
