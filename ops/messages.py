"""A parked or dead-lettered message: its contents, its reason, and the filter that selects it."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult, NoResult, Status
from flash_call_relay.text import printable

MAX_BODY_BYTES = 256 * 1024  # of the result queue


class DeadReason(StrEnum):
    """Why a message is on the dead-letter queue."""

    RECEIVES_EXHAUSTED = "receives_exhausted"  # SQS reached the queue's maxReceiveCount
    FUNCTION_FAILED = "function_failed"  # the function raised on an event that it got without a queue
    EVENT_UNDELIVERED = "event_undelivered"  # EventBridge could not deliver the event to its target


@dataclass(frozen=True)
class Message:
    """One message of the parked or the dead-letter queue."""

    message_id: str
    receipt_handle: str
    body: str
    attributes: Mapping[str, str]  # the message attributes, as text
    sent_at: float  # in seconds since the epoch; SQS's redrive does not change it
    reason: str  # a `Reason`, or a `DeadReason` on the dead-letter queue
    bodies: tuple[str, ...]  # several for a batch that Lambda's asynchronous invocation dead-lettered, else one
    contents: tuple[FlashCallResult | NoResult, ...]  # of each body

    @classmethod
    def of(cls, received: Mapping[str, Any], *, dead: bool) -> "Message":
        """Read a message as SQS returns it; `dead`: from the dead-letter queue."""
        body: str = received["Body"]
        attributes = {
            name: value.get("StringValue", "") for name, value in received.get("MessageAttributes", {}).items()
        }
        reason = _dead_reason(attributes) if dead else printable(attributes.get("reason", "unknown"))
        bodies = _bodies_in_batch(body) if reason == DeadReason.FUNCTION_FAILED else (body,)
        return cls(
            message_id=received["MessageId"],
            receipt_handle=received["ReceiptHandle"],
            body=body,
            attributes=attributes,
            sent_at=int(received["Attributes"]["SentTimestamp"]) / 1000,
            reason=reason,
            bodies=bodies,
            contents=tuple(map(parse_body, bodies)),
        )

    @property
    def results(self) -> list[FlashCallResult]:
        """The results in the message."""
        return [content for content in self.contents if isinstance(content, FlashCallResult)]

    def is_about(self, uuid: str) -> bool:
        """Return whether a result in the message is of this call; without results, whether the text quotes the uuid."""
        if self.results:
            return any(result.uuid == uuid for result in self.results)
        return f'"{uuid}"' in self.body or f'"{uuid}\\"' in self.body  # the second: JSON in a JSON string

    @property
    def http_status(self) -> int | None:
        """The HTTP status of the endpoint's last reply."""
        status = self.attributes.get("http_status", "")
        return int(status) if re.fullmatch("[0-9]{3}", status) else None

    @property
    def detail(self) -> str:
        """The explanation of the relay, Lambda or EventBridge, safe to print on a terminal."""
        names = ("detail", "ErrorMessage", "ERROR_MESSAGE")
        detail = next((self.attributes[name] for name in names if self.attributes.get(name)), "")
        return printable(detail) if detail else ""

    def replay_bodies(self, status: Status | None = None) -> list[str]:
        """Return the bodies to send to the result queue; `status` replaces the status of each result."""
        pairs = zip(self.bodies, self.contents, strict=True)
        return [_replay_body(body, content, status) for body, content in pairs]

    def as_json(self) -> list[dict[str, object]]:
        """Return all of the message as JSON: one object per body, with the `uuid` and `status` that `send` reads."""
        results = [content if isinstance(content, FlashCallResult) else None for content in self.contents]
        return [
            {
                "uuid": result.uuid if result else None,
                "status": result.status if result else None,
                "reason": self.reason,
                "detail": self.detail,
                "http_status": self.http_status,
                "sent_at": datetime.fromtimestamp(self.sent_at, UTC).isoformat(timespec="milliseconds"),
                "message_id": self.message_id,
                "attributes": dict(self.attributes),
                "body": self.body,
            }
            for result in results
        ]


def _dead_reason(attributes: Mapping[str, str]) -> DeadReason:
    if "RULE_ARN" in attributes:  # an attribute of EventBridge's dead letters
        return DeadReason.EVENT_UNDELIVERED
    if {"RequestID", "ErrorCode"} <= attributes.keys():  # attributes of Lambda's dead letters
        return DeadReason.FUNCTION_FAILED
    return DeadReason.RECEIVES_EXHAUSTED


def _bodies_in_batch(text: str) -> tuple[str, ...]:
    """Return the bodies of an SQS batch as JSON; the text itself if it is anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return (text,)
    records = document.get("Records") if isinstance(document, dict) else None
    if not isinstance(records, list) or not records:
        return (text,)
    bodies = [record.get("body") if isinstance(record, dict) else None for record in records]
    texts = tuple(body for body in bodies if isinstance(body, str))
    return texts if len(texts) == len(records) else (text,)


def _replay_body(body: str, content: FlashCallResult | NoResult, status: Status | None) -> str:
    # An event as JSON can exceed the queue's limit. The result in it is short.
    too_long = len(body.encode(errors="surrogatepass")) > MAX_BODY_BYTES
    if isinstance(content, FlashCallResult) and (status or too_long):
        return json.dumps({"uuid": content.uuid, "status": status or content.status})
    return body


@dataclass(frozen=True)
class Filter:
    """Conditions on messages. A message matches if it meets each condition that is not empty."""

    reasons: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    http_statuses: tuple[int, ...] = ()
    uuids: tuple[str, ...] = ()
    message_ids: tuple[str, ...] = ()
    since: float | None = None  # sent at this time or later, in seconds since the epoch
    until: float | None = None  # sent before this time
    limit: int = 0  # the largest number of messages, oldest first; 0: no limit

    def select(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages that match, oldest first."""
        matching = sorted(filter(self.matches, messages), key=lambda one: (one.sent_at, one.message_id))
        return matching[: self.limit or None]

    def matches(self, message: Message) -> bool:
        """Return whether a message meets all conditions, apart from the limit."""
        return (
            (not self.reasons or message.reason in self.reasons)
            and (not self.http_statuses or message.http_status in self.http_statuses)
            and (not self.statuses or any(result.status in self.statuses for result in message.results))
            and (not self.uuids or any(map(message.is_about, self.uuids)))
            and (not self.message_ids or message.message_id in self.message_ids)
            and (self.since is None or message.sent_at >= self.since)
            and (self.until is None or message.sent_at < self.until)
        )


@dataclass(frozen=True)
class Selection:
    """The messages of a queue that a command lists, replays or discards."""

    where: str  # the queue, in words
    messages: list[Message]  # those that match, oldest first
    filter: Filter  # that selected them
    found: int  # messages that SQS returned, matching or not
    hidden: int  # about as many messages another receiver holds
    beyond: int  # about as many SQS returns only after the found ones are gone
    began: float  # when the search began, in seconds since the epoch
    retention_s: int  # how long the queue keeps a message

    @cached_property
    def _ids(self) -> set[str]:
        return {message.message_id for message in self.messages}

    @property
    def missing(self) -> list[str]:
        """The uuids and message ids of the filter that none of the messages has; empty if others may have them."""
        if self.beyond or len(self.messages) == self.filter.limit:
            return []
        uuids = [uuid for uuid in self.filter.uuids if not any(one.is_about(uuid) for one in self.messages)]
        return uuids + [message_id for message_id in self.filter.message_ids if message_id not in self._ids]

    @property
    def size(self) -> int:
        """The largest number of messages to take."""
        return min(len(self.messages) + self.beyond, self.filter.limit or sys.maxsize)

    def includes(self, message: Message) -> bool:
        """Return whether to take a message: it was found, or it was on the queue beyond the found ones."""
        if not self.beyond:
            return message.message_id in self._ids
        return message.sent_at < self.began and self.filter.matches(message)
