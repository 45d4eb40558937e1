"""The results that a soak sends and the endpoint's behaviour for each, made from a seed."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from local.endpoint import behaviour
from local.endpoint.behaviour import Act, Behaviour, answer, error, named
from local.soak.facts import DEAD, DELIVERED, OTHER, Pair

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class Item:
    """One message or event, and the endpoint's behaviour for it.

    Attributes:
        text: the message's body, or the event's detail.
        pair: uuid and status; None if it is no valid result.
        allowed_ends: as in `facts.SentMessage`.
        kind: "plain", "known later" (the endpoint knows its call only after an attempt), "unknown" (the endpoint never
            knows its call), "failing" (the endpoint never accepts it) or "crashing" (it kills the function).
        behaviours: the endpoint's behaviours for its first attempts.
        always: the endpoint's behaviour for each attempt.
    """

    text: str
    pair: Pair | None
    allowed_ends: frozenset[str]
    kind: str = "plain"
    behaviours: tuple[Behaviour, ...] = ()
    always: Behaviour | None = None

    @property
    def uuid(self) -> str:
        """The result's uuid; empty if it is no valid result."""
        return self.pair[0] if self.pair else ""


def failures(other_host_url: str) -> Sequence[Behaviour]:
    """Return the endpoint's failures of single attempts. The redirects lead to the other host."""
    page = "<html><body>We'll be back soon</body></html>"
    return (
        error(500),
        error(503, html=True),
        error(429, retry_after=2),
        named(answer(200, page), "a web page with 200"),
        named(answer(200, {"uuid": "01ANOTHERCALL", "status": "Success"}), "a reply about another call"),
        named(behaviour.echo_headers(500), "an error that echoes the credentials"),
        behaviour.redirect(302, other_host_url),
        behaviour.redirect(307, other_host_url),
        behaviour.drip_headers(0.5),
        behaviour.drip_body(0.5),
        behaviour.hang(),
        behaviour.reset(),
        behaviour.lost(),
        behaviour.close_early(),
        behaviour.half_reply(),
        behaviour.end_kept(),
        behaviour.end_kept(Act.REQUEST),
        behaviour.end_kept(Act.REQUEST, Act.RESET),
    )


INVALID = (
    "a flash call that was no JSON",
    json.dumps(["01JV5V54KPYK9GB29265EQRZ2P", "Success"]),
    json.dumps({"uuid": "01JV5V54KPYK9GB29265EQRZ2P", "status": "Answered"}),
    json.dumps({"status": "Success"}),
    json.dumps({"uuid": 7, "status": "Failed"}),
)
INVALID_DETAILS = (json.dumps({"uuid": 7, "status": "Success"}), json.dumps({"status": "Failed"}))


@dataclass(frozen=True)
class Plan:
    """All items of a soak.

    Attributes:
        seed: repeats the plan.
        to_queue: the messages, in order.
        to_bus: the events, in order.
        late: the copies and contradictions to send once the rest is delivered.
        crashing: the messages to send last; each kills the function.
        source: the source of the events.
    """

    seed: str
    to_queue: Sequence[Item]
    to_bus: Sequence[Item] = ()
    late: Sequence[Item] = ()
    crashing: Sequence[Item] = ()
    source: str = "flash-call.verification"

    @classmethod
    def of(cls, count: int, seed: str, other_host_url: str, source: str = "flash-call.verification") -> "Plan":
        """Return a plan.

        Args:
            count: the approximate number of results.
            seed: repeats the plan.
            other_host_url: a host that must not get the credentials.
            source: the source of the events.
        """
        rng = random.Random(f"{seed} plan")  # noqa: S311 - the seed repeats it
        kinds, result = failures(other_host_url), partial(_made_up, rng)
        few, some = max(2, count // 1000), max(4, count // 100)
        items = [result(behaviours=(kind,)) for kind in kinds for _ in range(few)]
        items += [result(behaviours=tuple(rng.sample(kinds, 3))) for _ in range(few)]
        items += [result(kind="known later") for _ in range(some)]
        # Few: the relay tries them until the end, and too many failures in a row make it spare the endpoint.
        items += [result({"unknown_call"}, kind="unknown") for _ in range(min(few, 20))]
        items += [result({"retries_exhausted"}, kind="failing", always=error(503)) for _ in range(min(few, 5))]
        items += [result({"rejected"}, always=error(status)) for status in (400, 409, 422) for _ in range(few)]
        items += [Item(text, None, frozenset({"invalid_event"})) for text in INVALID for _ in range(few)]
        either = {DELIVERED, "conflicting_status"}
        for first in [result(either) for _ in range(some)]:  # contradictions in flight at the same time
            items += [first, _contradicting(first)]
        items += [result() for _ in range(some)] * 2  # copies in flight at the same time
        plain = [result() for _ in range(max(0, count - len(items) - 3 * some))]
        late = [*rng.sample(plain, some), *map(_contradicting, rng.sample(plain, some))]
        half = len(plain) // 2
        to_queue, to_bus = [*items, *plain[:half]], plain[half:]
        to_bus += [Item(text, None, frozenset({"invalid_event"})) for text in INVALID_DETAILS for _ in range(few)]
        rng.shuffle(to_queue)
        rng.shuffle(to_bus)
        # Sent last, because the rest of their batch fails, too.
        crashing = [result({DEAD}, kind="crashing") for _ in range(2)]
        return cls(seed, to_queue, to_bus, late, crashing, source)

    @classmethod
    def short(cls, seed: str, other_host_url: str) -> "Plan":
        """Return a plan of a few dozen results, which takes seconds."""
        rng = random.Random(f"{seed} plan")  # noqa: S311 - the seed repeats it
        result = partial(_made_up, rng)
        plain = [result() for _ in range(10)]
        failing = result({"retries_exhausted"}, kind="failing", always=error(503))
        items = [*plain, failing, *(Item(text, None, frozenset({"invalid_event"})) for text in INVALID)]
        for failure in failures(other_host_url):
            # A plain result after each, because five failures in a row make the relay spare the endpoint for 30 s.
            items += [result(behaviours=(failure,)), result()]
        return cls(seed, items, late=[*plain[:3], *map(_contradicting, plain[3:6])])

    @property
    def items(self) -> Sequence[Item]:
        """All items."""
        return [*self.to_queue, *self.to_bus, *self.late, *self.crashing]


def _made_up(rng: random.Random, allowed_ends: set[str] | None = None, **fields: Any) -> Item:
    pair = "01" + "".join(rng.choices(ALPHABET, k=24)), rng.choice(("Success", "Failed"))
    return _item(pair, allowed_ends or {DELIVERED}, **fields)


def _item(pair: Pair, allowed_ends: set[str], **fields: Any) -> Item:
    return Item(json.dumps({"uuid": pair[0], "status": pair[1]}), pair, frozenset(allowed_ends), **fields)


def _contradicting(item: Item) -> Item:
    """Return the other status of the same call. The relay parks it, unless a fault hides the ledger's entry."""
    return _item((item.uuid, OTHER[item.pair[1] if item.pair else ""]), {DELIVERED, "conflicting_status"})
