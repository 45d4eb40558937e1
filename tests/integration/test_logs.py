"""What an on-call engineer reads: a line an outcome, a line a batch, and nothing that changes an outcome."""

import io
import json
from typing import Any, NoReturn

import pytest

from flash_call_relay import telemetry
from local.misbehaviour import error
from tests.integration.relay import UUID, Context, Relay, result

RUNTIME = {"level", "timestamp", "service", "function_request_id"}  # on every line, added by the logger


def own(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line's own fields."""
    assert line.keys() >= RUNTIME
    return {name: value for name, value in line.items() if name not in RUNTIME}


def test_a_delivered_line_is_lean(relay: Relay) -> None:
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


def test_every_outcome_has_a_line(relay: Relay) -> None:
    """On call, one could not find out what became of a result, or search for it."""
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


def test_every_batch_has_a_line_with_its_counts(relay: Relay) -> None:
    """A batch that was only settled in part would look like any other."""
    relay.endpoint.issue("a", "b")
    relay.invoke_with(relay.send(result("a"), result("b"), result("unknown"), "malformed"))
    (line,) = map(own, relay.lines("batch.settled"))
    assert line == {"message": "batch.settled", "records": 4, "delivered": 2, "deferred": 1, "parked": 1}


def test_each_line_names_its_invocation(relay: Relay) -> None:
    """A line could not be matched with Lambda's own report of a time-out."""
    for request_id in ("first", "second"):
        relay.invoke_with(relay.send(result("unknown")), Context(aws_request_id=request_id))
        relay.endpoint.issue("unknown")
    assert [line["function_request_id"] for line in relay.lines()] == ["first"] * 2 + ["second"] * 2


def test_a_log_that_can_not_be_written_changes_nothing(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a closed pipe would have delivered results sent again."""

    class Broken(io.StringIO):
        def write(self, *_: object) -> NoReturn:
            raise OSError("No space left on device")

    for writing in telemetry.logger.handlers:
        monkeypatch.setattr(writing, "stream", Broken())
    relay.endpoint.issue("call")
    records = relay.send(result("call"), "malformed", result("unknown"))
    assert relay.invoke_with(records) == [records[2]["messageId"]]
    assert relay.endpoint.accepted == [("call", "Success")]
    assert len(relay.parked(1)) == 1
