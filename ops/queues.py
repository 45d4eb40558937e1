"""SQS queues: count, look at, send and delete messages. `PARKED` and `DEAD` are the queues that need a person."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay.models import Reason
from ops.messages import DeadReason, Message
from ops.stack import Stack

HOLD_S = 300  # visibility timeout of a receive
LONG_POLL_S = 1  # a short poll may miss messages
MOST_REPEATS = 10  # receives in a row that return only messages which SQS returned before
RELEASING = 4  # calls at the same time, since the operator waits for these
NEARLY_ALL_IN_FLIGHT = 100_000  # SQS allows about 120,000 messages in flight
REFUSALS_SHOWN = 10
# SQS's limits for one call
MAX_ENTRIES = 10
MAX_CALL_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Depth:
    """The numbers that SQS reports for a queue. It calls the counts approximate."""

    visible: int  # messages that SQS would return now
    hidden: int  # in flight
    delayed: int  # their delay is not over
    retention_s: int  # how long the queue keeps a message

    @property
    def total(self) -> int:
        """The number of messages on the queue."""
        return self.visible + self.hidden + self.delayed


class Queue:
    """One SQS queue of a stack.

    A receive hides messages for `hold_s` seconds: until then after a kill, else until the command ends. After an
    interruption, this may be so for those of the last receive. Only the receive count of a message changes.
    """

    def __init__(self, sqs: Any, url: str, *, dead: bool = False, hold_s: int = HOLD_S) -> None:
        self._sqs, self._url, self._dead, self._hold_s = sqs, url, dead, hold_s
        self._held: dict[str, str] = {}  # receipt handles by message id

    @classmethod
    def of(cls, stack: Stack, output: str) -> "Queue":
        """Return the queue whose URL is an output of the stack."""
        return cls(stack.client("sqs"), stack.output(output))

    def depth(self) -> Depth:
        """Return the number of messages that SQS reports for the queue."""
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])["Attributes"]
        return Depth(
            visible=int(attributes["ApproximateNumberOfMessages"]),
            hidden=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
            retention_s=int(attributes["MessageRetentionPeriod"]),
        )

    def send(self, bodies: Mapping[str, str]) -> dict[str, str]:
        """Send bodies; return the fault of each body that SQS did not take, by the key of the body."""
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
            VisibilityTimeout=self._hold_s,
            WaitTimeSeconds=LONG_POLL_S,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])
        self._held.update({one["MessageId"]: one["ReceiptHandle"] for one in received})
        return [Message.of(one, dead=self._dead) for one in received]

    def release(self) -> None:
        """Make the hidden messages visible that are not deleted."""
        handles, self._held = list(self._held.values()), {}

        def show(start: int) -> None:
            some = enumerate(handles[start : start + MAX_ENTRIES])
            entries = [{"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0} for number, handle in some]
            with suppress(BotoCoreError, ClientError):  # the messages become visible after hold_s
                self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

        with ThreadPoolExecutor(RELEASING) as pool:
            list(pool.map(show, range(0, len(handles), MAX_ENTRIES)))  # list raises what a call raised


@dataclass(frozen=True)
class QueueKind:
    """One of the two queues that need a person, in any stack."""

    group: str  # of commands
    title: str  # its name in sentences
    output: str  # the stack output with its URL
    reasons: tuple[str, ...]  # that its messages can have

    @property
    def section(self) -> str:
        """The runbook's section about the messages on this queue."""
        return f"docs/runbook.md#{self.title.replace(' ', '-')}-not-empty"

    def of(self, stack: Stack, hold_s: int = HOLD_S) -> Queue:
        """Return this queue of a stack."""
        return Queue(stack.client("sqs"), stack.output(self.output), dead=self == DEAD, hold_s=hold_s)


PARKED = QueueKind("parked", "parked queue", "ParkedQueueUrl", tuple(reason.value for reason in Reason if reason.parks))
DEAD = QueueKind("dead", "dead-letter queue", "DeadLetterQueueUrl", tuple(reason.value for reason in DeadReason))
