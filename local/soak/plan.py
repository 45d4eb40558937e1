"""The results that the soak and the demo send, and the endpoint's behaviour for each. A seed repeats a soak's plan."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from local.endpoint import behaviour
from local.endpoint.behaviour import Act, Behaviour, answer, error
from local.endpoint.standin import StandIn
from local.soak.facts import DELIVERED, OTHER, Pair

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class Item:
    """A message or an event to send, and the endpoint's behaviour for it.

    Attributes:
        text: the message's body, or the event's detail.
        pair: uuid and status; None if it is no valid result.
        ends: how it may end: `delivered`, or a reason for which the relay may park it.
        behaviours: the endpoint's behaviours for its first attempts.
        always: the endpoint's behaviour for each attempt.
        message_id: of the message, once it is sent.
    """

    text: str
    pair: Pair | None
    ends: frozenset[str]
    behaviours: tuple[Behaviour, ...] = ()
    always: Behaviour | None = None
    message_id: str = ""

    @property
    def uuid(self) -> str:
        """The result's uuid; empty if it is no valid result."""
        return self.pair[0] if self.pair else ""


def made_up(rng: random.Random, *ends: str, **fields: Any) -> Item:
    """Return a new result, which is delivered unless other ends are allowed."""
    pair = "01" + "".join(rng.choices(ALPHABET, k=24)), rng.choice(("Success", "Failed"))
    return _item(pair, *ends, **fields)


def _item(pair: Pair, *ends: str, **fields: Any) -> Item:
    return Item(json.dumps({"uuid": pair[0], "status": pair[1]}), pair, frozenset(ends or {DELIVERED}), **fields)


def contradicting(item: Item) -> Item:
    """Return the other status of the same call. The relay parks it, unless a fault hides the ledger's entry."""
    return _item((item.uuid, OTHER[item.pair[1] if item.pair else ""]), DELIVERED, "conflicting_status")


def _invalid(*texts: str) -> list[Item]:
    return [Item(text, None, frozenset({"invalid_event"})) for text in texts]


INVALID_BODIES = _invalid(
    "a flash call that was no JSON",
    json.dumps(["01JV5V54KPYK9GB29265EQRZ2P", "Success"]),
    json.dumps({"uuid": "01JV5V54KPYK9GB29265EQRZ2P", "status": "Answered"}),
    json.dumps({"status": "Success"}),
    json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:eu-central-1:123456789012:calls", "Message": "{}"}),
)
INVALID_DETAILS = _invalid(json.dumps({"uuid": 7, "status": "Success"}), json.dumps({"status": "Failed"}))


def prepare(endpoint: StandIn, items: Iterable[Item]) -> None:
    """Tell the endpoint which calls exist, and how to behave for each."""
    for item in items:
        if item.pair and "unknown_call" not in item.ends:
            endpoint.issue(item.uuid)
        endpoint.misbehave(item.uuid, *item.behaviours)
        if item.always:
            endpoint.always(item.uuid, item.always)


def failures(other_host_url: str) -> Sequence[Behaviour]:
    """Return the endpoint's failures of single attempts. The redirects lead to the other host."""
    page = "<html><body>We'll be back soon</body></html>"
    return (
        error(404),  # the call is known at the next attempt
        error(500),
        error(503, html=True),
        error(429, retry_after=2),
        replace(answer(200, page), name="a web page with 200"),
        replace(answer(200, {"uuid": "01ANOTHERCALL", "status": "Success"}), name="a reply about another call"),
        replace(behaviour.echo_headers(500), name="an error that echoes the credentials"),
        answer(302, None, {"Location": other_host_url}),
        answer(307, None, {"Location": other_host_url}),
        behaviour.drip("head", 0.5),
        behaviour.drip("body", 0.5),
        behaviour.hang(),
        behaviour.end(Act.RESET),
        behaviour.lost(),
        behaviour.end(Act.CLOSE),
        behaviour.half_reply(),
        behaviour.end_kept(),
        behaviour.end_kept(Act.REQUEST),
        behaviour.end_kept(Act.REQUEST, Act.RESET),
    )


def _as_event(item: Item) -> Item:
    """Return the message that EventBridge would put on the queue for an event with this result."""
    event = {
        "id": "00000000-0000-4000-8000-000000000000",
        "detail-type": "Flash Call Result",
        "detail": json.loads(item.text),
    }
    return replace(item, text=json.dumps(event))


@dataclass(frozen=True)
class Plan:
    """All items of a soak.

    Attributes:
        seed: repeats the plan.
        first: the messages, in order.
        late: the copies and contradictions to send once the rest is delivered, and the calls that stay unknown.
    """

    seed: str
    first: Sequence[Item]
    late: Sequence[Item]

    @classmethod
    def of(cls, count: int, seed: str, other_host_url: str) -> "Plan":
        """Return a plan of about `count` results. The redirects lead to a host that must not get the credentials."""
        rng = random.Random(f"{seed} plan")  # noqa: S311 - the seed repeats it
        kinds, result = failures(other_host_url), partial(made_up, rng)
        few, some = max(2, count // 1000), max(4, count // 100)
        items = [result(behaviours=(kind,)) for kind in kinds for _ in range(few)]
        items += [result(behaviours=tuple(rng.sample(kinds, 3))) for _ in range(few)]
        items += [result("rejected", always=error(status)) for status in (400, 409, 422) for _ in range(few)]
        items += [*INVALID_BODIES, *map(_as_event, INVALID_DETAILS)] * few
        # Contradictions in flight at the same time.
        for first in [result(DELIVERED, "conflicting_status") for _ in range(some)]:
            items += [first, contradicting(first)]
        items += [result() for _ in range(some)] * 2  # copies in flight at the same time
        unknown = [result("unknown_call") for _ in range(few)]
        plain = [result() for _ in range(max(0, count - len(items) - 2 * some - few))]
        late = [*rng.sample(plain, some), *map(contradicting, rng.sample(plain, some)), *unknown]
        half = len(plain) // 2
        items += [*plain[:half], *map(_as_event, plain[half:])]
        rng.shuffle(items)
        return cls(seed, items, late)
