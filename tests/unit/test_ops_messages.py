"""A parked or dead-lettered message of any shape is read, chosen and replayed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay.events import parse_body, read
from flash_call_relay.models import FlashCallResult, Status
from ops.queues import DeadReason, Message
from tests.support.payloads import payload

LIMIT = 256 * 1024  # of a body, in bytes
# The attributes that each service adds to its dead letters
OF_LAMBDA = {"RequestID": "1f2e", "ErrorCode": "200", "ErrorMessage": "Task timed out"}
OF_EVENTBRIDGE = {"RULE_ARN": "arn:rule", "TARGET_ARN": "arn:t", "ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "no"}

UUIDS = st.sampled_from("abc") | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=9)
STATUSES = st.sampled_from(["Success", "Failed", "success", None])
PADDING = st.sampled_from([0, 0, 1, LIMIT - 90, LIMIT, 2 * LIMIT])


def body_of(uuid: object, status: object, padding: int = 0, *, envelope: bool = False) -> str:
    """Return a body, longer by a number of bytes."""
    said: dict[str, Any] = {"uuid": uuid, "status": status, "more": "\u20ac" * (padding // 3)}
    return json.dumps({"detail-type": "any", "detail": said} if envelope else said, ensure_ascii=False)


def message(body: str, attributes: dict[str, str] | None = None, *, dead: bool = False, name: str = "m") -> Message:
    """Return a message as read from SQS."""
    said = {key: {"DataType": "String", "StringValue": value} for key, value in (attributes or {}).items()}
    received = {"MessageId": name, "ReceiptHandle": "handle", "Body": body, "MessageAttributes": said}
    return Message.of({**received, "Attributes": {"SentTimestamp": "1763800000123"}}, dead=dead)


@pytest.mark.parametrize(
    ("attributes", "reason", "detail"),
    [
        ({}, DeadReason.RECEIVES_EXHAUSTED, ""),
        (OF_LAMBDA, DeadReason.FUNCTION_FAILED, "Task timed out"),
        (OF_EVENTBRIDGE, DeadReason.EVENT_UNDELIVERED, "no"),
    ],
)
@pytest.mark.parametrize("event", ["sqs-success", "sqs-eventbridge", "eventbridge"])
def test_a_dead_letter_has_its_result(attributes: dict[str, str], reason: DeadReason, detail: str, event: str) -> None:
    """An operator could not replay a result that the relay failed on, or an event that never reached it."""
    ((record, *_),) = (payload(event).get("Records", [{"body": json.dumps(payload(event))}]),)
    found = message(record["body"], attributes, dead=True)
    assert (found.reason, found.detail) == (reason, detail)
    assert found.results == [one.content for one in read(payload(event), now=0)]
    assert found.to_replay(None) == record["body"]


@pytest.mark.parametrize("key", ["detail", "ErrorMessage", "ERROR_MESSAGE", "reason"])
def test_texts_are_safe_to_print_on_a_terminal(key: str) -> None:
    """A line break would break the table, and an escape sequence could rewrite the screen."""
    found = message("x", {key: "a\nb\x1b[2J\u202e" + "x" * 5000})
    said = found.reason if key == "reason" else found.detail
    assert said.startswith("a b [2J\\u202e")
    assert said.isascii()
    assert said.isprintable()
    assert len(said) <= 256
    line = json.loads(found.as_json())
    assert line["attributes"] == dict(found.attributes)  # in full
    assert line["sent_at"] == "2025-11-22T08:26:40.123+00:00"


def test_a_binary_attribute_is_ignored() -> None:
    """A message with a binary attribute would end the command with a traceback."""
    received = {"MessageId": "m", "ReceiptHandle": "h", "Body": "", "Attributes": {"SentTimestamp": "1"}}
    attributes = {"reason": {"DataType": "Binary", "BinaryValue": b"\xff"}}
    assert not Message.of({**received, "MessageAttributes": attributes}, dead=False).reason.strip("-")


@given(
    uuid=UUIDS | st.none(),
    status=STATUSES,
    padding=PADDING,
    new=st.sampled_from([None, "Success", "Failed"]),
    envelope=st.booleans(),
)
def test_a_replay_keeps_the_call_and_sets_the_status(
    *, uuid: str | None, status: str | None, padding: int, new: Status | None, envelope: bool
) -> None:
    """A replay would report another call or status, be refused by SQS, or not repair thousands of wrong statuses."""
    found = message(body_of(uuid, status, padding, envelope=envelope))
    again, good = found.to_replay(new), status in ("Success", "Failed")
    assert (found.uuid, found.status) == (uuid, status if good and uuid else None)
    if uuid and (new or good):
        assert parse_body(again) == FlashCallResult(uuid, new or found.results[0].status)
        assert len(again.encode()) <= LIMIT  # of SQS
    if not uuid or (not new and (not good or len(found.body.encode()) <= LIMIT)):
        assert again == found.body


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '"a"', "[" * 100_000, '{"uuid": 1}', '{"uuid": "a b"}', '{"uuid":"a","uuid":"a"}']
)
def test_a_body_without_a_valid_uuid_keeps_its_text(body: str) -> None:
    """One odd message would end the command with a traceback, or a replay would report a call that it guessed."""
    found = message(body)
    assert (found.uuid, found.results, found.to_replay("Success")) == (None, [], body)
    assert json.loads(found.as_json())["body"] == body


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"uuid": "a", "state": "Success"}', True),
        ('{"uuid": "a", "uuid": "b"}', True),
        ('{"Message": "{\\"uuid\\": \\"a\\"}"}', True),
        ('{"uuid": "abc", "state": "Success"}', False),
        ("a", False),
        ('{"uuid": "b", "status": "Success", "note": "a"}', False),
    ],
)
def test_an_invalid_message_is_found_by_the_uuid_in_its_text(body: str, *, found: bool) -> None:
    """An operator would believe that the backend never sent a result that is parked as invalid."""
    assert ("a" in message(body).calls) == found


@pytest.mark.parametrize("value", ["", "-1", "4e2", "\u00b2", "\u0664\u0660\u0664", "9" * 5000, "40", "4040", "404\n"])
def test_an_odd_http_status_is_ignored(value: str) -> None:
    """One odd message would prevent the listing of all others."""
    assert message("x", {"http_status": value}).http_status is None
    assert message("x", {"http_status": "404"}).http_status == 404
