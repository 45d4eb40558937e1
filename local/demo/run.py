"""One run of the demo: send its results while the endpoint misbehaves, and wait until all are settled."""

import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from local.command import watch
from local.emulator.deployment import Deployment
from local.endpoint.behaviour import answer, error, hang, named, reset
from local.endpoint.standin import StandIn
from local.soak.facts import DELIVERED
from local.soak.plan import INVALID_BODIES, INVALID_DETAILS, Item, made_up, prepare

# Short enough to watch, and long enough for an endpoint on a busy machine to answer.
PARAMETERS: dict[str, str | int] = {
    "RequestTimeoutSeconds": 10,
    "RetryBaseSeconds": 1,
    "RetryCapSeconds": 4,
    "UnknownCallGraceSeconds": 20,
}
OUTAGE_S = 3
LIMIT_S = 900


@dataclass
class Run:
    """A deployed relay, its endpoint, and the results of a demo.

    Attributes:
        count: how many results to send.
        say: takes a line for each step.
        failing: the result whose first three attempts fail, each in another way.
        known_later: the endpoint knows its call only after the first attempt.
        sent_at: when the first result was sent, in seconds since the epoch.
        rotated_at: when the endpoint's key was rotated, in seconds since the epoch.
    """

    deployment: Deployment
    endpoint: StandIn
    count: int
    say: Callable[[str], None]
    sent_at: float = field(default=0, init=False)
    rotated_at: float = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Make the results up, half for the queue and half for the bus."""
        result = partial(made_up, random.SystemRandom())
        page = named(answer(200, "<html><body>We'll be back soon</body></html>"), "200, a web page")
        self.failing = result(behaviours=(error(500), named(hang(), "no answer"), page))
        self.known_later = result(behaviours=(error(404),))
        unknown = [result("unknown_call") for _ in range(3)]
        to_queue = [self.failing, self.known_later, result("rejected", always=error(400)), unknown[0], *INVALID_BODIES]
        to_bus = [result(behaviours=(way,)) for way in (hang(), reset())] + [*unknown[1:], *INVALID_DETAILS]
        to_queue += [result() for _ in range(self.count - self.count // 2 - len(to_queue))]
        to_bus += [result() for _ in range(self.count // 2 - len(to_bus))]
        self._queue, self._bus = to_queue, to_bus
        self.items = [*to_queue, *to_bus]

    def send_all(self) -> None:
        """Send all results while the endpoint misbehaves, and wait until each is delivered or parked."""
        prepare(self.endpoint, self.items)
        self.sent_at = time.time()
        self._send_and_watch(0, any)
        # Its 404 must come before the outage: after it, the grace for unknown calls would be over.
        self._watch(lambda: any(request.uuid == self.known_later.uuid for request in self.endpoint.requests))
        self.say(f"an outage: the endpoint answers only 500 for {OUTAGE_S} s; the relay spares it for 30 s")
        self.endpoint.override(error(500), OUTAGE_S)
        self._send_and_watch(1, any)
        self.say("the relay sends again; now the key is rotated, and the endpoint refuses the old one")
        api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        self.rotated_at = time.time()
        self.endpoint.rotate(api_key, user_id)
        self.deployment.fill_secret(api_key, user_id)
        self._send_and_watch(2, all)
        self._watch(lambda: self._settled() >= len(self.items) and not self.deployment.depth("ResultQueueUrl"))

    def _send_and_watch(self, third: int, enough: Callable[[Sequence[bool]], bool]) -> None:
        """Send a third of the results, and wait until any or all of those to deliver are delivered."""
        to_queue, to_bus = (_third(items, third) for items in (self._queue, self._bus))
        self.say(f"sending {len(to_queue)} results to the queue and {len(to_bus)} to the bus")
        self.deployment.send([item.text for item in to_queue])
        self.deployment.put_events([item.text for item in to_bus])
        due = {item.pair for item in [*to_queue, *to_bus] if item.end == DELIVERED}
        self._watch(lambda: enough([pair in accepted for accepted in [set(self.endpoint.accepted)] for pair in due]))

    def _settled(self) -> int:
        return len(set(self.endpoint.accepted)) + self.deployment.depth("ParkedQueueUrl")

    def _watch(self, until: Callable[[], bool]) -> None:
        def progress() -> str:
            return f"{self._settled()} of {len(self.items)} results are delivered or parked"

        watch(until, LIMIT_S, self.say, progress, every_s=2)


def _third(items: Sequence[Item], number: int) -> Sequence[Item]:
    size = len(items) // 3
    return items[number * size : (number + 1) * size if number < 2 else None]
