"""SQS queues and their messages. `RESULTS` is the result queue; `PARKED` and `DEAD` need a person."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import Any

import click
from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay.events import UNIQUE, parse_body
from flash_call_relay.models import FlashCallResult, Reason, Status
from flash_call_relay.queues import MAX_RESULT_BYTES
from flash_call_relay.text import InvalidJSONError, decode_json, printable
from ops.stack import Stack

HOLD_S = 300  # visibility timeout of a receive
LONG_POLL_S = 1  # a short poll may miss messages
MOST_REPEATS = 10  # receives in a row that return only messages which SQS returned before
REFUSALS_SHOWN = 10
# SQS's limits for one call
MAX_ENTRIES = 10
MAX_CALL_BYTES = 1024 * 1024
QUOTED = re.compile(r'"(?=([^"\\]+)\\?")')  # each string in JSON, and in JSON in a JSON string


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

    @classmethod
    def of(cls, received: Mapping[str, Any], *, dead: bool) -> "Message":
        """Read a message as SQS returns it; `dead`: from the dead-letter queue."""
        attributes = {
            name: value.get("StringValue", "") for name, value in received.get("MessageAttributes", {}).items()
        }
        return cls(
            message_id=received["MessageId"],
            receipt_handle=received["ReceiptHandle"],
            body=received["Body"],
            attributes=attributes,
            sent_at=int(received["Attributes"]["SentTimestamp"]) / 1000,
            reason=_dead_reason(attributes) if dead else printable(attributes.get("reason", "unknown")),
        )

    @cached_property
    def results(self) -> list[FlashCallResult]:
        """The result in the message, if its body is one."""
        content = parse_body(self.body)
        return [content] if isinstance(content, FlashCallResult) else []

    @cached_property
    def uuid(self) -> str | None:
        """The call, if its uuid is valid, even if the status is not."""
        if self.results:
            return self.results[0].uuid
        try:
            document = decode_json(self.body, UNIQUE)
        except InvalidJSONError:
            return None
        if isinstance(document, dict) and "detail-type" in document:
            document = document.get("detail")
        uuid = document.get("uuid") if isinstance(document, dict) else None
        corrected = parse_body(json.dumps({"uuid": uuid, "status": "Success"}))
        return corrected.uuid if isinstance(corrected, FlashCallResult) else None

    @property
    def status(self) -> Status | None:
        """The status; None if the body is not a result."""
        return self.results[0].status if self.results else None

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
        names = ("detail", "ErrorMessage", "ERROR_MESSAGE")
        detail = next((self.attributes[name] for name in names if self.attributes.get(name)), "")
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


def _dead_reason(attributes: Mapping[str, str]) -> DeadReason:
    if "RULE_ARN" in attributes:  # an attribute of EventBridge's dead letters
        return DeadReason.EVENT_UNDELIVERED
    if {"RequestID", "ErrorCode"} <= attributes.keys():  # attributes of Lambda's dead letters
        return DeadReason.FUNCTION_FAILED
    return DeadReason.RECEIVES_EXHAUSTED


@dataclass(frozen=True)
class Depth:
    """The numbers that SQS reports for a queue. It calls the counts approximate."""

    visible: int  # messages that SQS would return now
    hidden: int  # in flight
    delayed: int  # their delay is not over
    retention_s: int  # how long the queue keeps a message
    visibility_s: int  # after how long a message that was received comes back

    @property
    def in_flight(self) -> int:
        """The number of messages that SQS returns later."""
        return self.hidden + self.delayed

    @property
    def total(self) -> int:
        """The number of messages on the queue."""
        return self.visible + self.in_flight


class Queue:
    """One SQS queue of a stack.

    A receive hides messages for `HOLD_S` seconds: until then after a kill, else until the command ends. After an
    interruption, this may be so for those of the last receive. Only the receive count of a message changes.
    """

    def __init__(self, sqs: Any, url: str, *, dead: bool = False) -> None:
        self._sqs, self._url, self._dead = sqs, url, dead
        self._held: dict[str, str] = {}  # receipt handles by message id

    def depth(self) -> Depth:
        """Return the number of messages that SQS reports for the queue."""
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])["Attributes"]
        return Depth(
            visible=int(attributes["ApproximateNumberOfMessages"]),
            hidden=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
            retention_s=int(attributes["MessageRetentionPeriod"]),
            visibility_s=int(attributes["VisibilityTimeout"]),
        )

    def send(self, bodies: Mapping[str, str], tell: Callable[[int], object] = lambda _: None) -> dict[str, str]:
        """Send bodies; return the fault of each that SQS did not take, by its key. `tell` takes the number so far."""
        keys, refused = list(bodies), dict[str, str]()
        large = sum(len(body.encode(errors="surrogatepass")) for body in bodies.values()) > MAX_CALL_BYTES
        size = 1 if large else MAX_ENTRIES
        for start in range(0, len(keys), size):
            sent = dict(enumerate(keys[start : start + size]))
            entries = [{"Id": str(number), "MessageBody": bodies[key]} for number, key in sent.items()]
            reply = self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries)
            taken = {int(entry["Id"]) for entry in reply.get("Successful", ())}
            faults = {int(one["Id"]): f"{one['Code']} {one.get('Message', '')}" for one in reply.get("Failed", ())}
            refused |= {key: faults.get(one, "not acknowledged") for one, key in sent.items() if one not in taken}
            tell(start + len(sent) - len(refused))
        return refused

    def hide(self, seen: Callable[[int], object]) -> list[Message]:
        """Return all visible messages, oldest first; `release` makes them visible. `seen` takes the number so far."""
        found: dict[str, Message] = {}
        repeats = 0
        try:
            while repeats < MOST_REPEATS and (messages := self._receive()):
                before = len(found)
                found.update({message.message_id: message for message in messages})
                repeats = repeats + 1 if len(found) == before else 0
                seen(len(found))
        except BaseException:
            self.release()
            raise
        return sorted(found.values(), key=lambda one: (one.sent_at, one.message_id))

    def look(self, seen: Callable[[int], object]) -> list[Message]:
        """Return all visible messages, oldest first, and make them visible again."""
        messages = self.hide(seen)
        self.release()
        return messages

    def delete(self, messages: Sequence[Message]) -> int:
        """Delete at most ten messages; return how many SQS has deleted."""
        if not messages:
            return 0
        entries = [{"Id": str(number), "ReceiptHandle": one.receipt_handle} for number, one in enumerate(messages)]
        reply = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
        for deleted in reply.get("Successful", ()):
            del self._held[messages[int(deleted["Id"])].message_id]
        return len(reply.get("Successful", ()))

    def _receive(self) -> list[Message]:
        received = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=MAX_ENTRIES,
            VisibilityTimeout=HOLD_S,
            WaitTimeSeconds=LONG_POLL_S,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])
        self._held.update({one["MessageId"]: one["ReceiptHandle"] for one in received})
        return [Message.of(one, dead=self._dead) for one in received]

    def release(self) -> None:
        """Make the hidden messages visible that are not deleted."""
        handles, self._held = list(self._held.values()), {}
        for start in range(0, len(handles), MAX_ENTRIES):
            some = enumerate(handles[start : start + MAX_ENTRIES])
            entries = [{"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0} for number, handle in some]
            with suppress(BotoCoreError, ClientError):  # the messages become visible after HOLD_S
                self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)


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


def tell_refused(faults: Mapping[str, str]) -> None:
    """Print the first of the faults that `send` has returned."""
    for key, fault in islice(faults.items(), REFUSALS_SHOWN):
        click.echo(f"SQS refused {key}: {fault}", err=True)
