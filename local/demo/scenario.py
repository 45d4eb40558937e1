"""The results that a demo sends, how the endpoint fails them, and the outcome that each must have."""

import itertools
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from local.endpoint.behaviour import Behaviour, answer, error, hang, named, reset

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
    """One message or event.

    Attributes:
        text: the message's body, or the event's detail; no two are the same.
        result: uuid and status; None if the text is no valid result.
        expected: `delivered`, or the reason for which the relay must park it.
        behaviours: the endpoint's behaviours for its first attempts.
    """

    text: str
    result: tuple[str, str] | None
    expected: str
    behaviours: tuple[Behaviour, ...] = ()

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
        failing: the result whose first three attempts fail, each in another way.
        known_later: the endpoint knows its call only after the first attempt.
    """

    to_queue: Sequence[Item]
    to_bus: Sequence[Item]
    failing: Item
    known_later: Item

    @classmethod
    def of(cls, count: int) -> "Scenario":
        """Return a scenario of `count` results, half for the queue and half for the bus."""
        statuses = itertools.cycle(("Success", "Failed"))

        def result(*behaviours: Behaviour, expected: str = DELIVERED) -> Item:
            uuid = "01" + "".join(secrets.choice(ULID_ALPHABET) for _ in range(24))
            status = next(statuses)
            return Item(json.dumps({"uuid": uuid, "status": status}), (uuid, status), expected, behaviours)

        def invalid(text: str) -> Item:
            return Item(text, None, "invalid_event")

        page = named(answer(200, "<html><body>We'll be back soon</body></html>"), "200, a web page")
        failing, known_later = result(error(500), named(hang(), "no answer"), page), result()
        rejected = result(error(400), expected="rejected")
        unknown = [result(expected="unknown_call") for _ in range(3)]
        to_queue = [failing, known_later, rejected, unknown[0], *map(invalid, INVALID_BODIES)]
        to_bus = [result(hang()), result(reset()), *unknown[1:], *map(invalid, INVALID_DETAILS)]
        to_queue += [result() for _ in range(count - count // 2 - len(to_queue))]
        to_bus += [result() for _ in range(count // 2 - len(to_bus))]
        return cls(to_queue, to_bus, failing, known_later)

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
