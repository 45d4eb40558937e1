"""The results that the soak and the demo send, and the endpoint's behaviour for each. A seed repeats a soak's plan."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from local.endpoint import behaviour
from local.endpoint.behaviour import Act, Behaviour, answer, error, named
from local.endpoint.standin import StandIn
from local.soak.facts import DEAD, DELIVERED, OTHER, Pair, SentMessage

Fault = TypeVar("Fault")
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class Item(SentMessage):
    """One message or event to send, and the endpoint's behaviour for it.

    Attributes:
        behaviours: the endpoint's behaviours for its first attempts.
        always: the endpoint's behaviour for each attempt.
    """

    behaviours: tuple[Behaviour, ...] = ()
    always: Behaviour | None = None


def made_up(rng: random.Random, *ends: str, **fields: Any) -> Item:
    """Return a new result, which is delivered unless other ends are allowed."""
    pair = "01" + "".join(rng.choices(ALPHABET, k=24)), rng.choice(("Success", "Failed"))
    return _item(pair, *ends, **fields)


def _item(pair: Pair, *ends: str, **fields: Any) -> Item:
    return Item("", json.dumps({"uuid": pair[0], "status": pair[1]}), pair, frozenset(ends or {DELIVERED}), **fields)


def _contradicting(item: Item) -> Item:
    """Return the other status of the same call. The relay parks it, unless a fault hides the ledger's entry."""
    return _item((item.uuid, OTHER[item.pair[1] if item.pair else ""]), DELIVERED, "conflicting_status")


def _invalid(*texts: str) -> list[Item]:
    return [Item("", text, None, frozenset({"invalid_event"})) for text in texts]


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
        if item.pair and item.end != "unknown_call":
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
        kinds, result = failures(other_host_url), partial(made_up, rng)
        few, some = max(2, count // 1000), max(4, count // 100)
        items = [result(behaviours=(kind,)) for kind in kinds for _ in range(few)]
        items += [result(behaviours=tuple(rng.sample(kinds, 3))) for _ in range(few)]
        # Few: the relay tries them until the end, and too many failures in a row make it spare the endpoint.
        items += [result("unknown_call") for _ in range(min(few, 20))]
        items += [result("retries_exhausted", always=error(503)) for _ in range(min(few, 5))]
        items += [result("rejected", always=error(status)) for status in (400, 409, 422) for _ in range(few)]
        items += INVALID_BODIES * few
        # Contradictions in flight at the same time.
        for first in [result(DELIVERED, "conflicting_status") for _ in range(some)]:
            items += [first, _contradicting(first)]
        items += [result() for _ in range(some)] * 2  # copies in flight at the same time
        plain = [result() for _ in range(max(0, count - len(items) - 3 * some))]
        late = [*rng.sample(plain, some), *map(_contradicting, rng.sample(plain, some))]
        half = len(plain) // 2
        to_queue, to_bus = [*items, *plain[:half]], [*plain[half:], *INVALID_DETAILS * few]
        rng.shuffle(to_queue)
        rng.shuffle(to_bus)
        # Sent last, because the rest of their batch fails, too.
        return cls(seed, to_queue, to_bus, late, [result(DEAD) for _ in range(2)], source)

    @classmethod
    def short(cls, seed: str, other_host_url: str) -> "Plan":
        """Return a plan of a few dozen results, which takes seconds."""
        result = partial(made_up, random.Random(f"{seed} plan"))  # noqa: S311 - the seed repeats it
        plain = [result() for _ in range(10)]
        items = [*plain, result("retries_exhausted", always=error(503)), *INVALID_BODIES]
        for failure in failures(other_host_url):
            # A plain result after each, because five failures in a row make the relay spare the endpoint for 30 s.
            items += [result(behaviours=(failure,)), result()]
        return cls(seed, items, late=[*plain[:3], *map(_contradicting, plain[3:6])])

    @property
    def items(self) -> Sequence[Item]:
        """All items."""
        return [*self.to_queue, *self.to_bus, *self.late, *self.crashing]


def fault_schedule(seed: str, kinds: Sequence[Fault], rate: float, most: int = 1) -> Iterator[Fault | None]:
    """Yield the fault of each call: first each fault once, then random ones.

    Args:
        seed: repeats the schedule.
        kinds: the faults.
        rate: the share of the later calls at which a fault begins, 0 to 1.
        most: a fault lasts for so many calls at most, since the relay's AWS clients try each call twice.
    """
    rng = random.Random(seed)  # noqa: S311 - the seed repeats it
    yield None
    for kind in rng.sample(kinds, len(kinds)):
        yield from [*[kind] * min(most, 2), None]
    while True:
        begins = rng.random() < rate
        yield from [rng.choice(kinds)] * rng.randint(1, most) if begins else [None]
