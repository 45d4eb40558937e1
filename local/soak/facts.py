"""The recorded facts of a soak, from every side of the relay: sender, endpoint, queues, AWS calls, invocations, log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local.emulator.runtime import Invocation
from local.endpoint.standin import Request

if TYPE_CHECKING:
    from local.soak.plan import Item

DELIVERED = "delivered"
OTHER = {"Success": "Failed", "Failed": "Success"}

Pair = tuple[str, str]  # uuid and status


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A message on a queue at the end.

    Attributes:
        message_id: of the message; of its source message if it is parked.
        body: as on the queue.
        reason: why it is parked.
        attributes: all message attributes as JSON, to search for credentials.
    """

    message_id: str
    body: str
    reason: str = ""
    attributes: str = ""

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> "QueueMessage":
        """Convert a message from `Deployment.peek`."""
        values = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
        message_id = values.get("source_message_id", message["MessageId"])
        return cls(message_id, message["Body"], values.get("reason", ""), json.dumps(values))


@dataclass(frozen=True)
class Facts:
    """Everything that a soak recorded.

    Attributes:
        interrupted: the invocations (environment, number) that were killed or frozen.
        other_host_requests: the requests that reached a host that must not get the credentials.
        ledger_faults: the invocations in which a call to the ledger met a fault.
        leaks: the operations of the AWS calls that held a credential of the endpoint.
        raw_log: all lines of the function and its runtime.
        credentials: each secret value that was in use.
    """

    sent: Sequence["Item"]
    invocations: Sequence[Invocation]
    interrupted: frozenset[tuple[int, int]]
    requests: Sequence[Request]
    accepted: Sequence[Pair]
    other_host_requests: Sequence[Request]
    ledger_faults: frozenset[tuple[int, int]]
    leaks: Sequence[str]
    parked: Sequence[QueueMessage]
    dead_lettered: Sequence[QueueMessage]
    queued: Sequence[QueueMessage]
    log: Sequence[Mapping[str, Any]]
    raw_log: Sequence[str]
    credentials: frozenset[str]
