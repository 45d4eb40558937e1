"""Telemetry: a line for each outcome and batch, metrics that agree, and no failure of it changes an outcome."""

import itertools
import json
import logging
import math
import re
import time
from contextlib import redirect_stdout
from typing import Any, cast

import pytest

from flash_call_relay import telemetry
from flash_call_relay.models import Deferred, Delivered, Processed, Reason, Record
from local.endpoint.behaviour import after, answer, error
from tests.support.emitted import MAX_VALUES, emitted_metrics
from tests.support.payloads import result
from tests.support.relay import SUCCESS, UUID, Context, InProcessRelay

BEGINS = ["level", "message", "timestamp", "service", "function_request_id"]  # of every line, from the logger
OF_A_RECORD = "receive_count duration_ms age_s message_id"
LINES = [
    f"ERROR result.parked outcome reason detail {OF_A_RECORD}".replace(" duration_ms", ""),
    f"INFO result.delivered uuid status outcome http_status {OF_A_RECORD}",
    f"INFO result.duplicate uuid status outcome {OF_A_RECORD}".replace(" duration_ms", ""),
    "INFO batch.settled records parked delivered duplicate",
    f"WARNING result.deferred uuid status outcome reason detail http_status retry_in_s {OF_A_RECORD}",
    "INFO batch.settled records deferred",
]


def test_each_outcome_and_each_batch_has_exactly_its_documented_line(relay: InProcessRelay) -> None:
    """After an update, saved queries, alarms and people's scripts would find nothing."""
    relay.endpoint.issue(UUID)
    relay.invoke_with(relay.send(result(UUID), result(UUID), {"status": "Success"}))
    relay.invoke_with(relay.send(result(UUID[::-1], "Failed")), Context(aws_request_id="f" * 36))
    lines = relay.lines()
    assert [line["function_request_id"] for line in lines] == [Context().aws_request_id] * 4 + ["f" * 36] * 2
    assert [" ".join([line["level"], line["message"], *list(line)[5:]]) for line in lines] == LINES
    for line, text in zip(lines, relay.log.getvalue().splitlines(), strict=True):
        assert list(line)[:5] == BEGINS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["timestamp"])
        assert text == json.dumps(line, separators=(",", ":")), "spaces cost money"
    own = {name: value for name, value in lines[1].items() if name == "message" or name not in BEGINS}
    assert len(json.dumps(own)) <= 300, "at a million results a day, CloudWatch would cost too much"


def test_at_debug_each_attempt_has_a_line(relay: InProcessRelay, caplog: pytest.LogCaptureFixture) -> None:
    """`LogLevel: DEBUG` would do nothing, so a person who looks for one result would not see a repeated attempt."""
    caplog.set_level(logging.DEBUG, telemetry.logger.name)
    relay.endpoint.issue(UUID)
    relay.endpoint.misbehave(UUID, error(408), error(503))
    for _ in range(3):
        relay.invoke_with(relay.send(result(UUID)))
    attempts = relay.lines("attempt.ended")
    assert [line["attempt"]["reason"] for line in attempts] == ["throttled", "endpoint_error", None]
    assert attempts[1]["attempt"]["detail"] == "HTTP 503 Service Unavailable"
    for line in attempts:
        assert (line["level"], line["uuid"], line["status"]) == ("DEBUG", UUID, "Success")
        assert line.keys() == {*BEGINS, "uuid", "status", "attempt"}, "queries count by other fields"


def test_an_outcome_is_logged_before_its_batch_ends(relay: InProcessRelay) -> None:
    """A killed function would leave no log of its whole batch."""
    relay.endpoint.issue("prompt")
    relay.endpoint.misbehave("slow", after(lambda: len(relay.lines("result.")) == 2, error(503)))
    relay.invoke_with(relay.send(result("slow"), result("prompt"), "malformed"))
    assert sorted(relay.outcomes()[:2]) == [("delivered", None), ("parked", "invalid_event")]
    assert relay.outcomes()[2:] == [("deferred", "endpoint_error")], "a timeout if the others were not logged"


# ---- metrics ----


def aged(age_s: float, body: object, message_id: str) -> dict[str, Any]:
    """Return a record of that age, which the relay can deliver or park, but not hide."""
    attributes = {"SentTimestamp": str(int((time.time() - age_s) * 1000)), "ApproximateReceiveCount": "1"}
    text = body if isinstance(body, str) else json.dumps(body)
    record = {"messageId": message_id, "receiptHandle": "none", "body": text, "attributes": attributes}
    return record | {"eventSource": "aws:sqs"}


def test_the_metrics_of_1000_records_stay_within_the_limits_of_emf(relay: InProcessRelay) -> None:
    """CloudWatch would drop values over its limits, and the figures would be wrong in the largest batches."""
    verified = [aged(5, result(f"verified-{n}"), f"v{n}") for n in range(598)]
    verified += [aged(3700, result("late"), "late"), aged(3500, result("in-time"), "in-time")]
    failed = [aged(7, result(f"failed-{n}", "Failed"), f"f{n}") for n in range(250)]
    parked = [aged(4, result(f"verified-{n}", "Failed"), f"x{n}") for n in range(10)]
    parked += [aged(4000, result(f"unknown-{n}"), f"u{n}") for n in range(10)]
    parked += [aged(9000, "malformed", f"m{n}") for n in range(20)]
    copies = [aged(4, result(f"verified-{n}"), f"c{n}") for n in range(80)]
    waiting = relay.send(*(result(f"waiting-{n}") for n in range(30)))
    waiting[7]["attributes"] |= aged(400, "", "")["attributes"]
    waiting[8]["attributes"] |= aged(800, "", "")["attributes"]  # within its grace
    relay.endpoint.misbehave("waiting-7", error(408))
    relay.endpoint.issue(*(json.loads(record["body"])["uuid"] for record in [*verified, *failed]))

    kept = relay.invoke_with([*verified, *failed, *copies, *parked, *waiting])

    assert sorted(kept) == sorted(record["messageId"] for record in waiting)
    counts = {"ResultsReceived": 1000, "ResultsDelivered": 850, "DuplicateResults": 80, "ResultsParked": 40}
    counts |= {"ResultsDeferred": 30, "ConflictingResults": 10, "CredentialsRejected": 0, "EndpointFailing": 0}
    counts |= {"LedgerErrors": 0, "ConfirmedLate": 1, "CallsVerified": 600, "CallsFailed": 250}
    assert {name: relay.counted(name) for name in counts} == {name: [count] for name, count in counts.items()}
    reasons = [one for one in relay.metrics() if "reason" in one.dimensions]
    assert {(one.name, one.dimensions["reason"]): one.values for one in reasons} == {
        ("ResultsDeferred", "unknown_call"): [29],
        ("ResultsDeferred", "throttled"): [1],
        ("ResultsParked", "unknown_call"): [10],
        ("ResultsParked", "invalid_event"): [20],
        ("ResultsParked", "conflicting_status"): [10],
    }
    (oldest,) = relay.counted("OldestPendingAge")
    assert 400 <= oldest < 800, "neither a parked result nor a call within its grace is pending"
    lines = relay.lines("result.")
    ages = sorted(line["age_s"] for line in lines if line["outcome"] == "delivered")
    assert sorted(relay.counted("ConfirmationAge")) == ages
    assert (len(ages), ages[0] >= 5, ages[-252] >= 7) == (850, True, True)
    latencies = sorted(line["duration_ms"] for line in lines if "duration_ms" in line)
    assert sorted(relay.counted("PostLatency")) == latencies
    assert len(latencies) == len(relay.endpoint.requests) == 890
    health = [blob for blob in relay.blobs() if "PostLatency" in blob]
    assert len(health) == math.ceil(890 / MAX_VALUES)
    assert len(relay.blobs()) == len(health) + len(reasons)
    assert max(len(line.encode()) for line in relay.printed.getvalue().splitlines()) < 256 * 1024


def test_an_invocation_without_results_emits_every_health_metric_as_zero(relay: InProcessRelay) -> None:
    """An alarm would have no data, and would neither fire nor end."""
    relay.invoke_with([])
    always = emitted_metrics().keys() - {"PostLatency", "ConfirmationAge"}
    assert {metric.name: metric.values for metric in relay.metrics()} == {name: [0] for name in always}


def test_endpoint_failing_is_1_from_the_fifth_failure_in_a_row(relay: InProcessRelay) -> None:
    """The alarm would fire a batch late, or end with the next batch."""
    relay.configure(CONNECTIONS_PER_FUNCTION="1")
    relay.endpoint.override(error(503))
    for calls in (range(4), range(4, 5), range(5, 6)):
        relay.invoke_with(relay.send(*(result(f"call-{number}") for number in calls)))
    assert relay.counted("EndpointFailing") == [0, 1, 1]
    assert relay.counted("ResultsDeferred", reason="endpoint_error") == [4, 1]
    assert relay.counted("ResultsDeferred", reason="endpoint_failing") == [1]


def test_a_clash_in_the_ledger_counts_as_a_conflicting_result_and_changes_nothing(relay: InProcessRelay) -> None:
    """BetaTel would get two verdicts on one call, and nobody would learn of it."""
    relay.add_ledger()
    relay.endpoint.issue("same", "other")

    def overtaken() -> object:  # another invocation writes after this one has read
        pairs = (("call", "Failed"), ("same", "Success"))
        items = [{"uuid": {"S": uuid}, "status": {"S": word}, "confirmed_at": {"N": "1"}} for uuid, word in pairs]
        return [relay.dynamodb.put_item(TableName=relay.name, Item=item) for item in items]

    relay.endpoint.misbehave("call", after(overtaken, answer(200, result("call"))))
    relay.invoke_with(relay.send(*map(result, ("call", "same", "other")), result("other", "Failed")))
    assert [line["uuid"] for line in relay.lines("ledger.conflict")] == ["call"]
    assert relay.counted("ResultsParked", reason="conflicting_status") == [1]
    assert relay.counted("ConflictingResults") == [2]
    entries = {uuid: (item["status"], item["confirmed_at"] == "1") for uuid, item in relay.ledger_entries().items()}
    assert entries == {"call": ("Failed", True), "same": ("Success", True), "other": ("Success", False)}


# ---- failures of telemetry itself ----


def test_a_line_that_cannot_be_built_costs_no_other_line(relay: InProcessRelay) -> None:
    """One odd outcome would hide the rest of its batch from the log and the metrics."""
    ageless = Processed(Record("odd", "", "", 0.0, 1, SUCCESS), Delivered(200), cast("Any", None))
    good = Processed(Record("good", "", "", 0.0, 1, SUCCESS), Deferred(Reason.THROTTLED, "detail", 10), 1.0)
    with redirect_stdout(relay.printed):
        for one in (ageless, good):
            telemetry.log_outcome(one)
        telemetry.log_settled([ageless, good], {})
        telemetry.emit_metrics([ageless, good], failing=False, throttling=False, late_after_s=0)
    assert [line["message_id"] for line in relay.lines("result.")] == ["good"]
    assert {line["detail"] for line in relay.lines("telemetry.failed")} == {"TypeError"}
    assert relay.lines("batch.settled")[0]["records"] == 2
    assert [one.values for one in relay.metrics() if one.name == "ResultsDeferred"] == [[1]]


@pytest.mark.parametrize("lost", [None, 0, 1, 2], ids=["the log", *map("metric {}".format, range(3))])
def test_a_line_or_a_metric_that_cannot_be_written_costs_no_result_and_no_other_metric(
    relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch, lost: int | None
) -> None:
    """After a full disk, the relay would send delivered results again, or a failed write would silence every alarm."""
    stream, numbers = relay.log if lost is None else relay.printed, itertools.count()
    writes = stream.write

    def write(text: str) -> int:
        if lost in (None, next(numbers)):
            raise OSError("No space left on device")
        return writes(text)

    monkeypatch.setattr(stream, "write", write)
    relay.endpoint.issue("call")
    records = relay.send(result("call"), "malformed", result("unknown"))
    assert relay.invoke_with(records) == [records[2]["messageId"]]
    assert relay.endpoint.accepted == [("call", "Success")]
    assert len(relay.parked(1)) == 1
    kinds = ["invalid_event", "unknown_call", "ResultsReceived"]
    seen = [kind for blob in relay.blobs() for kind in kinds if kind in blob or kind == blob.get("reason")]
    assert seen == [kind for number, kind in enumerate(kinds) if number != lost]
    failed = [(line["level"], line["detail"]) for line in relay.lines("telemetry.failed")]
    assert failed == ([] if lost is None else [("ERROR", "OSError")])
