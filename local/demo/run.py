"""One run of the demo: send its results while the endpoint misbehaves, and wait until all are settled."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from rich.console import Console

from flash_call_relay.gate import BLOCK_S
from local.command import watch
from local.emulator.deployment import Deployment
from local.endpoint.behaviour import Act, answer, end, error, hang
from local.endpoint.standin import StandIn
from local.soak.plan import INVALID_BODIES, INVALID_DETAILS, made_up, prepare

TIMEOUT_S = 10  # short enough to watch, and long enough for an endpoint on a busy machine to answer
PARAMETERS: dict[str, str | int] = {
    "RequestTimeoutSeconds": TIMEOUT_S,
    "RetryBaseSeconds": 1,
    "RetryCapSeconds": 4,
    "UnknownCallGraceSeconds": 20,
}
NO_ANSWER = "no answer"
LIMIT_S = 900


@dataclass
class Run:
    """A deployed relay, its endpoint, and the results of a demo.

    Attributes:
        count: how many results to send.
        failing: the result whose first three attempts fail, each in another way.
        known_later: the endpoint knows its call only after the first attempt.
        sent_at: when the first result was sent, in seconds since the epoch.
        rotated_at: when the endpoint's key was rotated, in seconds since the epoch.
    """

    deployment: Deployment
    endpoint: StandIn
    count: int
    sent_at: float = field(default=0, init=False)
    rotated_at: float = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Make the results up, half for the queue and half for the bus."""
        result, silence = partial(made_up, random.SystemRandom()), replace(hang(), name=NO_ANSWER)
        page = replace(answer(200, "<html><body>We'll be back soon</body></html>"), name="200, a web page")
        self.failing = result(behaviours=(error(500), silence, page))
        self.known_later = result(behaviours=(error(404),))
        unknown = [result("unknown_call") for _ in range(3)]
        # A third of them is sent at a time. The first and the fourth, which must come first, are in the first third.
        to_queue = [self.failing, unknown[0], result("rejected", always=error(400)), self.known_later, *INVALID_BODIES]
        to_bus = [result(behaviours=(way,)) for way in (silence, end(Act.RESET))] + [*unknown[1:], *INVALID_DETAILS]
        to_queue += [result() for _ in range(self.count - self.count // 2 - len(to_queue))]
        to_bus += [result() for _ in range(self.count // 2 - len(to_bus))]
        self._queue, self._bus = to_queue, to_bus
        self.items = [*to_queue, *to_bus]

    def send_all(self) -> None:
        """Send all results while the endpoint misbehaves, and wait until each is settled."""
        prepare(self.endpoint, self.items)
        self.deployment.limit_environments(1)  # each would spare the endpoint by itself
        self.sent_at = time.time()
        self._send(0)
        # The 404 must come before the outage: after it, the grace for unknown calls would be over.
        self._watch(
            lambda: self.endpoint.accepted and any(r.uuid == self.known_later.uuid for r in self.endpoint.requests)
        )
        self.deployment.emulator.say("an outage: the endpoint answers 500 to everything")
        self.endpoint.override(error(500))
        self._send(1)
        self._watch(lambda: self._spared_until() > 0)
        self.deployment.emulator.say(f"the relay has noticed, and spares the endpoint for {BLOCK_S:.0f} s")
        self.endpoint.override(error(500), seconds=0)
        self.deployment.emulator.say("the outage is over, which the relay cannot know")
        accepted = len(self.endpoint.accepted)
        self._watch(lambda: len(self.endpoint.accepted) > accepted)
        self.deployment.emulator.say("the relay sends again; now the endpoint takes only a new key")
        self.rotated_at = time.time()
        self.deployment.fill_secret(*self.endpoint.rotate())
        self._send(2)
        self._watch(lambda: self._settled() >= len(self.items) and not self.deployment.depth("ResultQueueUrl"))

    def _send(self, third: int) -> None:
        to_queue, to_bus = self._queue[third::3], self._bus[third::3]
        self.deployment.emulator.say(f"sending {len(to_queue)} results to the queue and {len(to_bus)} to the bus")
        self.deployment.send([item.text for item in to_queue])
        self.deployment.put_events([item.text for item in to_bus])

    def _settled(self) -> int:
        return len(set(self.endpoint.accepted)) + self.deployment.depth("ParkedQueueUrl")

    def _watch(self, until: Callable[[], object]) -> None:
        """Wait for a condition; show the progress, in one line that moves if this is a terminal."""
        settled = -1

        def progress() -> str:
            nonlocal settled
            before, settled = settled, self._settled()
            why = "" if settled > before else self._why()
            return f"{settled} of {len(self.items)} settled{why}"

        console = Console()
        with console.status(progress(), spinner="line", refresh_per_second=4) as status:
            how = (status.update, progress, 1) if console.is_terminal else (self.deployment.emulator.say, progress, 10)
            watch(until, LIMIT_S, *how)

    def _why(self) -> str:
        """Return why no result moves."""
        now, spared_until = time.time(), self._spared_until()
        silent = max((r.at for r in self.endpoint.requests if r.answer == NO_ANSWER), default=0.0) + TIMEOUT_S
        if now < spared_until:
            return f"; the relay spares the endpoint for {spared_until - now:.0f} s more"
        if now < silent:
            return f"; an attempt gets no answer, for {silent - now:.0f} s more"
        return "; the others wait for their next try" if self.endpoint.requests else "; the function starts"

    def _spared_until(self) -> float:
        """Return until when the relay spares the failing endpoint, in seconds since the epoch; 0: it does not."""
        noticed = [line for line in self.deployment.log() if line.get("message") == "endpoint.failing"]
        return max((datetime.fromisoformat(line["timestamp"]).timestamp() + BLOCK_S for line in noticed), default=0)
