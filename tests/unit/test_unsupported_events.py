"""The relay refuses an event without results, with a helpful sentence that shows none of its values."""

import traceback
from typing import Any

import pytest

from flash_call_relay.events import UnsupportedEventError, read
from tests.support.payloads import payload

NOW = 1_763_900_000.0
EXPECTED = "expected an SQS batch (Records, each with eventSource aws:sqs) or an EventBridge event"


def sqs_record_without(key: str) -> dict[str, Any]:
    """Return an SQS record that lacks a key."""
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
        ({"probe": "hunter2"}, "an object with the keys: probe"),
        ({"probe": ["probe-hunter2"]}, "an object with the keys: probe"),
        ({"probe": "probe-hunter2", "status": "Failed"}, "an object with the keys: probe, status"),
        ({"\ud800\n": "hunter2"}, r"an object with the keys: \ud800"),
    ],
)
def test_an_event_without_results_is_refused_with_its_kind(event: object, got: str) -> None:
    """A wrong trigger would look like success and lose its results, or its contents would reach the log."""
    with pytest.raises(UnsupportedEventError) as error:
        read(event, now=NOW)
    assert str(error.value).startswith(EXPECTED)
    assert str(error.value).endswith(f", got {got}")
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("key", ["messageId", "receiptHandle", "body", "attributes"])
def test_an_sqs_record_without_a_key_is_refused(key: str) -> None:
    """A test event written by hand would fail with a bare KeyError."""
    assert_refused({"Records": [*payload("sqs-failed")["Records"], sqs_record_without(key)]})


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
)
def test_an_sqs_record_with_a_value_of_the_wrong_type_is_refused(wrong: dict[str, object]) -> None:
    """A test event written by hand would fail with an error that shows its contents or explains nothing."""
    (record,) = payload("sqs-failed")["Records"]
    assert_refused({"Records": [record | wrong]})


def assert_refused(event: object) -> None:
    """Check that reading the event raises an error that names the expected keys and shows no value."""
    with pytest.raises(UnsupportedEventError) as error:
        read(event, now=NOW)
    assert str(error.value).startswith("expected an SQS record with messageId, receiptHandle, body, and attributes")
    assert "got an object with the keys: " in str(error.value)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_an_event_with_a_hundred_keys_is_described_in_less_than_512_characters() -> None:
    """One stray invocation would flood the log."""
    with pytest.raises(UnsupportedEventError) as error:
        read({f"key-{number}" * 50: 1 for number in range(100)}, now=NOW)
    assert len(str(error.value)) < 512
