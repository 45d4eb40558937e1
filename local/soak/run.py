"""One soak: send the plan's results while the endpoint, AWS and the function fail, and record the facts."""

import contextlib
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from flash_call_relay import budget
from local.command import watch
from local.emulator.deployment import Deployment
from local.emulator.runtime import Runtime
from local.endpoint.behaviour import error, named
from local.endpoint.standin import StandIn
from local.processes import wait_until
from local.soak.aws_faults import AWS_FAULTS, FaultyAws
from local.soak.facts import Facts, QueueMessage, SentMessage
from local.soak.function_faults import CRASHING, FaultyFunction, FunctionFault
from local.soak.plan import Item, Plan, failures, prepare
from local.soak.promises import Promise, check

HORIZON_S, GRACE_S = 7200, 3600  # while faults come and go
FINAL_HORIZON_S, FINAL_GRACE_S = 10, 5  # at the end, for the results that the endpoint never accepts
TIMEOUT_S = math.ceil(budget.SETTLE_S) + 4
VISIBILITY_S = TIMEOUT_S + 4
FINAL_VISIBILITY_S = 2
RECEIVES = 1000
FINAL_RECEIVES = 2
CONCURRENCY = 3  # the most invocations at a time
PARAMETERS: dict[str, str | int] = {
    "RequestTimeoutSeconds": 2,
    "RetryBaseSeconds": 1,
    "FreshRetryCapSeconds": 4,
    "RetryHorizonSeconds": HORIZON_S,
    "UnknownCallGraceSeconds": GRACE_S,
    "OutcomeBusName": "default",
}
WAIT_S, REFUSED_S, ERRORS_S, HIT_LIMIT_S = 2, 1.0, 3.0, 120.0
PER_SECOND = 2  # so few that each environment meets the limit
MOST_QUEUED = 3000  # the emulator is slow with more
LIMITED, OVERLOADED = "endpoint: over the rate limit", "503 with Retry-After"
OUTAGE = ("endpoint: connections refused", "endpoint: 500 to every request", "endpoint: the key rotated")
EVERY_FAULT: Sequence[str] = [
    *(f"{operation}: {fault}" for operation, faults in AWS_FAULTS.items() for fault in faults),
    *FunctionFault,
    *(f"endpoint: {failure.status or failure.name}" for failure in failures("")),
    *(f"endpoint: {status}" for status in (400, 401, 409, 422)),
    *(LIMITED, f"endpoint: {OVERLOADED}"),
    *OUTAGE,
    CRASHING,
]


@dataclass
class SoakReport:
    """What a soak found.

    Attributes:
        facts: everything that was recorded.
        promises: each promise, checked against the facts.
        fault_counts: how often each fault occurred.
        settled: whether all results were settled within the limit.
        seconds: the time from the first message to the last settlement.
    """

    facts: Facts
    promises: Sequence[Promise]
    fault_counts: Counter[str]
    settled: bool
    seconds: float

    @property
    def missing_faults(self) -> list[str]:
        """The faults that never occurred."""
        return [fault for fault in EVERY_FAULT if not self.fault_counts[fault]]

    @property
    def passed(self) -> bool:
        """Whether every promise was kept, every fault occurred, and every result was settled."""
        return self.settled and not self.broken and not self.missing_faults

    @property
    def broken(self) -> list[Promise]:
        """The promises that were not kept."""
        return [promise for promise in self.promises if promise.broken]


@dataclass
class Soak:
    """A deployed relay under a plan's faults, which runs while the context is entered.

    Attributes:
        deployment: the stack, deployed with a `WebhookUrl` on `port`.
        port: the endpoint's loopback port.
        package: the function's package, made by `sam build`.
        state: a directory for the environments' logs.
        plan: the results to send.
        other_host: a host that must not get the credentials.
        say: takes a line for each step, for the person who waits.
        fault_rate: the share of AWS calls and invocations with a fault, once each fault has occurred; None for no
            faults.
        horizon_s: the retry horizon while faults come and go, in seconds.
        timeout_s: the function's time-out in seconds; the function keeps `budget.SETTLE_S` of them for settling.
        limit_s: the limit for each part of the run, in seconds.
    """

    deployment: Deployment
    port: int
    package: Path
    state: Path
    plan: Plan
    other_host: StandIn
    say: Callable[[str], None] = lambda _line: None
    fault_rate: float | None = 0.02
    horizon_s: int = HORIZON_S
    timeout_s: int = TIMEOUT_S
    limit_s: float = 900

    def __enter__(self) -> Self:
        """Start the endpoint, the AWS proxy and the function's environments."""
        self._sent: list[SentMessage] = []
        self._secrets: set[str] = set()
        self._other_host_requests_before = len(self.other_host.requests)
        self._bounds = [(0.0, float(self.horizon_s), float(GRACE_S))]
        self.deployment.purge_queues()  # of the messages of a soak before
        self.deployment.shorten_visibility(VISIBILITY_S)
        api_key, user_id = self._new_credentials()
        self._function = FaultyFunction(self.plan.seed, self.fault_rate)
        self._aws = FaultyAws(
            self.deployment.emulator, self.plan.seed, self.fault_rate, self._function.on_call, self._secrets
        )
        self.endpoint = StandIn(api_key=api_key, user_id=user_id, port=self.port)
        with contextlib.ExitStack() as ending:
            self.endpoint.__enter__()
            ending.callback(lambda: self.endpoint.__exit__(None, None, None))
            self.deployment.fill_secret(api_key, user_id)
            ending.enter_context(self.deployment.receives_limited(RECEIVES))
            ending.enter_context(self._aws)
            self.runtime = Runtime(
                *(self.deployment, self.package, self.state),
                concurrency=CONCURRENCY,
                timeout_s=self.timeout_s,
                aws_url=self._aws.url,
                on_event=self._function.on_event,
            )
            self._aws.identities = self.runtime.identities
            ending.enter_context(self.runtime)
            self.runtime.restart(RETRY_HORIZON_SECONDS=str(self.horizon_s))
            prepare(self.endpoint, self.plan.items)
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
        began = time.time()
        settled = self._send_all(outages) and self._settle_the_rest()
        seconds = time.time() - began
        self.say("checking the promises")
        facts = self.facts()
        answers = Counter(f"endpoint: {request.answer}" for request in facts.requests if request.answer != 200)
        answers[LIMITED] = self.endpoint.limited
        answers["endpoint: 429"] -= self.endpoint.limited
        fault_counts = self._aws.fault_counts + self._function.fault_counts + Counter(OUTAGE * outages) + answers
        return SoakReport(facts, check(facts), fault_counts, settled, seconds)

    def _new_credentials(self) -> tuple[str, str]:
        api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        self._secrets |= {api_key, user_id}
        return api_key, user_id

    def _send_all(self, outages: int) -> bool:
        plan = self.plan
        total = len(plan.to_queue) + len(plan.to_bus)
        self.say(f"sending {len(plan.to_queue)} messages and {len(plan.to_bus)} events")
        put, pool = partial(self.deployment.put_events, source=plan.source), ThreadPoolExecutor()
        sending = [pool.submit(self.send, plan.to_queue), pool.submit(self.send, plan.to_bus, put)]
        deadline = time.monotonic() + self.limit_s
        for number in range(outages):
            due = total * (number + 0.3) / (outages + 1)
            self.watch(lambda: len(self.endpoint.accepted) >= due, deadline)  # noqa: B023 - it waits here
            self._endpoint_outage()
        sent = self.watch(lambda: all(one.done() and not one.result() for one in sending), deadline)
        settled = self.watch(self.is_settled, deadline) and sent
        self.say(f"sending {len(plan.late)} copies and contradictions of confirmed results")
        self.send(plan.late)
        return self.watch(self.is_settled, deadline) and settled

    def is_settled(self) -> bool:
        """Return whether the queue holds only the results that the endpoint never accepts."""
        return self._queue_holds(sum(item.end in ("unknown_call", "retries_exhausted") for item in self.plan.items))

    def _queue_holds(self, count: int) -> bool:
        return self.deployment.depth("ResultQueueUrl") <= count

    def send(self, items: Sequence[Item], put: Callable[[list[str]], list[str]] | None = None) -> None:
        """Put results on the queue, or where `put` puts them."""
        for start in range(0, len(items), 100):
            wait_until(lambda: self.deployment.depth("ResultQueueUrl") < MOST_QUEUED, self.limit_s, every_s=0.2)
            part = items[start : start + 100]
            keys = (put or self.deployment.send)([item.text for item in part])
            self._sent += [SentMessage(key, one.text, one.pair, one.ends) for key, one in zip(keys, part, strict=True)]

    def _endpoint_outage(self) -> None:
        """Let the endpoint rotate its key, throttle, be overloaded, refuse connections, and answer 500 to all."""
        self.say("the endpoint rotates its key, limits its rate, asks to wait, refuses connections, and answers 500")
        with self.rotation():
            pass
        self.endpoint.limit(PER_SECOND, WAIT_S)
        wait_until(lambda: self.endpoint.limited, HIT_LIMIT_S)
        time.sleep(WAIT_S)
        self.endpoint.limit(None)
        began = len(self.endpoint.requests)
        self.endpoint.override(named(error(503, retry_after=WAIT_S), OVERLOADED))
        wait_until(lambda: any(r.answer == OVERLOADED for r in self.endpoint.requests[began:]), HIT_LIMIT_S)
        time.sleep(WAIT_S)
        self.endpoint.__exit__(None, None, None)
        time.sleep(REFUSED_S)
        self.endpoint.__enter__()
        self.endpoint.override(error(500), ERRORS_S)

    @contextlib.contextmanager
    def rotation(self) -> Iterator[None]:
        """Rotate the endpoint's key; after the `with` block and a refusal, put the new key into the secret."""
        api_key, user_id = self._new_credentials()
        began = len(self.endpoint.requests)
        self.endpoint.rotate(api_key, user_id)
        yield
        wait_until(lambda: any(r.answer == 401 for r in self.endpoint.requests[began:]), HIT_LIMIT_S)
        self.deployment.fill_secret(api_key, user_id)

    def _settle_the_rest(self) -> bool:
        """Let the relay give up on the results that the endpoint never accepts; send those that kill the function."""
        failing = sum(item.end == "retries_exhausted" for item in self.plan.items)
        settled = True
        # The grace ends first, because at the horizon the relay parks an unknown call as `retries_exhausted` if it is
        # sparing the endpoint.
        for horizon_s, left in ((HORIZON_S, failing), (FINAL_HORIZON_S, 0)):
            self.say(f"a new deployment: a retry horizon of {horizon_s} s, an unknown-call grace of {FINAL_GRACE_S} s")
            self._bounds.append((time.time(), horizon_s, FINAL_GRACE_S))
            self.runtime.restart(RETRY_HORIZON_SECONDS=str(horizon_s), UNKNOWN_CALL_GRACE_SECONDS=str(FINAL_GRACE_S))
            settled &= self.watch(partial(self._queue_holds, left), time.monotonic() + self.limit_s)
        self.say("sending results that kill the function each time")
        with self.deployment.receives_limited(FINAL_RECEIVES):
            self.deployment.shorten_visibility(FINAL_VISIBILITY_S)
            self._function.crashing_uuids = {item.uuid.encode() for item in self.plan.crashing}
            self.send(self.plan.crashing)
            return self.watch(partial(self._queue_holds, 0), time.monotonic() + self.limit_s) and settled

    def watch(self, until: Callable[[], bool], deadline: float) -> bool:
        """Wait for a condition until a deadline of `time.monotonic`; return whether it holds."""

        def progress() -> str:
            return f"{len(self.endpoint.accepted)} accepted, {self.deployment.depth('ResultQueueUrl')} on the queue"

        return watch(until, max(0.0, deadline - time.monotonic()), self.say, progress, every_s=5)

    def facts(self) -> Facts:
        """Return the recorded facts."""

        def held(output: str) -> list[QueueMessage]:
            return [QueueMessage.of(message) for message in self.deployment.peek(output)]

        return Facts(
            sent=self._sent,
            invocations=list(self.runtime.invocations),
            interrupted=frozenset(self._function.interrupted),
            repeats=frozenset(self._function.repeats),
            requests=self.endpoint.requests,
            accepted=self.endpoint.accepted,
            other_host_requests=self.other_host.requests[self._other_host_requests_before :],
            calls=list(self._aws.calls),
            parked=held("ParkedQueueUrl"),
            dead_lettered=held("DeadLetterQueueUrl"),
            queued=held("ResultQueueUrl"),
            log=self.runtime.log(),
            raw_log=self.runtime.raw_log(),
            credentials=frozenset(self._secrets),
            host=f"127.0.0.1:{self.port}",
            bounds=self._bounds,
            visibility_s=VISIBILITY_S,
        )
