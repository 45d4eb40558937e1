"""One run of a scenario: send its results while the endpoint misbehaves, and wait until all are settled."""

import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from local.demo.scenario import DELIVERED, Item, Part, Scenario
from local.emulator.deployment import Deployment
from local.endpoint.behaviour import error
from local.endpoint.standin import StandIn
from local.processes import wait_until

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
    """A deployed relay, its endpoint and a scenario.

    Attributes:
        sent_at: when the first result was sent, in seconds since the epoch.
        rotated_at: when the endpoint's key was rotated, in seconds since the epoch.
    """

    deployment: Deployment
    endpoint: StandIn
    scenario: Scenario
    console: Console
    say: Callable[[str], None]
    sent_at: float = field(default=0, init=False)
    rotated_at: float = field(default=0, init=False)

    def send_all(self) -> None:
        """Send all results while the endpoint misbehaves, and wait until each is delivered or parked."""
        self._set_up_endpoint()
        first, during_outage, after_rotation = self.scenario.parts()
        with self._progress() as show:
            self.sent_at = time.time()
            self._send(*first)
            self._watch(lambda: self._known_later_was_tried() and self._delivered(first) > 0, LIMIT_S, show)
            self.say(f"an outage: the endpoint answers only 500 for {OUTAGE_S} s; the relay spares it for 30 s")
            self.endpoint.override(error(500), OUTAGE_S)
            self._send(*during_outage)
            self._watch(lambda: self._delivered(during_outage) > 0, LIMIT_S, show)
            self.say("the relay sends again; now the key is rotated, and the endpoint refuses the old one")
            api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
            self.rotated_at = time.time()
            self.endpoint.rotate(api_key, user_id)
            self.deployment.fill_secret(api_key, user_id)
            self._send(*after_rotation)
            self._watch(self._all_settled, LIMIT_S, show)

    def _set_up_endpoint(self) -> None:
        for item in self.scenario.items:
            if item.result and item.expected != "unknown_call" and item is not self.scenario.known_later:
                self.endpoint.issue(item.uuid)
                self.endpoint.misbehave(item.uuid, *item.behaviours)

    def _send(self, to_queue: Sequence[Item], to_bus: Sequence[Item]) -> None:
        self.say(f"sending {len(to_queue)} results to the queue and {len(to_bus)} to the bus")
        self.deployment.send([item.text for item in to_queue])
        self.deployment.put_events([item.text for item in to_bus])

    def _watch(self, until: Callable[[], bool], limit_s: float, show: Callable[[int, int], None]) -> None:
        """Wait for a condition and show the progress. Make the late call known after its first attempt."""

        def is_met() -> bool:
            if self._known_later_was_tried():
                self.endpoint.issue(self.scenario.known_later.uuid)
            show(len(set(self.endpoint.accepted)), self.deployment.depth("ParkedQueueUrl"))
            return until()

        wait_until(is_met, limit_s, every_s=0.25)

    def _delivered(self, part: Part) -> int:
        due = {item.result for item in itertools.chain(*part) if item.expected == DELIVERED}
        return len(due & set(self.endpoint.accepted))

    def _known_later_was_tried(self) -> bool:
        return any(request.uuid == self.scenario.known_later.uuid for request in self.endpoint.requests)

    def _all_settled(self) -> bool:
        settled = len(set(self.endpoint.accepted)) + self.deployment.depth("ParkedQueueUrl")
        return settled >= len(self.scenario.items) and not self.deployment.depth("ResultQueueUrl")

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[int, int], None]]:
        """Yield a function that shows the delivered and parked counts: as a bar, or as lines without a terminal."""
        total = len(self.scenario.items)
        words = "{} delivered, {} parked of {}"
        if not self.console.is_interactive:
            said_at = time.monotonic()

            def show_line(delivered: int, parked: int) -> None:
                nonlocal said_at
                if time.monotonic() - said_at >= 2:
                    self.say(words.format(delivered, parked, total))
                    said_at = time.monotonic()

            yield show_line
            return
        columns = BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=self.console, refresh_per_second=5) as progress:
            task = progress.add_task(words.format(0, 0, total), total=total)

            def show_bar(delivered: int, parked: int) -> None:
                text = words.format(delivered, parked, total)
                progress.update(task, completed=delivered + parked, description=text)

            yield show_bar
