"""`make soak`: results through the deployed relay under every fault at once, and what the conservation check says.

The function runs in AWS's own runtime. What is sent and which faults come when follows from the seed; who meets whom
does not, since the relay works in parallel.
"""

import argparse
import contextlib
import json
import math
import pickle
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from flash_call_relay import budget
from local.emulator.runtime import Runtime
from local.emulator.stack import Deployment, LocalStack, free_port, run_command, running, stopwatch, wait_until
from local.endpoint.behaviour import error
from local.endpoint.standin import StandIn
from local.soak import promises
from local.soak.faults import EVERY_FAULT, FaultyAws, Strikes
from local.soak.plan import Item, Plan, troubles
from local.soak.promises import Facts, Held, Report, Sent

LEAST_RESULTS = 300
HORIZON_S, GRACE_S = 7200, 3600  # while faults come and go
FINAL_HORIZON_S, FINAL_GRACE_S = 10, 5  # at the end, for what is never delivered
TIMEOUT_S = math.ceil(budget.SETTLE_S) + 4
VISIBILITY_S = TIMEOUT_S + 4
FINAL_VISIBILITY_S = 2
FINAL_RECEIVES = 2
PARAMETERS: dict[str, str | int] = {
    "RequestTimeoutSeconds": 2,
    "RetryBaseSeconds": 1,
    "FreshRetryCapSeconds": 4,
    "RetryHorizonSeconds": HORIZON_S,
    "UnknownCallGraceSeconds": GRACE_S,
    "MaxReceiveCount": 1000,
}
REFUSED_S, OUTAGE_S, ROTATION_LIMIT_S = 1.0, 3.0, 10.0
RESULTS_PER_STORM = 10_000
MOST_QUEUED = 3000
MOST_SHOWN = 10


@dataclass
class Outcome:
    """What came of a soak.

    Attributes:
        facts: what the conservation check looks at.
        report: what it found.
        hits: how often each fault was met.
        drained: whether everything was settled within the limit.
        seconds: how long it took from the first message to the last.
    """

    facts: Facts
    report: Report
    hits: Counter[str]
    drained: bool
    seconds: float

    @property
    def missed(self) -> list[str]:
        """The faults that were never met."""
        return [fault for fault in (*EVERY_FAULT, *ENDPOINT_FAULTS) if not self.hits[fault]]

    @property
    def good(self) -> bool:
        """Whether every promise was kept, under every fault."""
        return self.drained and not self.broken and not self.missed

    @property
    def broken(self) -> list[promises.Line]:
        """The promises that were not kept."""
        return [line for line in self.report if line.broken]


ENDPOINT_FAULTS: Sequence[str] = [
    *(f"endpoint: {trouble.status or trouble.name}" for trouble in troubles("")),
    *("endpoint: 400", "endpoint: 401", "endpoint: 404", "endpoint: 409", "endpoint: 422"),
    *("endpoint: connections refused", "endpoint: an outage", "endpoint: the key rotated", "poison"),
]


@dataclass
class Soak:
    """A deployed relay under a plan's faults, running while the context is entered.

    Attributes:
        deployment: the stack, deployed with a `WebhookUrl` on `port`.
        port: the endpoint's, on loopback.
        package: what `sam build` made of the function.
        state: a directory of this soak's own.
        plan: what is sent.
        trap: where nobody must go.
        say: takes a line for every step, for whoever waits.
        concurrency: invocations side by side.
        fault_rate: how many of the AWS calls and of the invocations meet a fault, once each was met; None: none ever.
        horizon_s: the retry horizon while faults come and go, in seconds.
        timeout_s: the function's time-out, in seconds; it keeps `budget.SETTLE_S` of them for settling.
        limit_s: how long each part of the run may take, in seconds.
    """

    deployment: Deployment
    port: int
    package: Path
    state: Path
    plan: Plan
    trap: StandIn
    say: Callable[[str], None] = lambda _line: None
    concurrency: int = 3
    fault_rate: float | None = 0.02
    horizon_s: int = HORIZON_S
    timeout_s: int = TIMEOUT_S
    limit_s: float = 240

    def __enter__(self) -> Self:
        """Start the endpoint, the proxy before AWS and the function's environments."""
        self._sent: list[Sent] = []
        self._secrets: set[str] = set()
        self._storms: Counter[str] = Counter()
        self._recoveries: list[float] = []
        self._seen, self._strays = 0, len(self.trap.requests)
        self._bounds = [(0.0, float(self.horizon_s), float(GRACE_S))]
        self.deployment.shorten_visibility(VISIBILITY_S)
        api_key, user_id = self._new_credentials()
        self._strikes = Strikes(self.plan.seed, self.fault_rate)
        self._aws = FaultyAws(self.deployment.stack, self.plan.seed, self.fault_rate, self._strikes, self._secrets)
        self.endpoint = StandIn(api_key=api_key, user_id=user_id, port=self.port)
        with contextlib.ExitStack() as ending:
            self.endpoint.__enter__()
            ending.callback(lambda: self.endpoint.__exit__(None, None, None))
            self.deployment.fill_secret(api_key, user_id)
            ending.enter_context(self._aws)
            self._runtime = Runtime(
                *(self.deployment, self.package, self.state),
                concurrency=self.concurrency,
                timeout_s=self.timeout_s,
                aws_url=self._aws.url,
                on_event=self._strikes.on_event,
            )
            self._aws.identities = self._runtime.identities
            ending.enter_context(self._runtime)
            self._runtime.restart(RETRY_HORIZON_SECONDS=str(self.horizon_s))
            self._stage()
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End all of it."""
        self._ending.close()

    def run(self, storms: int) -> Outcome:
        """Send everything while all sorts of things fail, wait until it is settled, and check.

        Args:
            storms: how often the whole endpoint fails: refuses connections, is out, has its key rotated.
        """
        began = time.time()
        drained = self._play(storms) and self._finale()
        seconds = time.time() - began
        self.say("adding up")
        facts = self.facts()
        met = [*self._aws.hits.items(), *self._strikes.hits.items(), *self._storms.items()]
        hits = Counter({str(name): count for name, count in met})
        hits += Counter(f"endpoint: {request.answer}" for request in facts.requests if request.answer != 200)
        return Outcome(facts, promises.check(facts), hits, drained, seconds)

    def _new_credentials(self) -> tuple[str, str]:
        api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        self._secrets |= {api_key, user_id}
        return api_key, user_id

    def _stage(self) -> None:
        for item in self.plan.items:
            if item.pair and item.kind not in ("early", "unknown"):
                self.endpoint.issue(item.uuid)
            if item.behaviours:
                self.endpoint.misbehave(item.uuid, *item.behaviours)
            if item.always:
                self.endpoint.always(item.uuid, item.always)
        self._early = {item.uuid for item in self.plan.items if item.kind == "early"}

    # ---- the play ----

    def _play(self, storms: int) -> bool:
        plan = self.plan
        total = len(plan.to_queue) + len(plan.to_bus)
        sending = [
            threading.Thread(target=self.send, args=(plan.to_queue,), daemon=True),
            threading.Thread(target=self.put_events, args=(plan.to_bus,), daemon=True),
        ]
        self.say(f"sending {len(plan.to_queue)} messages and {len(plan.to_bus)} events")
        for thread in sending:
            thread.start()
        deadline = time.monotonic() + self.limit_s
        for number in range(storms):
            self.watch(partial(self._has_delivered, total * (number + 0.3) / (storms + 1)), deadline)
            self._storm()
        sent = self.watch(lambda: not any(thread.is_alive() for thread in sending), deadline)
        settled = self.watch(self.is_settled, deadline) and sent
        self.say(f"sending {len(plan.late)} copies and contradictions of what is confirmed")
        self.send(plan.late)
        return self.watch(self.is_settled, deadline) and settled

    def is_settled(self) -> bool:
        """Return whether nothing is on the queue but what the endpoint never takes."""
        return self._queue_holds(sum(item.kind in ("unknown", "doomed") for item in self.plan.items))

    def _queue_holds(self, count: int) -> bool:
        return self.deployment.depth("ResultQueueUrl") <= count

    def send(self, items: Sequence[Item]) -> None:
        """Put results on the queue."""
        for part in self._paced(items):
            ids = self.deployment.send([item.text for item in part])
            self._sent += [Sent(i, item.text, item.pair, item.fates) for i, item in zip(ids, part, strict=True)]

    def _paced(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """Yield items by the hundred, with few enough on the queue: the emulator is slow with a long one."""
        for start in range(0, len(items), 100):
            wait_until(lambda: self.deployment.depth("ResultQueueUrl") < MOST_QUEUED, self.limit_s, every_s=0.2)
            yield items[start : start + 100]

    def put_events(self, items: Sequence[Item]) -> None:
        """Put results on the bus."""
        for part in self._paced(items):
            ids = self.deployment.put_events([item.text for item in part], self.plan.source)
            self._sent += [Sent(i, item.text, item.pair, item.fates) for i, item in zip(ids, part, strict=True)]

    def _has_delivered(self, count: float) -> bool:
        return self.delivered() >= count

    def _storm(self) -> None:
        """The endpoint wants another key, then refuses connections, then fails altogether."""
        self.say("the endpoint wants another key, then refuses connections, then answers 500 to everything")
        with self.rotation():
            pass
        self.endpoint.__exit__(None, None, None)
        time.sleep(REFUSED_S)
        self.endpoint.__enter__()
        self._recoveries.append(time.time() + OUTAGE_S)
        self.endpoint.spell(error(500), OUTAGE_S)
        self._storms += Counter(["endpoint: connections refused", "endpoint: an outage", "endpoint: the key rotated"])

    @contextlib.contextmanager
    def rotation(self) -> Iterator[None]:
        """Have the endpoint want another key, which the secret holds once the old one was refused."""
        api_key, user_id = self._new_credentials()
        began = len(self.endpoint.requests)
        self.endpoint.rotate(api_key, user_id)
        yield
        wait_until(lambda: any(r.answer == 401 for r in self.endpoint.requests[began:]), ROTATION_LIMIT_S)
        self.deployment.fill_secret(api_key, user_id)

    def _finale(self) -> bool:
        """Let time run out for what is never delivered, and receives for what kills the function."""
        doomed = sum(item.kind == "doomed" for item in self.plan.items)
        drained = True
        # One after the other: an unknown call at its horizon would be parked for that while the endpoint is spared.
        for grace_s, horizon_s, left in ((FINAL_GRACE_S, HORIZON_S, doomed), (FINAL_GRACE_S, FINAL_HORIZON_S, 0)):
            self.say(f"a new deployment with a horizon of {horizon_s} s and a grace of {grace_s} s")
            self._bounds.append((time.time(), horizon_s, grace_s))
            self._runtime.restart(RETRY_HORIZON_SECONDS=str(horizon_s), UNKNOWN_CALL_GRACE_SECONDS=str(grace_s))
            drained &= self.watch(partial(self._queue_holds, left), time.monotonic() + self.limit_s)
        self.say("results that kill the function each time")
        with self.deployment.receives_limited(FINAL_RECEIVES):
            self.deployment.shorten_visibility(FINAL_VISIBILITY_S)
            self._strikes.poison = {item.uuid.encode() for item in self.plan.poison}
            self.send(self.plan.poison)
            return self.watch(partial(self._queue_holds, 0), time.monotonic() + self.limit_s) and drained

    def watch(self, until: Callable[[], bool], deadline: float) -> bool:
        """Wait for a condition until `deadline` (of the monotonic clock); return whether it holds.

        Meanwhile calls that were asked for too early come to exist.
        """
        said_at = time.monotonic()

        def look() -> bool:
            nonlocal said_at
            requests = self.endpoint.requests
            asked = {request.uuid for request in requests[self._seen :]} & self._early
            self._seen = len(requests)
            self.endpoint.issue(*(uuid for uuid in asked if uuid))
            if time.monotonic() - said_at >= 5:
                said_at = time.monotonic()
                self.say(f"{self.delivered()} accepted, {self.deployment.depth('ResultQueueUrl')} on the queue")
            return until()

        return wait_until(look, max(0.0, deadline - time.monotonic()), every_s=0.25)

    def delivered(self) -> int:
        """Return how many results the endpoint has accepted, copies too."""
        return len(self.endpoint.accepted)

    # ---- the facts ----

    def stop(self) -> None:
        """Have no more invocations begin, and wait for those under way."""
        self._runtime.stop()

    def facts(self) -> Facts:
        """Return all that was recorded."""
        return Facts(
            sent=self._sent,
            invocations=list(self._runtime.invocations),
            struck=frozenset(self._strikes.struck),
            copies=frozenset(self._strikes.copies),
            requests=self.endpoint.requests,
            accepted=self.endpoint.accepted,
            strays=self.trap.requests[self._strays :],
            calls=list(self._aws.calls),
            parked=[_held(message) for message in self.deployment.peek("ParkedQueueUrl")],
            dead=[_held(message) for message in self.deployment.peek("DeadLetterQueueUrl")],
            queued=[_held(message) for message in self.deployment.peek("ResultQueueUrl")],
            log=self._runtime.log(),
            raw_log=self._runtime.raw_log(),
            credentials=frozenset(self._secrets),
            host=f"127.0.0.1:{self.port}",
            bounds=self._bounds,
            visibility_s=VISIBILITY_S,
            recoveries=self._recoveries,
            cap_s=float(PARAMETERS["FreshRetryCapSeconds"]),
        )


def _held(message: Mapping[str, Any]) -> Held:
    attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    if "source_message_id" not in attributes:
        return Held(message["MessageId"], message["Body"], attributes=json.dumps(attributes))
    enqueued_at = datetime.fromisoformat(attributes["enqueued_at"]).timestamp()
    return Held(
        message_id=attributes["source_message_id"],
        body=message["Body"],
        reason=attributes["reason"],
        http_status=attributes.get("http_status", ""),
        parked_at=message["SentTimestamp"],
        age_s=message["SentTimestamp"] - enqueued_at,
        attributes=json.dumps(attributes),
    )


# ---- the command ----


def show(outcome: Outcome, console: Console) -> None:
    """Print the report: what became of everything, how often each fault was met, and a line per promise."""
    for table in (_fates(outcome), _faults(outcome), _promises(outcome)):
        console.print(table)
    complaints = [
        *(f"{line.number}. {line.promise}: {text}" for line in outcome.broken for text in line.broken[:MOST_SHOWN]),
        *(f"never met: {fault}" for fault in outcome.missed),
        *(["not everything was settled within the limit"] if not outcome.drained else []),
    ]
    for complaint in complaints:
        console.print(complaint, style="red", soft_wrap=True)
    words = "Every promise held." if outcome.good else "NOT every promise held, or not every fault was met."
    console.print(words, style="bold green" if outcome.good else "bold red")


def _fates(outcome: Outcome) -> Table:
    facts = outcome.facts
    reasons = Counter(reason for reason, _ in {(held.reason, held.message_id) for held in facts.parked})
    table = Table(show_header=False, title="What became of everything", title_justify="left")
    rows = {
        "sent": len(facts.sent),
        "accepted by the endpoint, each pair once": len(set(facts.accepted)),
        "accepted again": len(facts.accepted) - len(set(facts.accepted)),
        **{f"parked: {reason}": count for reason, count in sorted(reasons.items())},
        "dead-lettered": len(facts.dead),
        "still queued": len(facts.queued),
        "POSTs": len(facts.requests),
        "invocations": len(facts.invocations),
        "AWS calls": len(facts.calls),
        "seconds": round(outcome.seconds),
    }
    for name, count in rows.items():
        table.add_row(name, str(count))
    return table


def _faults(outcome: Outcome) -> Table:
    table = Table("fault", title="The faults, and how often they were met", title_justify="left")
    table.add_column("met", justify="right")
    for name in (*EVERY_FAULT, *ENDPOINT_FAULTS):
        table.add_row(name, str(outcome.hits[name]), style="" if outcome.hits[name] else "red")
    return table


def _promises(outcome: Outcome) -> Table:
    table = Table(title="The promises", title_justify="left")
    for name in ("", "promise", "checked", "excused", "broken"):
        table.add_column(name, justify="left" if name == "promise" else "right")
    for line in outcome.report:
        counts = line.checked, line.excused, len(line.broken)
        table.add_row(str(line.number), line.promise, *map(str, counts), style="red" if line.broken else "")
    return table


def soak(options: argparse.Namespace) -> int:
    """Set everything up, run, show; return the exit code."""
    console = Console(highlight=False, markup=False)
    say = stopwatch(partial(console.print, soft_wrap=True))
    say(f"seed {options.seed}: --results {options.results} --seed {options.seed} repeats the plan of this run")
    with contextlib.ExitStack() as ending:
        state = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="flash-call-relay-soak-")))
        trap = ending.enter_context(StandIn(api_key="none", user_id="none"))
        port = free_port()
        stack = ending.enter_context(running(LocalStack(state, free_port(), say)))
        built = stack.build()
        webhook = trap.url.replace(trap.url.split("/")[2], f"127.0.0.1:{port}")
        deployment = stack.deploy("flash-call-relay-soak", built, {"WebhookUrl": webhook, **PARAMETERS})
        plan = Plan.of(options.results, options.seed, trap.url)
        package, logs = built.parent / "RelayFunction", state / "environments"
        with Soak(deployment, port, package, logs, plan, trap, say, options.concurrency) as run:
            storms = max(1, options.results // RESULTS_PER_STORM)
            run.limit_s += options.results / 20
            outcome = run.run(storms)
        show(outcome, console)
        if options.keep:
            _keep(outcome, options.keep)
    return 0 if outcome.good else 1


def _keep(outcome: Outcome, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "runtime.log").write_text("\n".join(outcome.facts.raw_log))
    # For `promises.check`, once more and at leisure. The credentials in it were made up.
    (directory / "facts.pickle").write_bytes(pickle.dumps(outcome.facts))


def main() -> int:
    """Parse the options and run the soak."""
    parser = argparse.ArgumentParser(prog="python -m local.soak", description="The relay under every fault at once.")
    parser.add_argument("--results", type=int, default=10_000, help="how many to send, about (default %(default)s)")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="repeats a plan (default: a new one)")
    parser.add_argument("--concurrency", type=int, default=4, help="invocations side by side (default %(default)s)")
    parser.add_argument("--keep", type=Path, help="a directory for the function's log and all facts")
    options = parser.parse_args()
    if options.results < LEAST_RESULTS:
        parser.error(f"--results must be at least {LEAST_RESULTS}: so many it takes for all kinds of trouble")
    return run_command(lambda: soak(options))


if __name__ == "__main__":
    sys.exit(main())
