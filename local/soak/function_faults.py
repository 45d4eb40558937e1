"""Faults of the function itself: it is killed or frozen in the middle of a batch, or gets an event twice."""

import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial

from local.emulator.runtime import Environment, Invocation, Runtime
from local.soak.plan import fault_schedule

CRASHING = "killed by a crashing result"


class FunctionFault(StrEnum):
    """A fault of an invocation."""

    KILLED_AT_READ = "killed before the POSTs"
    KILLED_AT_WRITE = "killed between the POSTs and the ledger"
    KILLED_AT_HIDE = "killed before hiding"
    KILLED_AT_PARK = "killed before parking"
    TIMED_OUT = "timed out"
    TWICE = "delivered twice, one after the other"
    SIDE_BY_SIDE = "delivered twice, side by side"


# The AWS call at which the function is killed or frozen.
_OPERATIONS = {
    FunctionFault.KILLED_AT_READ: "BatchGetItem",
    FunctionFault.KILLED_AT_WRITE: "BatchExecuteStatement",
    FunctionFault.KILLED_AT_HIDE: "ChangeMessageVisibilityBatch",
    FunctionFault.KILLED_AT_PARK: "SendMessageBatch",
    FunctionFault.TIMED_OUT: "BatchExecuteStatement",
}


class FaultyFunction:
    """Runs invocations, and kills, freezes or repeats some of them by a schedule.

    A fault that needs a certain AWS call waits for the next invocation that makes it.

    Attributes:
        interrupted: the invocations (environment, number) that were killed or frozen.
        repeats: the invocations (environment, number) that got an event for the second time.
        crashing_uuids: an invocation whose event contains one of these is always killed.
        fault_counts: how often each fault occurred.
    """

    def __init__(self, seed: str, rate: float | None) -> None:
        self.interrupted: set[tuple[int, int]] = set()
        self.repeats: set[tuple[int, int]] = set()
        self.crashing_uuids: set[bytes] = set()
        self.fault_counts: Counter[str] = Counter()
        self._schedule = None if rate is None else fault_schedule(f"{seed} function", [*FunctionFault], rate)
        self._due: Counter[FunctionFault] = Counter()
        # By environment: its invocation, and whether the event holds a crashing result.
        self._running: dict[int, tuple[Environment, int, bool]] = {}
        self._lock = threading.Lock()

    def on_event(self, runtime: Runtime, event: bytes) -> Invocation:
        """Run the function with an event, once or twice."""
        with self._lock:
            fault = next(self._schedule) if self._schedule else None
        if fault not in (FunctionFault.TWICE, FunctionFault.SIDE_BY_SIDE):
            if fault:
                self._due[fault] += 1
            return self._run(runtime, event)
        self.fault_counts[fault] += 1
        again = partial(self._run, runtime, event)
        beside = ThreadPoolExecutor(1).submit(again) if fault is FunctionFault.SIDE_BY_SIDE else None
        invocation = self._run(runtime, event)
        repeat = beside.result() if beside else again()
        self.repeats.add((repeat.environment, repeat.number))
        return invocation

    def _run(self, runtime: Runtime, event: bytes) -> Invocation:
        with runtime.environment() as environment:
            crashes = any(uuid in event for uuid in self.crashing_uuids)
            self._running[environment.number] = environment, environment.invocations, crashes
            try:
                return runtime.run(environment, event)
            finally:
                del self._running[environment.number]

    def on_call(self, number: int, operation: str) -> None:
        """Kill or freeze the environment that is about to make this AWS call, if a fault is due."""
        if (running := self._running.get(number)) is None:
            return
        environment, invocation, crashes = running
        with self._lock:
            if (number, invocation) in self.interrupted:
                return
            due = (fault for fault, count in self._due.items() if count and _OPERATIONS[fault] == operation)
            fault = None if crashes else next(due, None)
            if not crashes and fault is None:
                return
            if fault:
                self._due[fault] -= 1
            self.fault_counts[fault or CRASHING] += 1
            self.interrupted.add((number, invocation))
        environment.signal(signal.SIGSTOP if fault is FunctionFault.TIMED_OUT else signal.SIGKILL)
