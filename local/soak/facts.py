"""The recorded facts of a soak, from every side of the relay: sender, endpoint, queues, AWS calls, invocations, log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from local.emulator.runtime import Invocation
from local.endpoint.standin import Request

DELIVERED, DEAD = "delivered", "dead-lettered"
OTHER = {"Success": "Failed", "Failed": "Success"}

Pair = tuple[str, str]  # uuid and status


@dataclass(frozen=True)
class SentMessage:
    """A message or an event.

    Attributes:
        key: the id of the message or of the event, once it is sent.
        text: the message's body, or the event's detail.
        pair: uuid and status; None if it is no valid result.
        ends: how it may end: `delivered`, `dead-lettered`, or a reason for which the relay may park it.
    """

    key: str
    text: str
    pair: Pair | None
    ends: frozenset[str]

    @property
    def uuid(self) -> str:
        """The result's uuid; empty if it is no valid result."""
        return self.pair[0] if self.pair else ""

    @property
    def end(self) -> str:
        """The only end that it may have; empty if there are several."""
        return "".join(self.ends) if len(self.ends) == 1 else ""


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A message on the parked queue, the dead-letter queue or the result queue at the end.

    Attributes:
        message_id: of the message; of its source message if it is parked.
        body: as on the queue.
        reason: why it is parked; only a parked message has this and the next three.
        http_status: of the last reply.
        parked_at: in seconds since the epoch.
        age_s: the source message's age at that time, in seconds.
        attributes: all message attributes as JSON, to search for credentials.
    """

    message_id: str
    body: str
    reason: str = ""
    http_status: str = ""
    parked_at: float = 0.0
    age_s: float = 0.0
    attributes: str = ""

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> "QueueMessage":
        """Convert a message from `Deployment.peek`."""
        attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
        if "source_message_id" not in attributes:
            return cls(message["MessageId"], message["Body"], attributes=json.dumps(attributes))
        return cls(
            message_id=attributes["source_message_id"],
            body=message["Body"],
            reason=attributes["reason"],
            http_status=attributes.get("http_status", ""),
            parked_at=message["SentTimestamp"],
            age_s=message["SentTimestamp"] - datetime.fromisoformat(attributes["enqueued_at"]).timestamp(),
            attributes=json.dumps(attributes),
        )


@dataclass(frozen=True, slots=True)
class AwsCall:
    """One AWS call of the function, recorded by the proxy.

    Attributes:
        began: in seconds since the epoch.
        ended: when the reply was ready, in seconds since the epoch.
        environment: the execution environment that made it.
        operation: such as "BatchGetItem".
        fault: the injected fault; empty if there was none.
        asked: the uuids of the ledger's entries, or the ids of the parked source messages.
        found: the uuids that the ledger's reply holds.
        written: the pairs that the call wrote into the ledger.
        published: the details of the events that EventBridge took, each with its detail-type.
        leaks: whether the call contains a credential of the endpoint.
    """

    began: float
    ended: float
    environment: int
    operation: str
    fault: str = ""
    asked: frozenset[str] = frozenset()
    found: frozenset[str] = frozenset()
    written: frozenset[Pair] = frozenset()
    published: tuple[Mapping[str, Any], ...] = ()
    leaks: bool = False


@dataclass(frozen=True)
class Facts:
    """Everything that a soak recorded.

    Attributes:
        interrupted: the invocations (environment, number) that were killed or frozen.
        repeats: the invocations (environment, number) that got an event for the second time.
        other_host_requests: the requests that reached a host that must not get the credentials.
        raw_log: all lines of the function and its runtime.
        credentials: each secret value that was in use.
        host: the endpoint's host and port.
        bounds: the retry horizon and the grace for unknown calls in seconds, each after the time (in seconds since the
            epoch) from which they applied; oldest first.
        visibility_s: the result queue's visibility timeout.
    """

    sent: Sequence[SentMessage]
    invocations: Sequence[Invocation]
    interrupted: frozenset[tuple[int, int]]
    repeats: frozenset[tuple[int, int]]
    requests: Sequence[Request]
    accepted: Sequence[Pair]
    other_host_requests: Sequence[Request]
    calls: Sequence[AwsCall]
    parked: Sequence[QueueMessage]
    dead_lettered: Sequence[QueueMessage]
    queued: Sequence[QueueMessage]
    log: Sequence[Mapping[str, Any]]
    raw_log: Sequence[str]
    credentials: frozenset[str]
    host: str
    bounds: Sequence[tuple[float, float, float]]
    visibility_s: float
