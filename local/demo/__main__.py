"""`make demo`: results through the deployed relay to an endpoint that misbehaves, and the sum of what became of them.

What was delivered is counted by the endpoint and what was parked by the queue, so the sum does not rest on the relay's
own word.
"""

import argparse
import contextlib
import itertools
import json
import secrets
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from local.emulator.stack import (
    Deployment,
    LocalStack,
    add_ports,
    require_ports,
    run_command,
    running,
    stopwatch,
    wait_until,
)
from local.endpoint.behaviour import answer, error, hang, reset
from local.endpoint.standin import Request, StandIn

# Short enough to watch. The endpoint can answer in time even while the machine is busy.
PARAMETERS: dict[str, str | int] = {
    "RequestTimeoutSeconds": 3,
    "RetryBaseSeconds": 1,
    "RetryCapSeconds": 4,
    "UnknownCallGraceSeconds": 20,
}
OUTAGE_S = 3
PART_LIMIT_S = 120  # the gate's pause of 30 s included
LIMIT_S = 240
LEAST_RESULTS = 40
MOST_FAULTS = 20

DELIVERED = "delivered"
ULID_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def main() -> int:
    """Parse the options and run the demo."""
    parser = argparse.ArgumentParser(prog="python -m local.demo", description="The relay end to end on this machine.")
    parser.add_argument("--results", type=int, default=400, help="how many to send (default %(default)s)")
    add_ports(parser)
    options = parser.parse_args()
    if options.results < LEAST_RESULTS:
        parser.error(f"--results must be at least {LEAST_RESULTS}: so many it takes for all kinds of trouble")
    return run_command(lambda: demonstrate(options))


def demonstrate(options: argparse.Namespace) -> int:
    """Set everything up, run the scenario, show what came of it; return the exit code."""
    console = Console(highlight=False, markup=False)
    with staged(options, console) as run:
        run.play()
        run.say("adding up")
        faults = run.show()
        run.say("ending the emulator and the endpoint")
    return verdict(faults, console)


@contextlib.contextmanager
def staged(options: argparse.Namespace, console: Console) -> "Iterator[Run]":
    """Deploy the relay for a run of as many results as the options say, and the endpoint it reports to."""
    require_ports(options)
    say = stopwatch(partial(console.print, soft_wrap=True))
    api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
    with contextlib.ExitStack() as ending:
        state = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="flash-call-relay-")))
        endpoint = ending.enter_context(StandIn(api_key=api_key, user_id=user_id, port=options.endpoint_port))
        say(f"the stand-in endpoint listens at {endpoint.url}")
        stack = ending.enter_context(running(LocalStack(state, options.emulator_port, say)))
        deployment = stack.deploy("flash-call-relay-demo", stack.build(), {"WebhookUrl": endpoint.url, **PARAMETERS})
        say("filling the secret with made-up credentials")
        deployment.fill_secret(api_key, user_id)
        yield Run(deployment, endpoint, Scenario.of(options.results), console, say)


def verdict(faults: Sequence[str], console: Console) -> int:
    """Show what is wrong, if anything; return the exit code."""
    for fault in faults[:MOST_FAULTS]:
        console.print(fault, style="red", soft_wrap=True)
    if len(faults) > MOST_FAULTS:
        console.print(f"... and {len(faults) - MOST_FAULTS} more", style="red")
    if not faults:
        console.print("Nothing is missing: every result sent is accounted for.", style="bold green")
    return 1 if faults else 0


# ---- what is sent ----


@dataclass(frozen=True)
class Item:
    """What is sent, and what must become of it.

    Attributes:
        text: the message's body, or the event's detail; no two are the same.
        result: uuid and status; None if it is no result.
        fate: `delivered`, or the reason for which it must be parked.
    """

    text: str
    result: tuple[str, str] | None
    fate: str

    @property
    def uuid(self) -> str:
        """The result's uuid."""
        return self.result[0] if self.result else ""


Part = tuple[Sequence[Item], Sequence[Item]]  # for the queue, for the bus


@dataclass(frozen=True)
class Scenario:
    """All that is sent, what has a story of its own first."""

    to_queue: Sequence[Item]
    to_bus: Sequence[Item]
    hard: Item
    late: Item
    hung: Item
    torn: Item
    refused: Item

    @classmethod
    def of(cls, count: int) -> "Scenario":
        """Make a scenario of so many results, half for the queue and half for the bus."""
        statuses = itertools.cycle(("Success", "Failed"))

        def result(fate: str = DELIVERED) -> Item:
            uuid, status = made_up_uuid(), next(statuses)
            return Item(json.dumps({"uuid": uuid, "status": status}), (uuid, status), fate)

        hard, late, hung, torn, refused = result(), result(), result(), result(), result("rejected")
        to_queue = [hard, late, refused, result("unknown_call"), *map(invalid, INVALID_BODIES)]
        # Apart from the hard one: what shares a batch with a hung one is hidden when that is given up.
        to_bus = [hung, torn, result("unknown_call"), result("unknown_call"), *map(invalid, INVALID_DETAILS)]
        to_queue += [result() for _ in range(count - count // 2 - len(to_queue))]
        to_bus += [result() for _ in range(count // 2 - len(to_bus))]
        return cls(to_queue, to_bus, hard, late, hung, torn, refused)

    @property
    def items(self) -> list[Item]:
        """All that is sent."""
        return [*self.to_queue, *self.to_bus]

    def parts(self) -> tuple[Part, Part, Part]:
        """Return what is sent at first, during the outage, and after the rotation."""
        queue, bus = len(self.to_queue) // 3, len(self.to_bus) // 3
        return (
            (self.to_queue[:queue], self.to_bus[:bus]),
            (self.to_queue[queue : 2 * queue], self.to_bus[bus : 2 * bus]),
            (self.to_queue[2 * queue :], self.to_bus[2 * bus :]),
        )


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


def invalid(text: str) -> Item:
    """Return an item that is no result."""
    return Item(text, None, "invalid_event")


def made_up_uuid() -> str:
    """Return what looks like the ids of the calls."""
    return "01" + "".join(secrets.choice(ULID_ALPHABET) for _ in range(24))


# ---- how it goes ----


@dataclass
class Run:
    """One run of a scenario."""

    deployment: Deployment
    endpoint: StandIn
    scenario: Scenario
    console: Console
    say: Callable[[str], None]
    sent_at: float = field(default=0, init=False)

    def play(self) -> None:
        """Send everything while the endpoint misbehaves, and wait until nothing is under way any more."""
        self._set_the_stage()
        calm, outage, rotation = self.scenario.parts()
        with self._progress() as show:
            self.sent_at = time.time()
            self._send(*calm)
            self._watch(lambda: self._late_was_asked_for() and self._delivered(calm) > 0, PART_LIMIT_S, show)
            self.say(
                f"an outage: the endpoint answers 500 to everything for {OUTAGE_S} s; the relay will spare it for 30 s"
            )
            self.endpoint.spell(error(500), OUTAGE_S)
            self._send(*outage)
            self._watch(lambda: self._delivered(outage) > 0, PART_LIMIT_S, show)
            self.say("the endpoint is asked again; now the key is rotated, and the old one is refused")
            api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
            self.endpoint.rotate(api_key, user_id)
            self.deployment.fill_secret(api_key, user_id)
            self._send(*rotation)
            self._watch(self._is_over, LIMIT_S, show)

    def _set_the_stage(self) -> None:
        scenario, endpoint = self.scenario, self.endpoint
        known = [item for item in scenario.items if item.fate != "unknown_call" and item is not scenario.late]
        endpoint.issue(*(item.uuid for item in known if item.result))
        page = answer(200, "<html><body>We'll be back soon</body></html>")
        endpoint.misbehave(scenario.hard.uuid, error(500), hang(), replace(page, name="200, a web page", status=None))
        endpoint.misbehave(scenario.hung.uuid, hang())
        endpoint.misbehave(scenario.torn.uuid, reset())
        endpoint.misbehave(scenario.refused.uuid, error(400))

    def _send(self, to_queue: Sequence[Item], to_bus: Sequence[Item]) -> None:
        self.say(f"sending {len(to_queue)} results to the queue and {len(to_bus)} to the bus")
        self.deployment.send([item.text for item in to_queue])
        self.deployment.put_events([item.text for item in to_bus])

    def _watch(self, until: Callable[[], bool], limit_s: float, show: Callable[[int, int], None]) -> None:
        """Wait for a condition. Meanwhile the late call comes to exist, once the endpoint was asked for it in vain."""

        def look() -> bool:
            if self._late_was_asked_for():
                self.endpoint.issue(self.scenario.late.uuid)
            show(len(set(self.endpoint.accepted)), self.deployment.depth("ParkedQueueUrl"))
            return until()

        wait_until(look, limit_s, every_s=0.25)

    def _delivered(self, part: Part) -> int:
        due = {item.result for item in itertools.chain(*part) if item.fate == DELIVERED}
        return len(due & set(self.endpoint.accepted))

    def _late_was_asked_for(self) -> bool:
        return any(request.uuid == self.scenario.late.uuid for request in self.endpoint.requests)

    def _is_over(self) -> bool:
        settled = len(set(self.endpoint.accepted)) + self.deployment.depth("ParkedQueueUrl")
        return settled >= len(self.scenario.items) and not self.deployment.depth("ResultQueueUrl")

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[int, int], None]]:
        """Yield what shows how many are delivered and parked: a bar, or now and then a line if this is no terminal."""
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

    # ---- what came of it ----

    def show(self) -> list[str]:
        """Show what became of everything; return what is wrong."""
        log: list[dict[str, Any]] = []

        def hard_is_logged() -> bool:
            log[:] = self.deployment.log()
            return any(line.get("uuid") == self.scenario.hard.uuid and line["outcome"] == DELIVERED for line in log)

        wait_until(hard_is_logged, limit_s=5)
        self.console.print(self._story(attempts(self.scenario.hard.uuid, self.endpoint.requests, log)))
        self.console.print(self._noticed(log), soft_wrap=True)
        return self._sum_up({line["uuid"] for line in log if "uuid" in line and line["outcome"] == "deferred"})

    def _story(self, story: "list[Attempt]") -> Table:
        table = Table(title=f"The result that had a hard time: {self.scenario.hard.uuid}", title_justify="left")
        for name, justify in STORY_COLUMNS:
            table.add_column(name, justify=justify, no_wrap=True)
        for attempt, following in itertools.zip_longest(story, story[1:]):
            chosen = "" if attempt.retry_in_s is None else f"{attempt.retry_in_s} s"
            waited = f"{following.began - attempt.ended:.1f} s" if following else ""
            table.add_row(f"+{attempt.began - self.sent_at:.1f} s", attempt.answer, attempt.decision, chosen, waited)
        return table

    def _noticed(self, log: Sequence[dict[str, Any]]) -> str:
        events = Counter(str(line.get("message")) for line in log)
        answers = Counter(request.answer for request in self.endpoint.requests)
        late = [str(request.answer) for request in self.endpoint.requests if request.uuid == self.scenario.late.uuid]
        held = sum(line.get("reason") == "endpoint_failing" for line in log)
        environments = events["endpoint.failing"]
        return (
            f"The late call: the endpoint answered {', then '.join(late)}.\n"
            f"The outage: {environments} function environments noticed, and spared the endpoint {held} attempts.\n"
            f"The rotation: {answers[401]} attempts met a refusal of the old key and were repeated with the new.\n"
        )

    def _sum_up(self, deferred: set[str]) -> list[str]:
        accepted = Counter(self.endpoint.accepted)
        at_once = sum(count for (uuid, _), count in accepted.items() if uuid not in deferred)
        parked = Counter(map(parked_as, self.deployment.take_all("ParkedQueueUrl")))
        queued, dead = self.deployment.depth("ResultQueueUrl"), self.deployment.depth("DeadLetterQueueUrl")
        reasons = Counter[str]()
        for (_, reason), count in parked.items():
            reasons[reason] += count
        rows = {
            "delivered at once": at_once,
            "deferred, then delivered": accepted.total() - at_once,
            **{f"parked: {reason}": count for reason, count in sorted(reasons.items())},
            "still queued": queued,
            "dead-lettered": dead,
        }
        table = Table(show_header=False, title="What became of everything", title_justify="left", show_footer=True)
        table.add_column(footer="sum")
        table.add_column(footer=str(sum(rows.values())), justify="right")
        table.add_row("sent", str(len(self.scenario.items)), end_section=True)
        for name, count in rows.items():
            table.add_row(name, str(count))
        self.console.print(table)
        return find_faults(self.scenario.items, accepted, parked, queued=queued, dead=dead)


STORY_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("after", "right"),
    ("endpoint answered", "left"),
    ("relay decided", "left"),
    ("to wait", "right"),
    ("waited", "right"),
)


@dataclass(frozen=True)
class Attempt:
    """One receive of a result: when it began and ended (since the epoch), what was answered, what was decided."""

    began: float
    ended: float
    answer: str
    decision: str
    retry_in_s: int | None


def attempts(uuid: str, requests: Sequence[Request], log: Sequence[dict[str, Any]]) -> list[Attempt]:
    """Lay the endpoint's view of a result and the function's log side by side, by their times."""
    asked = deque(request for request in requests if request.uuid == uuid)
    story = []
    for line in (line for line in log if line.get("uuid") == uuid):
        ended = datetime.fromisoformat(line["timestamp"]).timestamp() + 0.001  # it is cut to milliseconds
        began, answered = ended, "(not asked)"
        while asked and asked[0].at <= ended:
            request = asked.popleft()
            began, answered = request.at, str(request.answer)
        decision = f"{line['outcome']}, {line['reason']}" if "reason" in line else str(line["outcome"])
        story.append(Attempt(began, ended, answered, decision, line.get("retry_in_s")))
    return story


def parked_as(message: dict[str, Any]) -> tuple[str, str]:
    """Return the text that was sent and the reason for which it was parked; an event lies in the bus's envelope."""
    body = message["Body"]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = json.dumps(json.loads(body)["detail"])
    return body, message["Reasons"].get("reason", "no reason")


def find_faults(
    items: Sequence[Item],
    accepted: Counter[tuple[str, str]],
    parked: Counter[tuple[str, str]],
    *,
    queued: int,
    dead: int,
) -> list[str]:
    """Return in words what is not as it must be: each item delivered once, or parked unchanged with its reason."""
    to_accept = Counter(item.result for item in items if item.fate == DELIVERED and item.result)
    to_park = Counter((item.text, item.fate) for item in items if item.fate != DELIVERED)
    found = [
        f"{' '.join(key)}: {what} {did[key]} times, expected {must[key]}"
        for must, did, what in ((to_accept, accepted, "accepted"), (to_park, parked, "parked"))
        for key in sorted(must.keys() | did.keys())
        if must[key] != did[key]
    ]
    if len(items) != accepted.total() + parked.total():
        found.append(f"{len(items)} sent, but {accepted.total()} delivered and {parked.total()} parked")
    if queued or dead:
        found.append(f"{queued} still on the queue, {dead} on the dead-letter queue")
    return found


if __name__ == "__main__":
    sys.exit(main())
