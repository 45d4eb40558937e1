"""An invocation that carries no results is refused with a sentence that helps and tells no secrets."""

import traceback
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_call_relay.events import UnsupportedEventError, read
from flash_call_relay.models import FlashCallResult, NoResult
from tests.support.payloads import payload
from tests.unit.test_events import JSON, NOW

EXPECTED = "expected an SQS batch (Records, each with eventSource aws:sqs) or an EventBridge event"


def sqs_record_without(key: str) -> dict[str, Any]:
    """An SQS record that lacks a key."""
    (record,) = payload("sqs-success")["Records"]
    del record[key]
    return {**record, "secret": "hunter2"}


@pytest.mark.parametrize(
    ("event", "got"),
    [
        (None, "null"),
        ([{"eventSource": "aws:sqs"}], "a list"),
        ("hunter2", "a string"),
        (7, "a number"),
        (True, "a boolean"),
        ({}, "an object with the keys: none"),
        ({"uuid": "hunter2", "status": "Success"}, "an object with the keys: status, uuid"),
        ({"Records": None}, "an object with the keys: Records"),
        ({"Records": "hunter2"}, "an object with the keys: Records"),
        ({"Records": {"eventSource": "aws:sqs"}}, "an object with the keys: Records"),
        ({"Records": ["hunter2"]}, "an object with the keys: Records"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "hunter2"}}]}, "an object with the keys: Records"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {"x": "hunter2"}}]}, "an object with the keys: Records"),
        (
            {"Records": [*payload("sqs-success")["Records"], {"eventSource": "aws:kinesis"}]},
            "an object with the keys: Records",
        ),
        (
            {"httpMethod": "POST", "body": "hunter2", "headers": {"x-api-key": "hunter2"}},
            "an object with the keys: body, headers, httpMethod",
        ),
        ({"detail": {"uuid": "hunter2"}}, "an object with the keys: detail"),
        ({"detail-type": "hunter2"}, "an object with the keys: detail-type"),
        ({"\ud800\n": "hunter2"}, r"an object with the keys: \ud800"),
    ],
)
def test_an_event_without_results_is_refused_with_its_kind(event: object, got: str) -> None:
    """A wrong trigger would look like success, and its results would be lost; or the log would show its contents."""
    with pytest.raises(UnsupportedEventError) as error:
        read(event, now=NOW)
    assert str(error.value).startswith(EXPECTED)
    assert str(error.value).endswith(f", got {got}")
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("key", ["messageId", "receiptHandle", "body", "attributes"])
def test_an_sqs_record_without_a_key_is_refused(key: str) -> None:
    """A hand-made test event would fail with a bare KeyError."""
    refused({"Records": [*payload("sqs-failed")["Records"], sqs_record_without(key)]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"messageId": None},
        {"messageId": 7},
        {"receiptHandle": ["hunter2"]},
        {"body": None},
        {"body": {"uuid": "hunter2", "status": "Success"}},
        {"attributes": None},
        {"attributes": "hunter2"},
        {"attributes": {"SentTimestamp": "hunter2", "ApproximateReceiveCount": "1"}},
        {"attributes": {"SentTimestamp": "1763800000000", "ApproximateReceiveCount": None}},
        {"attributes": {"SentTimestamp": "9" * 400, "ApproximateReceiveCount": "1"}},
        {"attributes": {"SentTimestamp": float("inf"), "ApproximateReceiveCount": "1"}},
    ],
    ids=str,
)
def test_an_sqs_record_with_a_value_of_the_wrong_type_is_refused(wrong: dict[str, object]) -> None:
    """A hand-made test event would fail with an error that shows its contents, or says nothing."""
    (record,) = payload("sqs-failed")["Records"]
    refused({"Records": [record | wrong]})


def refused(event: object) -> None:
    """Expect an error that names what an SQS record has, and shows no value."""
    with pytest.raises(UnsupportedEventError) as error:
        read(event, now=NOW)
    assert str(error.value).startswith("expected an SQS record with messageId, receiptHandle, body, and attributes")
    assert "got an object with the keys: " in str(error.value)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_an_event_with_a_hundred_keys_is_described_in_less_than_512_characters() -> None:
    """A stray invocation would flood the log."""
    with pytest.raises(UnsupportedEventError) as error:
        read({f"key-{number}" * 50: 1 for number in range(100)}, now=NOW)
    assert len(str(error.value)) < 512


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries({"detail-type": JSON, "detail": JSON}, optional={"id": JSON}))
def test_any_json_value_is_read_or_refused(event: object) -> None:
    """An odd invocation would raise something that nobody can act on."""
    try:
        contents = [record.content for record in read(event, now=NOW)]
    except UnsupportedEventError:
        contents = []
    assert all(isinstance(content, FlashCallResult | NoResult) for content in contents)
