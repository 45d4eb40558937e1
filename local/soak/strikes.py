"""Faults of the function itself: it is killed or frozen in the middle of a batch, or gets an event twice."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

from local.emulator.runtime import Environment, Invocation, Runtime


class Strike(StrEnum):
    """A fault of an invocation: the function is killed or frozen, or gets its event twice."""

    KILLED_AT_READ = "killed before the POSTs"
    KILLED_AT_WRITE = "killed between the POSTs and the ledger"
    KILLED_AT_HIDE = "killed before hiding"
    KILLED_AT_PARK = "killed before parking"
    TIMED_OUT = "timed out"
    TWICE = "delivered twice, one after the other"
    SIDE_BY_SIDE = "delivered twice, side by side"


_AT = {
    Strike.KILLED_AT_READ: "BatchGetItem",
    Strike.KILLED_AT_WRITE: "BatchExecuteStatement",
    Strike.KILLED_AT_HIDE: "ChangeMessageVisibilityBatch",
    Strike.KILLED_AT_PARK: "SendMessageBatch",
    Strike.TIMED_OUT: "BatchExecuteStatement",
}


def strike_schedule(seed: str, rate: float) -> Iterator[Strike | None]:
    """Yield the strike of each invocation: first each strike once, then random ones, few of them time-outs."""
    rng = random.Random(f"{seed} strikes")  # noqa: S311 - the seed repeats it
    early = list(Strike)
    rng.shuffle(early)
    for strike in early:
        yield from (None, None, strike)
    while True:
        seldom = rng.random() < 0.05
        kinds = [Strike.TIMED_OUT] if seldom else [strike for strike in Strike if strike is not Strike.TIMED_OUT]
        yield rng.choice(kinds) if rng.random() < rate else None


class Strikes:
    """Kills, freezes and repeats invocations by a schedule.

    A strike that needs a certain AWS call waits for the next invocation that makes it.

    Attributes:
        struck: the invocations (environment, number) that were killed or frozen.
        copies: the invocations (environment, number) that got an event for the second time.
        poison: an invocation whose event contains one of these is always killed.
        hits: the number of each strike.
    """

    def __init__(self, seed: str, rate: float | None) -> None:
        self.struck: set[tuple[int, int]] = set()
        self.copies: set[tuple[int, int]] = set()
        self.poison: set[bytes] = set()
        self.hits: Counter[str] = Counter()
        self._schedule = None if rate is None else strike_schedule(seed, rate)
        self._due: Counter[Strike] = Counter()
        # By environment: its invocation, and whether the event holds poison.
        self._running: dict[int, tuple[Environment, int, bool]] = {}
        self._lock = threading.Lock()

    def on_event(self, runtime: Runtime, event: bytes) -> Invocation:
        """Run the function with an event, once or twice."""
        with self._lock:
            strike = next(self._schedule) if self._schedule else None
        if strike not in (Strike.TWICE, Strike.SIDE_BY_SIDE):
            if strike:
                self._due[strike] += 1
            return self._run(runtime, event)
        self.hits[strike] += 1
        copy = threading.Thread(target=lambda: self._copy(runtime, event))
        if strike is Strike.SIDE_BY_SIDE:
            copy.start()
        invocation = self._run(runtime, event)
        if strike is Strike.TWICE:
            copy.start()
        copy.join()
        return invocation

    def _copy(self, runtime: Runtime, event: bytes) -> None:
        invocation = self._run(runtime, event)
        self.copies.add((invocation.environment, invocation.number))

    def _run(self, runtime: Runtime, event: bytes) -> Invocation:
        with runtime.environment() as environment:
            poisoned = any(text in event for text in self.poison)
            self._running[environment.number] = environment, environment.invocations, poisoned
            try:
                return runtime.run(environment, event)
            finally:
                del self._running[environment.number]

    def on_call(self, number: int, operation: str) -> None:
        """Strike the environment that is about to make this call, if a strike is due."""
        if (running := self._running.get(number)) is None:
            return
        environment, invocation, poisoned = running
        with self._lock:
            if (number, invocation) in self.struck:
                return
            due = next((strike for strike in list(self._due) if self._due[strike] and _AT[strike] == operation), None)
            if poisoned:
                self.hits["poison"] += 1
            elif due:
                self._due[due] -= 1
                self.hits[due] += 1
            else:
                return
            self.struck.add((number, invocation))
        if due is Strike.TIMED_OUT and not poisoned:
            environment.freeze()
        else:
            environment.kill()
