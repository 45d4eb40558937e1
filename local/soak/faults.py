"""The faults of the function and of its AWS calls, by a schedule.

The seed decides the fault of the n-th invocation, and of the n-th call of each operation. It does not decide which
results meet the fault, because the relay works in parallel.
"""

import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import urllib3

from local.emulator.emulator import Emulator
from local.emulator.runtime import Environment, Invocation, Runtime
from local.endpoint.behaviour import Act, Headers, Reply, Step, json_reply
from local.endpoint.server import Server

SLOW_S = 0.8  # longer than the time-out of the relay's DynamoDB client
ERROR, THROTTLED, SLOW, LOST = "500", "throttled", "slow", "reply lost"
AWS_FAULTS: Mapping[str, Sequence[str]] = {
    "GetSecretValue": (ERROR, THROTTLED),
    "BatchGetItem": (ERROR, THROTTLED, SLOW),
    "BatchExecuteStatement": (ERROR, THROTTLED, SLOW, LOST),
    "ChangeMessageVisibilityBatch": (ERROR, THROTTLED, LOST),
    "SendMessageBatch": (ERROR, THROTTLED, LOST),
    "PutEvents": (ERROR, THROTTLED, SLOW, LOST),
}
LEDGER = ("BatchGetItem", "BatchExecuteStatement")
ERRORS = {
    ERROR: json_reply(500, {"__type": "InternalServerError"}),
    THROTTLED: json_reply(400, {"__type": "ThrottlingException"}),
}
TIMED_OUT = "timed out"
KILLS = {  # the AWS call before which the function is killed, or frozen until its time-out
    "killed before the POSTs": "BatchGetItem",
    "killed between the POSTs and the ledger": "BatchExecuteStatement",
    "killed before hiding": "ChangeMessageVisibilityBatch",
    "killed before parking": "SendMessageBatch",
    TIMED_OUT: "BatchExecuteStatement",
}
TWICE, SIDE_BY_SIDE = "delivered twice, one after the other", "delivered twice, side by side"
FUNCTION_FAULTS = (*KILLS, TWICE, SIDE_BY_SIDE)


class Faults(Server):
    """Runs the invocations, and is a proxy for the function's AWS calls while the context is entered.

    It forwards the calls to the emulator. A fault that needs a certain AWS call
    waits for the next invocation that makes it.

    Args:
        emulator: where the calls go.
        seed: repeats the schedule.
        rate: as in `schedule`; None for no faults.
        credentials: the endpoint's; the proxy looks for them in each call.

    Attributes:
        identities: the environments, by the access key id that they use.
        counts: how often each fault occurred.
        interrupted: as in `Facts`, like the next two.
    """

    def __init__(self, emulator: Emulator, seed: str, rate: float | None, credentials: Sequence[str]) -> None:
        super().__init__(self._respond)
        self.identities: Mapping[str, Environment] = {}
        self.counts: Counter[str] = Counter()
        self.interrupted: set[tuple[int, int]] = set()
        self.ledger_faults: set[tuple[int, int]] = set()
        self.leaks: list[str] = []
        self._emulator, self._credentials = emulator, credentials
        by_operation = {name: schedule(f"{seed} {name}", kinds, rate or 0, 3) for name, kinds in AWS_FAULTS.items()}
        self._of_calls = {} if rate is None else by_operation
        self._of_invocations = iter(()) if rate is None else schedule(f"{seed} function", FUNCTION_FAULTS, rate)
        self._due: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._http = urllib3.PoolManager(ca_certs=str(emulator.ca_bundle), retries=False, maxsize=50, timeout=300)

    def __exit__(self, *_: object) -> None:
        """Stop. Calls that have begun fail."""
        super().__exit__()
        self._http.clear()

    def on_event(self, runtime: Runtime, event: bytes) -> Invocation:
        """Run the function with an event, once or twice."""
        with self._lock:
            fault = next(self._of_invocations, None)
            if fault in KILLS:
                self._due[fault] += 1
            elif fault:
                self.counts[fault] += 1
        if fault is TWICE:
            runtime.invoke(event)
        if fault is not SIDE_BY_SIDE:
            return runtime.invoke(event)
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(runtime.invoke, event)
            runtime.invoke(event)
        return beside.result()

    def _respond(self, _method: str, path: str, sent: Headers, body: bytes) -> Iterator[Step]:
        yield self._answer(path, dict(sent), body)

    def _answer(self, path: str, headers: dict[str, str], body: bytes) -> Step:
        """Make a call with the fault that is due; return its reply."""
        key = re.search("Credential=([^/]+)", headers.get("Authorization", ""))
        environment = self.identities.get(key[1] if key else "")
        operation = headers.get("X-Amz-Target", "").rpartition(".")[2]
        with self._lock:
            self.leaks += [operation] if any(secret.encode() in body for secret in self._credentials) else []
            if environment and environment.lost and self._interrupts(environment, operation):
                return Act.CLOSE
            if fault := next(self._of_calls[operation]) if operation in self._of_calls else None:
                self.counts[f"{operation}: {fault}"] += 1
                if environment and operation in LEDGER:
                    self.ledger_faults.add(environment.invocation)
        if fault in ERRORS:
            return ERRORS[fault].wire()
        if fault is SLOW:
            time.sleep(SLOW_S)
        made = self._http.request("POST", f"{self._emulator.url}{path}", body=body, headers=headers, redirect=False)
        reply = Reply(made.status, made.data, (("Content-Type", made.headers["Content-Type"]),))
        return Act.CLOSE if fault is LOST else reply.wire()

    def _interrupts(self, environment: Environment, operation: str) -> bool:
        """Kill or freeze the invocation if that is due before this call; return whether it was, now or earlier."""
        due = [fault for fault, count in self._due.items() if count and KILLS[fault] == operation]
        if due and environment.invocation not in self.interrupted:
            self._due[due[0]] -= 1
            self.counts[due[0]] += 1
            self.interrupted.add(environment.invocation)
            environment.signal(signal.SIGSTOP if due[0] is TIMED_OUT else signal.SIGKILL)
        return environment.invocation in self.interrupted


def schedule(seed: str, kinds: Sequence[str], rate: float, most: int = 1) -> Iterator[str | None]:
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
