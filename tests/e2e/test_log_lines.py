"""The deployed function's lines, to the letter: saved queries, alarms and people's scripts rely on them."""

import json
import re

from tests.support import emf
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.emitted import emitted_fields, emitted_metrics
from tests.support.payloads import result

HEAD = '"timestamp":"<time>","service":"relay","function_request_id":"<id>",'
DELIVERED = [
    '{"level":"INFO","message":"result.delivered",' + HEAD + '"uuid":"<uuid>","status":"Success","outcome":"delivered",'
    '"http_status":200,"receive_count":1,"duration_ms":<n>,"age_s":<n>,"message_id":"<id>"}',
    '{"level":"INFO","message":"batch.settled",' + HEAD + '"records":1,"delivered":1}',
]
DUPLICATE = [
    '{"level":"INFO","message":"result.duplicate",' + HEAD + '"uuid":"<uuid>","status":"Success","outcome":"duplicate",'
    '"receive_count":1,"age_s":<n>,"message_id":"<id>"}',
    '{"level":"INFO","message":"batch.settled",' + HEAD + '"records":1,"duplicate":1}',
]
DEFERRED = [
    '{"level":"WARNING","message":"result.deferred",' + HEAD + '"uuid":"<uuid>","status":"Failed","outcome":"deferred",'
    '"reason":"unknown_call","detail":"HTTP 404 The flash call does not exist","http_status":404,"retry_in_s":<n>,'
    '"receive_count":1,"duration_ms":<n>,"age_s":<n>,"message_id":"<id>"}',
    '{"level":"INFO","message":"batch.settled",' + HEAD + '"records":1,"deferred":1}',
]
PARKED = [
    '{"level":"ERROR","message":"result.parked",' + HEAD + '"outcome":"parked","reason":"invalid_event",'
    '"detail":"the body has no uuid; expected a JSON object with uuid and status",'
    '"receive_count":1,"age_s":<n>,"message_id":"<id>"}',
    '{"level":"INFO","message":"batch.settled",' + HEAD + '"records":1,"parked":1}',
]


def written(relay: DeployedRelay, message_id: str) -> list[str]:
    """Wait for the end of the first invocation with this message; return its lines."""
    lines: list[str] = []

    def over() -> bool:
        log = relay.deployment.raw_log()
        first = next((at for at, line in enumerate(log) if f'"message_id":"{message_id}"' in line), None)
        if first is None:
            return False
        request = json.loads(log[first])["function_request_id"]
        begin, end = (
            next((at for at, line in enumerate(log) if f"{word} RequestId: {request}" in line), None)
            for word in ("START", "END")
        )
        if begin is None or end is None:
            return False
        lines[:] = log[begin + 1 : end]
        return True

    wait_for(over, "the end of an invocation")
    return lines


def general(lines: list[str]) -> list[str]:
    """Return the log lines, with placeholders for the values that differ each time."""
    text = "\n".join(line for line in lines if '"_aws"' not in line and '"message":"settings.' not in line)
    text = re.sub(r'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"', '"timestamp":"<time>"', text)
    text = re.sub(r'"(function_request_id|message_id)":"[0-9a-f-]{36}"', r'"\1":"<id>"', text)
    text = re.sub(r'"uuid":"[0-9a-f]{32}"', '"uuid":"<uuid>"', text)
    return re.sub(r'"(duration_ms|age_s|retry_in_s)":\d+(\.\d)?\b', r'"\1":<n>', text).splitlines()


def figures(lines: list[str]) -> dict[str, list[float]]:
    """Return the metrics other than zero, by name, and by name and reason."""
    metrics = [metric for line in lines if '"_aws"' in line for metric in emf.read(json.loads(line))]
    assert {(metric.namespace, metric.dimensions["service"]) for metric in metrics} == {("FlashCallRelay", "relay")}
    names = {"/".join([metric.name, metric.dimensions.get("reason", "")]).strip("/"): metric for metric in metrics}
    assert names.keys() >= emitted_metrics().keys() - {"PostLatency", "ConfirmationAge"}
    timed = ("PostLatency", "ConfirmationAge", "OldestPendingAge")
    return {name: metric.values for name, metric in names.items() if metric.name not in timed and any(metric.values)}


def test_each_outcome_has_exactly_its_documented_line_and_metrics(relay: DeployedRelay) -> None:
    """After an update, saved queries, alarms and people's scripts would find nothing."""
    known, unknown = result(), result(status="Failed")
    relay.endpoint.issue(known["uuid"])
    received = {"ResultsReceived": [1.0]}

    def write(body: dict[str, str]) -> list[str]:
        relay.settled()
        return written(relay, *relay.send(body))

    lines = write(known)
    assert general(lines) == DELIVERED
    assert figures(lines) == {**received, "ResultsDelivered": [1], "CallsVerified": [1]}
    lines = write(known)
    assert general(lines) == DUPLICATE
    assert figures(lines) == {**received, "DuplicateResults": [1]}
    lines = write({"status": "Success"})
    assert general(lines) == PARKED
    assert figures(lines) == {**received, "ResultsParked": [1], "ResultsParked/invalid_event": [1]}
    lines = write(unknown)
    assert general(lines) == DEFERRED
    assert figures(lines) == {**received, "ResultsDeferred": [1], "ResultsDeferred/unknown_call": [1]}

    relay.endpoint.issue(unknown["uuid"])
    relay.settled()
    relay.parked(1)


def test_the_function_writes_only_known_fields_and_metrics(relay: DeployedRelay) -> None:
    """The checks of dashboard, alarms and saved queries would rest on fields that the function never writes."""
    one = result()
    relay.endpoint.issue(one["uuid"])
    relay.send(one)
    relay.story(one["uuid"], 1)
    lines = [line for line in relay.deployment.log() if line.get("service") == "relay"]
    assert {field for line in lines for field in line} <= emitted_fields()
    blobs = relay.deployment.metrics()
    assert {metric.name for blob in blobs for metric in emf.read(blob)} <= emitted_metrics().keys()
    assert not [blob for blob in blobs if "level" in blob], "Lambda's log level would drop it"
