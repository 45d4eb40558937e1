"""Trigger events become records; a record that is not a result says why, and an event without records is refused."""

import json
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay.events import UnsupportedEventError, parse_body, read
from flash_call_relay.models import FlashCallResult, NoResult
from tests.support.payloads import payload

NOW = 1_763_900_000.0
UUID = "01JV5V54KPYK9GB29265EQRZ2P"
RESULT = {"uuid": UUID, "status": "Success"}
PAIR = f'"uuid": "{UUID}", "status": "Success"'  # of a JSON object

TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
UUIDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=12,
)


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


def test_a_batch_keeps_its_order_and_its_invalid_message() -> None:
    """One malformed message would fail its whole batch, or vanish from it."""
    event = payload("sqs-batch-one-invalid")
    records = read(event, now=NOW)
    assert [record.message_id for record in records] == [sent["messageId"] for sent in event["Records"]]
    assert [record.message_id[-2:] for record in records if isinstance(record.content, NoResult)] == ["04"]
    assert read({"Records": []}, now=NOW) == []


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
        f'{{{PAIR}, "customer": {{"deep": [1, null]}}, "uuid2": "other"}}',
        f'{{{PAIR}, "customer": 1, "customer": 2}}',
        f'{{{PAIR}, "detail": {{"uuid": "other", "status": "Failed"}}}}',
        f'{{{PAIR}, "detail-type": "Flash Call Result"}}',
        f'{{{PAIR}, "Message": "{{}}"}}',
        f'{{"uuid": "other", "status": "Failed", "detail-type": "any", "detail": {{{PAIR}}}}}',
        rf'{{"\u0075uid": "{UUID}", "status": "S\u0075ccess"}}',
    ],
)
def test_further_keys_of_a_result_are_ignored(body: str) -> None:
    """A producer that adds a key would find its results on the parked queue."""
    assert parse_body(body) == FlashCallResult(UUID, "Success")


@given(UUIDS, st.sampled_from(["Success", "Failed"]), st.dictionaries(TEXT, JSON, max_size=3))
def test_any_result_is_read_unchanged_from_each_source(uuid: str, status: str, further: dict[str, Any]) -> None:
    """The relay would change some uuids, or refuse them, depending on the source."""
    of_envelopes = {"detail", "detail-type", "Records", "TopicArn", "Message"}
    further = {key: value for key, value in further.items() if key not in of_envelopes}
    body = {**further, "uuid": uuid, "status": status}
    envelope = {**further, "detail-type": "Flash Call Result", "detail": body}
    bodies = [json.dumps(body), json.dumps(envelope), json.dumps(body, ensure_ascii=False)]
    (direct,) = read(envelope, now=NOW)
    for content in (*map(parse_body, [*bodies, direct.body]), direct.content):
        assert content == FlashCallResult(uuid, status)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("uuid=01JV&status=Success", "not valid JSON"),
        (f"{{{PAIR}}}" * 2, "not valid JSON"),
        (f"\ufeff{{{PAIR}}}", "begins with a byte order mark"),
        ('{"uuid": ' * 100_000 + "1" + "}" * 100_000, "too large, too deep"),
        (f'{{{PAIR}, "at": {"9" * 5000}}}', "too large, too deep"),
        ("x" * 256 * 1024, "not valid JSON"),
        (json.dumps("x" * 256 * 1024), "the body is a string"),
        (json.dumps([RESULT]), "the body is a list"),
        *(("1e999", "the body is a number"), ("true", "the body is a boolean"), ("null", "the body is null")),
        *(('{"Uuid": "a", "status": "Failed"}', "the body has no uuid"), ('{"uuid": "a"}', "the body has no status")),
        (f'{{{PAIR}, "uuid": "{UUID}"}}', "the body gives uuid more than once"),
        (f'{{{PAIR}, "status": "Failed"}}', "the body gives status more than once"),
        (json.dumps({"detail-type": "x", "detail": json.dumps(RESULT)}), "detail is a string"),
        (json.dumps({"detail-type": "x", "detail": None, **RESULT}), "detail is null"),
        (json.dumps({"detail-type": "x", "detail": {}, **RESULT}), "detail has no uuid"),
        (f'{{"detail-type": "x", "detail": {{{PAIR}, "uuid": 1}}}}', "the body gives uuid more than once"),
        (f'{{"detail-type": "x", "detail": {{{PAIR}}}, "detail": {{{PAIR}}}}}', "the body gives detail more than once"),
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

WITH_KEYS = "an object with the keys: "
(SQS_RECORD,) = payload("sqs-success")["Records"]


@pytest.mark.parametrize(
    ("event", "got"),
    [
        *((None, "null"), ([{"eventSource": "aws:sqs"}], "a list"), ("hunter2", "a string"), ({}, WITH_KEYS + "none")),
        ({"uuid": "hunter2", "status": "Success"}, WITH_KEYS + "status, uuid"),
        ({"Records": {"eventSource": "aws:sqs"}}, WITH_KEYS + "Records"),
        ({"Records": ["hunter2"]}, WITH_KEYS + "Records"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {"x": "hunter2"}}]}, WITH_KEYS + "Records"),
        ({"Records": [SQS_RECORD, {"eventSource": "aws:kinesis"}]}, WITH_KEYS + "Records"),
        ({"httpMethod": "POST", "headers": {"x-api-key": "hunter2"}}, WITH_KEYS + "headers, httpMethod"),
        *(({"detail": {"uuid": "hunter2"}}, WITH_KEYS + "detail"), ({"detail-type": "a"}, WITH_KEYS + "detail-type")),
        *(({"probe": "hunter2"}, WITH_KEYS + "probe"), ({"probe": ["probe-hunter2"]}, WITH_KEYS + "probe")),
        ({"probe": "probe-hunter2", "status": "Failed"}, WITH_KEYS + "probe, status"),
        ({"\ud800\n": "hunter2"}, WITH_KEYS + r"\ud800"),
    ],
)
def test_an_event_without_results_is_refused_with_its_kind(event: object, got: str) -> None:
    """A wrong trigger would look like success and lose its results, or its contents would reach the log."""
    refused = "expected an SQS batch (Records, each with eventSource aws:sqs) or an EventBridge event"
    assert_refused(event, refused, got)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"messageId": None}, {"receiptHandle": ["hunter2"]}, {"body": {"uuid": "hunter2", "status": "Success"}}),
        *({"attributes": None}, {"attributes": "hunter2"}),
        {"attributes": {"SentTimestamp": "hunter2", "ApproximateReceiveCount": "1"}},
        {"attributes": {"SentTimestamp": "1763800000000"}},
        {"attributes": {"SentTimestamp": "9" * 400, "ApproximateReceiveCount": "1"}},
        {"attributes": {"SentTimestamp": float("inf"), "ApproximateReceiveCount": "1"}},
    ],
)
def test_an_sqs_record_with_a_missing_or_wrong_value_is_refused(wrong: dict[str, object]) -> None:
    """A test event written by hand would fail with an error that shows its contents or explains nothing."""
    expected = "expected an SQS record with messageId, receiptHandle, body, and attributes"
    assert_refused({"Records": [SQS_RECORD | wrong]}, expected, "")


def assert_refused(event: object, words: str, got: str) -> None:
    """Check that reading the event raises an error that says what was expected, and shows no value."""
    with pytest.raises(UnsupportedEventError) as error:
        read(event, now=NOW)
    assert str(error.value).startswith(words)
    assert f", got {got or WITH_KEYS}" in str(error.value)
    assert str(error.value).endswith(got)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_an_event_with_a_hundred_keys_is_described_in_less_than_512_characters() -> None:
    """One stray invocation would flood the log."""
    with pytest.raises(UnsupportedEventError) as error:
        read({f"key-{number}" * 50: 1 for number in range(100)}, now=NOW)
    assert len(str(error.value)) < 512
