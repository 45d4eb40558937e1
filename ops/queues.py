"""SQS queues and their messages. `RESULTS` is the result queue; `PARKED` and `DEAD` need a person."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay.events import UNIQUE, parse_body
from flash_call_relay.models import FlashCallResult, Reason, Status
from flash_call_relay.queues import MAX_RESULT_BYTES
from flash_call_relay.text import InvalidJSONError, decode_json, printable
from ops.output import Tell
from ops.stack import Stack

RECEIVES, VISIBILITY_S = 300, 400  # of a message on the result queue, as in template.yaml
HOLD_S = 300  # visibility timeout of a receive
LONG_POLL_S = 1  # a short poll may miss messages
MOST_REPEATS = 10  # receives in a row that return only messages which SQS returned before
# SQS's limits for one call
MAX_ENTRIES = 10
MAX_CALL_BYTES = 1024 * 1024
QUOTED = re.compile(r'"(?=([^"\\]+)\\?")')  # each string in JSON, and in JSON in a JSON string


class DeadReason(StrEnum):
    """Why a message is on the dead-letter queue."""

    RECEIVES_EXHAUSTED = "receives_exhausted"  # SQS reached the queue's maxReceiveCount
    FUNCTION_FAILED = "function_failed"  # the function raised on an event that it got without a queue
    EVENT_UNDELIVERED = "event_undelivered"  # EventBridge could not deliver the event to its target

    @classmethod
    def of(cls, attributes: Mapping[str, str]) -> "DeadReason":
        """Tell the reason by the attributes that Lambda and EventBridge add to their dead letters."""
        if "RULE_ARN" in attributes:
            return cls.EVENT_UNDELIVERED
        return cls.FUNCTION_FAILED if {"RequestID", "ErrorCode"} <= attributes.keys() else cls.RECEIVES_EXHAUSTED


@dataclass(frozen=True)
class Message:
    """One message of the parked or the dead-letter queue."""

    message_id: str
    receipt_handle: str
    body: str
    attributes: Mapping[str, str]  # the message attributes, as text
    sent_at: float  # in seconds since the epoch; SQS's redrive does not change it
    reason: str  # a `Reason`, or a `DeadReason` on the dead-letter queue

    @classmethod
    def of(cls, received: Mapping[str, Any], *, dead: bool) -> "Message":
        """Read a message as SQS returns it; `dead`: from the dead-letter queue."""
        told = {name: value.get("StringValue", "") for name, value in received.get("MessageAttributes", {}).items()}
        reason = DeadReason.of(told) if dead else printable(told.get("reason", "unknown"))
        sent_at = int(received["Attributes"]["SentTimestamp"]) / 1000
        return cls(received["MessageId"], received["ReceiptHandle"], received["Body"], told, sent_at, reason)

    @cached_property
    def uuid(self) -> str | None:
        """The call, if its uuid is valid, even if the status is not."""
        try:
            document = decode_json(self.body, UNIQUE)
        except InvalidJSONError:
            return None
        if isinstance(document, dict) and "detail-type" in document:
            document = document.get("detail", document)
        uuid = document.get("uuid") if isinstance(document, dict) else None
        corrected = parse_body(json.dumps({"uuid": uuid, "status": "Success"}))
        return corrected.uuid if isinstance(corrected, FlashCallResult) else None

    @cached_property
    def status(self) -> Status | None:
        """The status; None if the body is not a result."""
        content = parse_body(self.body)
        return content.status if isinstance(content, FlashCallResult) else None

    @cached_property
    def calls(self) -> set[str]:
        """The uuid; without a valid one, each text that the body quotes."""
        return {self.uuid} if self.uuid else set(QUOTED.findall(self.body))

    @property
    def http_status(self) -> int | None:
        """The HTTP status of the endpoint's last reply."""
        status = self.attributes.get("http_status", "")
        return int(status) if re.fullmatch("[0-9]{3}", status) else None

    @property
    def detail(self) -> str:
        """The explanation of the relay, Lambda or EventBridge, safe to print on a terminal."""
        detail = next(filter(None, map(self.attributes.get, ("detail", "ErrorMessage", "ERROR_MESSAGE"))), "")
        return printable(detail) if detail else ""

    def to_replay(self, status: Status | None) -> str:
        """Return the body to send to the result queue; `status` replaces that of the body."""
        # An event as JSON can exceed the queue's limit. The result in it is short.
        too_long = len(self.body.encode(errors="surrogatepass")) > MAX_RESULT_BYTES
        status = status or (self.status if too_long else None)
        return FlashCallResult(self.uuid, status).as_json() if self.uuid and status else self.body

    def as_json(self) -> str:
        """Return all of the message as a line of JSON, with the `uuid` and `status` that `send` reads."""
        sent_at = datetime.fromtimestamp(self.sent_at, UTC).isoformat(timespec="milliseconds")
        names = ("uuid", "status", "reason", "detail", "http_status", "sent_at", "message_id", "attributes", "body")
        return json.dumps({name: sent_at if name == "sent_at" else getattr(self, name) for name in names})


@dataclass(frozen=True)
class Depth:
    """The numbers that SQS reports for a queue. It calls the counts approximate."""

    visible: int  # messages that SQS would return now
    in_flight: int  # messages that SQS returns later
    retention_s: int  # how long the queue keeps a message

    @property
    def total(self) -> int:
        """The number of messages on the queue."""
        return self.visible + self.in_flight


class Queue:
    """One SQS queue of a stack.

    A receive hides messages for `HOLD_S` seconds: until then after a kill, else until the end of `hidden`. After an
    interruption, this may be so for those of the last receive. Only the receive count of a message changes.
    """

    def __init__(self, sqs: Any, url: str, *, dead: bool = False) -> None:
        self._sqs, self._url, self._dead = sqs, url, dead
        self._held: dict[str, str] = {}  # receipt handles by message id

    def depth(self) -> Depth:
        """Return the number of messages that SQS reports for the queue."""
        said = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])["Attributes"]
        visible, *later = (int(said[f"ApproximateNumberOfMessages{which}"]) for which in ("", "NotVisible", "Delayed"))
        return Depth(visible, sum(later), int(said["MessageRetentionPeriod"]))

    def send(self, bodies: Mapping[str, str], tell: Tell = lambda _: None) -> dict[str, str]:
        """Send bodies; return the fault of each that SQS did not take, by its key. `tell` takes the number so far."""
        large = sum(len(body.encode(errors="surrogatepass")) for body in bodies.values()) > MAX_CALL_BYTES
        entries = {key: {"MessageBody": body} for key, body in bodies.items()}
        return self._in_batches(self._sqs.send_message_batch, entries, tell, 1 if large else MAX_ENTRIES)

    @contextmanager
    def hidden(self, tell: Tell) -> Iterator[list[Message]]:
        """Hide all visible messages and yield them, oldest first. `tell` takes the number so far."""
        found, repeats = dict[str, Message](), 0
        try:
            while repeats < MOST_REPEATS and (messages := self._receive()):
                repeats = repeats + 1 if all(message.message_id in found for message in messages) else 0
                found |= {message.message_id: message for message in messages}
                tell(len(found))
            yield sorted(found.values(), key=lambda one: (one.sent_at, one.message_id))
        finally:
            entries = {one: {"ReceiptHandle": handle, "VisibilityTimeout": 0} for one, handle in self._held.items()}
            self._held = {}
            with suppress(BotoCoreError, ClientError):  # the messages become visible after HOLD_S
                self._in_batches(self._sqs.change_message_visibility_batch, entries, lambda _: None)

    def look(self, tell: Tell = lambda _: None) -> list[Message]:
        """Return all visible messages, oldest first; they are visible again."""
        with self.hidden(tell) as messages:
            return messages

    def delete(self, messages: Sequence[Message], tell: Tell = lambda _: None) -> dict[str, str]:
        """Delete messages; return the fault of each that SQS did not delete, by message id. `tell`: as for `send`."""
        entries = {one.message_id: {"ReceiptHandle": one.receipt_handle} for one in messages}
        return self._in_batches(self._sqs.delete_message_batch, entries, tell)

    def _receive(self) -> list[Message]:
        received = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=MAX_ENTRIES,
            VisibilityTimeout=HOLD_S,
            WaitTimeSeconds=LONG_POLL_S,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])
        self._held |= {one["MessageId"]: one["ReceiptHandle"] for one in received}
        return [Message.of(one, dead=self._dead) for one in received]

    def _in_batches(self, call: Any, entries: Mapping[str, Any], tell: Tell, size: int = MAX_ENTRIES) -> dict[str, str]:
        """Make a call for these entries; return the fault of each that SQS did not carry out, by its key."""
        keys, faults = list(entries), dict[str, str]()
        for start in range(0, len(keys), size):
            some = dict(enumerate(keys[start : start + size]))
            batch = [{"Id": str(number), **entries[key]} for number, key in some.items()]
            reply = call(QueueUrl=self._url, Entries=batch)
            done = {int(one["Id"]) for one in reply.get("Successful", ())}
            said = {int(one["Id"]): f"{one['Code']} {one.get('Message', '')}" for one in reply.get("Failed", ())}
            faults |= {key: said.get(one, "not acknowledged") for one, key in some.items() if one not in done}
            for one in done:
                self._held.pop(some[one], None)  # a deleted message needs no release
            tell(start + len(some) - len(faults))
        return faults


@dataclass(frozen=True)
class QueueKind:
    """One of the queues, in any stack."""

    group: str  # of commands; empty for the result queue
    title: str  # its name in sentences
    output: str  # the stack output with its URL
    reasons: tuple[str, ...]  # that its messages can have

    @property
    def section(self) -> str:
        """The runbook's section about the messages on this queue."""
        return f"docs/runbook.md#{self.title.replace(' ', '-')}-not-empty"

    def of(self, stack: Stack) -> Queue:
        """Return this queue of a stack."""
        return Queue(stack.client("sqs"), stack.output(self.output), dead=self == DEAD)


RESULTS = QueueKind("", "result queue", "ResultQueueUrl", ())
PARKED = QueueKind("parked", "parked queue", "ParkedQueueUrl", tuple(reason.value for reason in Reason if reason.parks))
DEAD = QueueKind("dead", "dead-letter queue", "DeadLetterQueueUrl", tuple(reason.value for reason in DeadReason))
