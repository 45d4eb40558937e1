"""One soak: send the plan's results while the endpoint, AWS and the function fail, and record the facts."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from flash_call_relay import budget
from local.command import watch
from local.emulator.deployment import Deployment
from local.emulator.runtime import Runtime
from local.endpoint.behaviour import error
from local.endpoint.standin import StandIn
from local.processes import held_port, wait_until
from local.soak.facts import Facts, QueueMessage
from local.soak.faults import AWS_FAULTS, FUNCTION_FAULTS, Faults
from local.soak.plan import Item, Plan, failures, prepare
from local.soak.promises import check
from local.soak.report import SoakReport

TIMEOUT_S = math.ceil(budget.SETTLE_S) + 4  # the function keeps `SETTLE_S` of it for settling
VISIBILITY_S = TIMEOUT_S + 4
FINAL_GRACE_S = 5  # at the end, for the calls that the endpoint never knows
CONCURRENCY = 3  # the most invocations at a time
PARAMETERS: dict[str, str | int] = {
    "WebhookUrl": "http://127.0.0.1:1/",  # no endpoint, until a soak runs the function
    "RequestTimeoutSeconds": 2,
    "RetryBaseSeconds": 1,
    "FreshRetryCapSeconds": 4,
    "UnknownCallGraceSeconds": 3600,  # while faults come and go
    "EventRoute": "none",
    "OutcomeBusName": "default",
}
REFUSED_S, THROTTLES_S, ERRORS_S, NOTICED_S = 1.0, 2.0, 3.0, 120.0
MOST_QUEUED = 3000  # the emulator is slow with more
OUTAGE = tuple(
    f"endpoint: {what}"
    for what in ("the key rotated", "connections refused", "429 to every request", "500 to every request")
)
EVERY_FAULT: Sequence[str] = [
    *(f"{operation}: {fault}" for operation, faults in AWS_FAULTS.items() for fault in faults),
    *FUNCTION_FAULTS,
    *(f"endpoint: {failure.name}" for failure in failures("")),
    *(f"endpoint: {status}" for status in (400, 401, 409, 422)),
    *OUTAGE,
]


@dataclass
class Soak:
    """A deployed relay under a plan's faults, which runs while the context is entered.

    Attributes:
        deployment: the stack, deployed with `PARAMETERS`.
        package: the function's package, made by `sam build`.
        logs: a directory for the environments' logs.
        make_plan: takes the URL of a host that must not get the credentials, and returns the plan.
        fault_rate: the share of AWS calls and invocations with a fault, once each fault has occurred; None for no
            faults.
        limit_s: the limit for each part of the run, in seconds.
    """

    deployment: Deployment
    package: Path
    logs: Path
    make_plan: Callable[[str], Plan]
    fault_rate: float | None = 0.02
    limit_s: float = 900

    def __enter__(self) -> Self:
        """Start the endpoint, the AWS proxy and the function's environments."""
        self._sent: list[Item] = []
        self.deployment.purge_queues()  # of the messages of a soak before
        self.deployment.shorten_visibility(VISIBILITY_S)
        with contextlib.ExitStack() as ending:
            self.endpoint = StandIn(port=ending.enter_context(held_port()))  # held while it refuses connections
            self._secrets = [*self.endpoint.credentials]
            self._other_host = ending.enter_context(StandIn())
            self.plan = self.make_plan(self._other_host.url)
            prepare(self.endpoint, [*self.plan.first, *self.plan.late])
            self._faults = Faults(self.deployment.emulator, self.plan.seed, self.fault_rate, self._secrets)
            ending.enter_context(self.endpoint)
            self.deployment.fill_secret(*self.endpoint.credentials)
            ending.enter_context(self._faults)
            self.runtime = Runtime(
                *(self.deployment, self.package, self.logs),
                concurrency=CONCURRENCY,
                on_event=self._faults.on_event,
                AWS_LAMBDA_FUNCTION_TIMEOUT=str(TIMEOUT_S),
                AWS_ENDPOINT_URL=f"http://127.0.0.1:{self._faults.port}",
                WEBHOOK_URL=self.endpoint.url,
            )
            self._faults.identities = self.runtime.identities
            ending.enter_context(self.runtime)
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the environments, the proxy and the endpoint."""
        self._ending.close()

    def run(self, outages: int) -> SoakReport:
        """Send all results under the faults, wait until they are settled, and check the promises.

        Args:
            outages: how often the whole endpoint fails.
        """
        began, say = time.time(), self.deployment.emulator.say
        first, late = self.plan.first, self.plan.late
        say(f"sending {len(first)} messages")
        with ThreadPoolExecutor() as pool:
            sending = pool.submit(self.send, first)
            for number in range(outages):
                due = len(first) * (number + 0.3) / (outages + 1)
                self.watch(lambda: len(self.endpoint.accepted) >= due)  # noqa: B023 - it waits here
                self._fail()
            settled = self.watch(lambda: sending.done() and not self.queued())
            sending.result()
        say(f"a new deployment with an unknown-call grace of {FINAL_GRACE_S} s")
        self.runtime.restart(UNKNOWN_CALL_GRACE_SECONDS=str(FINAL_GRACE_S))
        say(f"sending {len(late)} copies and contradictions of confirmed results, and unknown calls")
        self.send(late)
        settled &= self.watch(lambda: not self.queued())
        seconds = time.time() - began
        say("checking the promises")
        facts = self.facts()
        answers = Counter(f"endpoint: {request.answer}" for request in facts.requests)
        counts = self._faults.counts + Counter(OUTAGE * outages) + answers
        return SoakReport(facts, check(facts), {fault: counts[fault] for fault in EVERY_FAULT}, settled, seconds)

    def send(self, items: Sequence[Item]) -> None:
        """Put messages on the queue."""
        for start in range(0, len(items), 100):
            wait_until(lambda: self.queued() < MOST_QUEUED, self.limit_s, every_s=0.2)
            part = items[start : start + 100]
            ids = self.deployment.send([item.text for item in part])
            self._sent += [replace(one, message_id=message_id) for message_id, one in zip(ids, part, strict=True)]

    def _fail(self) -> None:
        """Let the endpoint rotate its key, refuse connections, throttle, and answer 500 to all."""
        self.deployment.emulator.say("the endpoint rotates its key, refuses connections, throttles, and answers 500")
        began = len(self.endpoint.requests)
        self._secrets += self.endpoint.rotate()
        wait_until(lambda: any(one.answer == 401 for one in self.endpoint.requests[began:]), NOTICED_S)
        self.deployment.fill_secret(*self.endpoint.credentials)
        self.endpoint.__exit__(None, None, None)
        time.sleep(REFUSED_S)
        self.endpoint.__enter__()
        self.endpoint.override(error(429, retry_after=1))
        time.sleep(THROTTLES_S)
        self.endpoint.override(error(500), ERRORS_S)

    def queued(self) -> int:
        """Return the number of messages on the result queue."""
        return self.deployment.depth("ResultQueueUrl")

    def watch(self, until: Callable[[], bool]) -> bool:
        """Wait for a condition; return whether it holds within the limit."""

        def progress() -> str:
            return f"{len(self.endpoint.accepted)} accepted, {self.queued()} on the queue"

        return watch(until, self.limit_s, self.deployment.emulator.say, progress, every_s=5)

    def facts(self) -> Facts:
        """Return the recorded facts."""

        def held(output: str) -> list[QueueMessage]:
            return [QueueMessage.of(message) for message in self.deployment.peek(output)]

        return Facts(
            sent=self._sent,
            invocations=list(self.runtime.invocations),
            interrupted=frozenset(self._faults.interrupted),
            requests=self.endpoint.requests.copy(),
            accepted=self.endpoint.accepted.copy(),
            other_host_requests=self._other_host.requests.copy(),
            ledger_faults=frozenset(self._faults.ledger_faults),
            leaks=list(self._faults.leaks),
            parked=held("ParkedQueueUrl"),
            dead_lettered=held("DeadLetterQueueUrl"),
            queued=held("ResultQueueUrl"),
            log=self.runtime.log(),
            raw_log=self.runtime.raw_log(),
            credentials=frozenset(self._secrets),
        )
