"""Read a trigger event into records. None is dropped: a record that is not a result says what is wrong with it."""

import json
from collections.abc import Mapping
from typing import Any

from flash_call_relay.models import FlashCallResult, NoResult, Record
from flash_call_relay.text import InvalidJSONError, decode_json, kind, printable

MAX_UUID_LENGTH = 128
UNIQUE = ("uuid", "status", "detail", "detail-type")
EXPECTED = "expected a JSON object with uuid and status"


class UnsupportedEventError(ValueError):
    """The event carries no flash-call results."""


def read(event: object, *, now: float) -> list[Record]:
    """Read an SQS batch, or one EventBridge event, whose age counts from `now`, in seconds since the epoch.

    Raises:
        UnsupportedEventError: names the kind of the event and what was expected. It shows no values.
    """
    if isinstance(event, Mapping):
        batch = event.get("Records")
        if isinstance(batch, list) and all(isinstance(r, Mapping) and r.get("eventSource") == "aws:sqs" for r in batch):
            return [_from_sqs(record) for record in batch]
        if _is_envelope(event):
            # Not the event's own `time`: the producer chooses that.
            event_id, content = printable(str(event.get("id"))), _result(event["detail"], "detail")
            return [Record(event_id, None, json.dumps(event), now, 1, content)]
    raise UnsupportedEventError(
        "expected an SQS batch (Records, each with eventSource aws:sqs) or an EventBridge event "
        f"(detail-type and detail), got {_describe(event)}"
    )


def probed_call(event: object) -> str | None:
    """Return the made-up call of an operator's probe, `{"probe": "probe-..."}`; None for any other event.

    The prefix keeps a probe from reporting a real call.
    """
    call = event.get("probe") if isinstance(event, Mapping) and len(event) == 1 else None
    return call if isinstance(call, str) and call.startswith("probe-") and not _uuid_fault(call) else None


def _from_sqs(record: Mapping[str, Any]) -> Record:
    try:
        message_id, handle, body = [_text(record[key]) for key in ("messageId", "receiptHandle", "body")]
        sent_at = int(record["attributes"]["SentTimestamp"]) / 1000
        receives = int(record["attributes"]["ApproximateReceiveCount"])
    except (KeyError, TypeError, ValueError, OverflowError):
        expected = "messageId, receiptHandle, body, and attributes with SentTimestamp and ApproximateReceiveCount"
        raise UnsupportedEventError(f"expected an SQS record with {expected}, got {_describe(record)}") from None
    return Record(message_id, handle, body, sent_at, receives, parse_body(body))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def parse_body(body: str) -> FlashCallResult | NoResult:
    """Read an SQS message's body: a result, or an EventBridge envelope whose `detail` is a result."""
    try:
        document = decode_json(body, UNIQUE)
    except InvalidJSONError as error:
        return NoResult(f"the body {error}; {EXPECTED}")
    if isinstance(document, dict):
        if _is_envelope(document):
            return _result(document["detail"], "detail")
        if {"TopicArn", "Message"} <= document.keys():
            return NoResult(f"the body is an SNS envelope, and only its Message is wanted; {EXPECTED}")
    return _result(document, "the body")


def _result(document: object, where: str) -> FlashCallResult | NoResult:
    if not isinstance(document, Mapping):
        return NoResult(f"{where} is {kind(document)}; {EXPECTED}")
    for key in ("uuid", "status"):
        if key not in document:
            return NoResult(f"{where} has no {key}; {EXPECTED}")
    uuid, status = document["uuid"], document["status"]
    if fault := _uuid_fault(uuid):
        return NoResult(f"uuid must be a string of 1 to {MAX_UUID_LENGTH} visible ASCII characters, got {fault}")
    if status in ("Success", "Failed"):
        return FlashCallResult(uuid, status)
    got = json.dumps(status[:40]) if isinstance(status, str) else kind(status)
    return NoResult(f'status must be exactly "Success" or "Failed", got {got}')


def _uuid_fault(uuid: object) -> str:
    if not isinstance(uuid, str):
        return kind(uuid)
    if not 1 <= len(uuid) <= MAX_UUID_LENGTH:
        return f"{len(uuid)} characters"
    if uuid.isascii() and uuid.isprintable() and " " not in uuid:
        return ""
    return next(f"U+{ord(c):04X} at position {i}" for i, c in enumerate(uuid) if not "!" <= c <= "~")


def _is_envelope(document: Mapping[str, Any]) -> bool:
    return "detail-type" in document and "detail" in document


def _describe(event: object) -> str:
    if not isinstance(event, Mapping):
        return kind(event)
    return printable(f"an object with the keys: {', '.join(sorted(map(str, event))[:10]) or 'none'}")
