"""A parked or dead-lettered message: what it says, why it lies there, and which are asked for."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult, NoResult, Reason, Status, printable

MAX_BODY_BYTES = 256 * 1024  # of the result queue


class DeadReason(StrEnum):
    """Why a message is on the dead-letter queue."""

    RECEIVES_EXHAUSTED = "receives_exhausted"  # SQS handed it out MaxReceiveCount times
    FUNCTION_FAILED = "function_failed"  # an event given straight to the function, which raised
    EVENT_UNDELIVERED = "event_undelivered"  # EventBridge could not hand it to its target


@dataclass(frozen=True)
class Message:
    """One message of the parked or the dead-letter queue.

    Attributes:
        attributes: the message attributes, as text.
        sent_at: when it came on this queue, in seconds since the epoch; a dead letter of SQS's: on the queue before.
        reason: a `Reason`, or on the dead-letter queue a `DeadReason`.
        bodies: what it carries; one, but for a batch that the function was given asynchronously.
        contents: what the relay reads in each of them.
    """

    message_id: str
    receipt_handle: str
    body: str
    attributes: Mapping[str, str]
    sent_at: float
    reason: str
    bodies: tuple[str, ...]
    contents: tuple[FlashCallResult | NoResult, ...]

    @classmethod
    def of(cls, received: Mapping[str, Any], *, dead: bool) -> "Message":
        """Read what SQS handed out."""
        attributes = {
            name: value.get("StringValue", "") for name, value in received.get("MessageAttributes", {}).items()
        }
        reason = _dead_reason(attributes) if dead else printable(attributes.get("reason", "unknown"))
        bodies = _in_batch(received["Body"]) if reason == DeadReason.FUNCTION_FAILED else (received["Body"],)
        return cls(
            received["MessageId"],
            received["ReceiptHandle"],
            received["Body"],
            attributes,
            int(received["Attributes"]["SentTimestamp"]) / 1000,
            reason,
            bodies,
            tuple(map(parse_body, bodies)),
        )

    @property
    def results(self) -> list[FlashCallResult]:
        """The results in it."""
        return [content for content in self.contents if isinstance(content, FlashCallResult)]

    def is_about(self, uuid: str) -> bool:
        """Tell whether it reports this call, or is no result and has the uuid in its text, in quotes."""
        if self.results:
            return any(result.uuid == uuid for result in self.results)
        return any(f'"{uuid}{end}' in self.body for end in ('"', '\\"'))  # the latter: JSON as text in JSON

    @property
    def http_status(self) -> int | None:
        """What the endpoint answered last."""
        status = self.attributes.get("http_status", "")
        return int(status) if re.fullmatch("[0-9]{3}", status) else None

    @property
    def detail(self) -> str:
        """Why it lies there, in words."""
        said = self.attributes
        detail = said.get("detail") or said.get("ErrorMessage") or said.get("ERROR_MESSAGE")
        return printable(detail) if detail else ""  # anybody's words, on a terminal

    def for_the_relay(self, status: Status | None = None) -> list[str]:
        """Return bodies for the result queue, in a shape that the relay reads; `status` takes the place of theirs."""
        pairs = zip(self.bodies, self.contents, strict=True)
        return [_for_the_relay(body, content, status) for body, content in pairs]

    def as_json(self) -> list[dict[str, object]]:
        """Return all of it as JSON: an object for each that it carries, with `uuid` and `status` as `send` wants."""
        return [self._as_json(content) for content in self.contents]

    def _as_json(self, content: FlashCallResult | NoResult) -> dict[str, object]:
        result = content if isinstance(content, FlashCallResult) else None
        return {
            "uuid": result and result.uuid,
            "status": result and result.status,
            "reason": self.reason,
            "detail": self.detail,
            "http_status": self.http_status,
            "sent_at": datetime.fromtimestamp(self.sent_at, UTC).isoformat(timespec="milliseconds"),
            "message_id": self.message_id,
            "attributes": dict(self.attributes),
            "body": self.body,
        }


def _dead_reason(attributes: Mapping[str, str]) -> DeadReason:
    if "RULE_ARN" in attributes:  # EventBridge's attributes
        return DeadReason.EVENT_UNDELIVERED
    if {"RequestID", "ErrorCode"} <= attributes.keys():  # Lambda's
        return DeadReason.FUNCTION_FAILED
    return DeadReason.RECEIVES_EXHAUSTED


def _in_batch(body: str) -> tuple[str, ...]:
    try:
        return tuple(record["body"] + "" for record in json.loads(body)["Records"]) or (body,)
    except (ValueError, RecursionError, TypeError, KeyError):
        return (body,)


def _for_the_relay(body: str, content: FlashCallResult | NoResult, status: Status | None) -> str:
    # An event as JSON can be longer than the queue takes; what the relay reads of it is short.
    too_long = len(body.encode(errors="surrogatepass")) > MAX_BODY_BYTES
    if isinstance(content, FlashCallResult) and (status or too_long):
        return json.dumps({"uuid": content.uuid, "status": status or content.status})
    return body


@dataclass(frozen=True)
class Filter:
    """Which messages are asked for: those that match all that is given.

    Attributes:
        since: sent at or after this time, in seconds since the epoch.
        until: sent before it.
        limit: so many at most, the oldest; 0: all.
    """

    reasons: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    http_statuses: tuple[int, ...] = ()
    uuids: tuple[str, ...] = ()
    message_ids: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    limit: int = 0

    def choose(self, messages: Iterable[Message]) -> list[Message]:
        """Return those that match, the oldest first."""
        chosen = sorted(filter(self.matches, messages), key=lambda one: (one.sent_at, one.message_id))
        return chosen[: self.limit or None]

    def matches(self, message: Message) -> bool:
        """Tell whether a message matches all but the limit."""
        return (
            (not self.reasons or message.reason in self.reasons)
            and (not self.http_statuses or message.http_status in self.http_statuses)
            and (not self.statuses or any(result.status in self.statuses for result in message.results))
            and (not self.uuids or any(map(message.is_about, self.uuids)))
            and (not self.message_ids or message.message_id in self.message_ids)
            and (self.since is None or message.sent_at >= self.since)
            and (self.until is None or message.sent_at < self.until)
        )


PARKED_REASONS = (
    Reason.INVALID_EVENT,
    Reason.REJECTED,
    Reason.UNKNOWN_CALL,
    Reason.CONFLICTING_STATUS,
    Reason.RETRIES_EXHAUSTED,
)
