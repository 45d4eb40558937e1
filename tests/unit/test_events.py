"""Trigger events become records; a record that is not a result says why, and an event without records is refused."""

import json
import traceback
from typing import Any

import pytest

from flash_call_relay.events import UnsupportedEventError, parse_body, probed_call, read
from flash_call_relay.models import FlashCallResult, NoResult
from tests.support.payloads import payload

NOW = 1_763_900_000.0
UUID = "01JV5V54KPYK9GB29265EQRZ2P"
RESULT = {"uuid": UUID, "status": "Success"}
PAIR = f'"uuid": "{UUID}", "status": "Success"'  # of a JSON object


# ---- what the records are ----


@pytest.mark.parametrize(
    ("name", "status"), [("sqs-success", "Success"), ("sqs-failed", "Failed"), ("sqs-eventbridge", "Success")]
)
def test_a_message_is_a_record_with_the_ids_the_age_and_the_receives_of_sqs(name: str, status: str) -> None:
    """The relay would hide or park another message in its place, and retries would come too soon or for ever."""
    event = payload(name)
    event["Records"][0]["attributes"] |= {"ApproximateReceiveCount": "17", "SentTimestamp": "1763800000123"}
    (record,), (sent,) = read(event, now=NOW), event["Records"]
    assert record.content == FlashCallResult(UUID, status)  # type: ignore[arg-type]
    assert (record.message_id, record.receipt_handle) == (sent["messageId"], sent["receiptHandle"])
    assert (record.body, record.receive_count, record.sent_at) == (sent["body"], 17, 1_763_800_000.123)


def test_a_direct_event_is_a_record_without_a_receipt_handle_sent_now() -> None:
    """The relay would give a direct event an age that the producer chose, or could not queue it unchanged."""
    event = payload("eventbridge")
    (record,) = read(event, now=NOW)
    assert record.content == FlashCallResult(UUID, "Success")
    assert (record.message_id, record.receipt_handle) == (event["id"], None)
    assert (record.sent_at, record.receive_count) == (NOW, 1)  # not the event's `time`, which is the producer's
    assert json.loads(record.body) == event


# ---- which bodies are results ----


@pytest.mark.parametrize(
    "body",
    [
        f'{{{PAIR}, "customer": {{"deep": [1, null]}}, "note": 1, "note": 2}}',
        f'{{{PAIR}, "detail": {{"uuid": "other", "status": "Failed"}}}}',
        f'{{{PAIR}, "detail-type": "Flash Call Result", "Message": "{{}}"}}',
        f'{{"uuid": "other", "status": "Failed", "detail-type": "any", "detail": {{{PAIR}}}}}',
    ],
    ids=["of the producer", "detail alone", "detail-type alone", "around a detail"],
)
def test_further_keys_of_a_result_are_ignored(body: str) -> None:
    """A producer that adds a key would find its results on the parked queue."""
    assert parse_body(body) == FlashCallResult(UUID, "Success")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("uuid=01JV&status=Success", "not valid JSON"),
        (f"\ufeff{{{PAIR}}}", "is not valid JSON (Unexpected UTF-8 BOM"),
        ('{"uuid": ' * 100_000 + "1" + "}" * 100_000, "too large, too deep"),
        (f'{{{PAIR}, "at": {"9" * 5000}}}', "too large, too deep"),
        (json.dumps("x" * 256 * 1024), "the body is a string"),
        (json.dumps([RESULT]), "the body is a list"),
        *(("1e999", "the body is a number"), ("true", "the body is a boolean"), ("null", "the body is null")),
        *(('{"Uuid": "a", "status": "Failed"}', "the body has no uuid"), ('{"uuid": "a"}', "the body has no status")),
        (f'{{{PAIR}, "status": "Failed"}}', "the body gives status more than once"),
        (json.dumps({"detail-type": "x", "detail": json.dumps(RESULT)}), "detail is a string"),
        (json.dumps({"detail-type": "x", "detail": {}, **RESULT}), "detail has no uuid"),
        (f'{{"detail-type": "x", "detail": {{{PAIR}, "uuid": 1}}}}', "the body gives uuid more than once"),
        (json.dumps({"TopicArn": "x", "Message": "{}"}), "SNS envelope, and only its Message is wanted"),
    ],
)
def test_a_body_that_is_not_a_result_has_a_fault(body: str, words: str) -> None:
    """An engineer could not tell from a parked message what the producer does wrong."""
    content = parse_body(body)
    assert isinstance(content, NoResult)
    assert words in content.fault
    assert len(content.fault) < 256
    assert content.fault.endswith("expected a JSON object with uuid and status")


@pytest.mark.parametrize(
    ("key", "value", "got"),
    [
        *(("uuid", "", "0 characters"), ("uuid", "a" * 129, "129 characters")),
        *(("uuid", "01JV\xe9", "U+00E9 at position 4"), ("uuid", "01JV 5V54", "U+0020 at position 4")),
        *(("uuid", "01JV\n", "U+000A at position 4"), ("uuid", "\x7f", "U+007F at position 0")),
        *(("uuid", "\ud800", "U+D800 at position 0"), ("uuid", 7, "a number"), ("uuid", True, "a boolean")),
        *(("status", "success", '"success"'), ("status", "Success ", '"Success "'), ("status", "", '""')),
        *(("status", "x" * 100_000, f'"{"x" * 40}"'), ("status", "\ud800", r'"\ud800"'), ("status", {}, "an object")),
    ],
)
def test_a_malformed_uuid_or_status_has_a_fault(key: str, value: object, got: str) -> None:
    """The relay would send an impossible call or a guessed verdict, or a uuid could forge a header or a log line."""
    content = parse_body(json.dumps(RESULT | {key: value}))
    expected = {"uuid": "a string of 1 to 128 visible ASCII characters", "status": 'exactly "Success" or "Failed"'}
    assert content == NoResult(f"{key} must be {expected[key]}, got {got}")


# ---- which events are refused ----

BATCH = "expected an SQS batch (Records, each with eventSource aws:sqs) or an EventBridge event"
KEYS = "got an object with the keys: "
RECORD = "expected an SQS record with messageId, receiptHandle, body, and attributes"
(SQS_RECORD,) = payload("sqs-success")["Records"]
WRONG_VALUES: list[dict[str, Any]] = [
    *({"messageId": None}, {"receiptHandle": ["hunter2"]}, {"body": {"uuid": "hunter2", "status": "Success"}}),
    *({"attributes": "hunter2"}, {"attributes": {"SentTimestamp": "1763800000000"}}),
    {"attributes": {"SentTimestamp": "hunter2", "ApproximateReceiveCount": "1"}},
]


@pytest.mark.parametrize(
    ("event", "got"),
    [
        *((None, "null"), ([{"eventSource": "aws:sqs"}], "a list"), ("hunter2", "a string"), ({}, KEYS + "none")),
        ({"uuid": "hunter2", "status": "Success"}, KEYS + "status, uuid"),
        ({"Records": {"eventSource": "aws:sqs"}}, KEYS + "Records"),
        ({"Records": [SQS_RECORD, {"eventSource": "aws:s3", "s3": {"x": "hunter2"}}]}, KEYS + "Records"),
        *(({"detail": {"uuid": "hunter2"}}, KEYS + "detail"), ({"detail-type": "a"}, KEYS + "detail-type")),
        *(({"probe": "hunter2"}, KEYS + "probe"), ({"probe": ["probe-hunter2"]}, KEYS + "probe")),
        ({"probe": "probe-hunter2", "status": "Failed"}, KEYS + "probe, status"),
        *(({"Records": [SQS_RECORD | wrong]}, "") for wrong in WRONG_VALUES),
    ],
)
def test_an_event_without_results_is_refused_with_its_kind(event: object, got: str) -> None:
    """A wrong trigger would look like success and lose its results, or its contents would reach the log."""
    with pytest.raises(UnsupportedEventError) as error:
        read(event, now=NOW)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))
    assert str(error.value).startswith(BATCH if got else RECORD)
    assert str(error.value).endswith(got)
    assert probed_call(event) is None
