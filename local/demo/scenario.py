"""The results that a demo sends, and the outcome that each must have."""

import itertools
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

DELIVERED = "delivered"
ULID_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
INVALID_BODIES = (
    "a flash call that was no JSON",
    json.dumps(["01JV5V54KPYK9GB29265EQRZ2P", "Success"]),
    json.dumps({"status": "Success"}),
    json.dumps({"uuid": "01JV5V54KPYK9GB29265EQRZ2P", "status": "Answered"}),
    json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:eu-central-1:123456789012:calls", "Message": "{}"}),
)
INVALID_DETAILS = (
    json.dumps({"uuid": 7, "status": "Success"}),
    json.dumps({"uuid": "01JV5V54KPYK9GB29265EQRZ2P", "status": "success"}),
)


@dataclass(frozen=True)
class Item:
    """One message or event, and its outcome.

    Attributes:
        text: the message's body, or the event's detail; no two are the same.
        result: uuid and status; None if the text is no valid result.
        fate: `delivered`, or the reason for which the relay must park it.
    """

    text: str
    result: tuple[str, str] | None
    fate: str

    @property
    def uuid(self) -> str:
        """The result's uuid; empty if it is no valid result."""
        return self.result[0] if self.result else ""


Part = tuple[Sequence[Item], Sequence[Item]]  # for the queue, for the bus


@dataclass(frozen=True)
class Scenario:
    """All results of a demo.

    Attributes:
        to_queue: the messages for the result queue.
        to_bus: the events.
        hard: its first three attempts get a 500, no answer and a web page.
        late: the endpoint knows its call only after the first attempt.
        hung: its first attempt gets no answer.
        torn: its first attempt gets a connection reset.
        refused: its first attempt gets a 400.
    """

    to_queue: Sequence[Item]
    to_bus: Sequence[Item]
    hard: Item
    late: Item
    hung: Item
    torn: Item
    refused: Item

    @classmethod
    def of(cls, count: int) -> "Scenario":
        """Return a scenario of `count` results, half for the queue and half for the bus."""
        statuses = itertools.cycle(("Success", "Failed"))

        def result(fate: str = DELIVERED) -> Item:
            uuid = "01" + "".join(secrets.choice(ULID_ALPHABET) for _ in range(24))
            status = next(statuses)
            return Item(json.dumps({"uuid": uuid, "status": status}), (uuid, status), fate)

        def invalid(text: str) -> Item:
            return Item(text, None, "invalid_event")

        hard, late, hung, torn, refused = result(), result(), result(), result(), result("rejected")
        to_queue = [hard, late, refused, result("unknown_call"), *map(invalid, INVALID_BODIES)]
        to_bus = [hung, torn, result("unknown_call"), result("unknown_call"), *map(invalid, INVALID_DETAILS)]
        to_queue += [result() for _ in range(count - count // 2 - len(to_queue))]
        to_bus += [result() for _ in range(count // 2 - len(to_bus))]
        return cls(to_queue, to_bus, hard, late, hung, torn, refused)

    @property
    def items(self) -> list[Item]:
        """All items."""
        return [*self.to_queue, *self.to_bus]

    def parts(self) -> tuple[Part, Part, Part]:
        """Return the items to send at first, during the outage, and after the rotation."""
        queue, bus = len(self.to_queue) // 3, len(self.to_bus) // 3
        return (
            (self.to_queue[:queue], self.to_bus[:bus]),
            (self.to_queue[queue : 2 * queue], self.to_bus[bus : 2 * bus]),
            (self.to_queue[2 * queue :], self.to_bus[2 * bus :]),
        )
