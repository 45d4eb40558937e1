"""What the relay reports of results that come steadily and meet trouble: by the real schedule and the real gate."""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from flash_call_relay import policy
from flash_call_relay.budget import Deadline
from flash_call_relay.credentials import Credentials
from flash_call_relay.gate import Gate
from flash_call_relay.models import Reason
from flash_call_relay.settings import Settings
from tests.support.alarms import MetricHistory

CREDENTIALS = Credentials("key", "user")
BATCH = 10
JITTERS = (1.2, 0.8, 1.0, 1.1, 0.9)

Trouble = Callable[[float, int], Reason | None]  # the time in seconds and the number of an attempt → how it fails


def never(_at: float, _number: int) -> None:
    """All is well."""


def between(begin_s: float, end_s: float, reason: Reason = Reason.ENDPOINT_ERROR) -> Trouble:
    """Each attempt fails from one time to another."""
    return lambda at, _number: reason if begin_s <= at < end_s else None


def one_in(attempts: int, reason: Reason = Reason.ENDPOINT_ERROR) -> Trouble:
    """One attempt in so many fails."""
    return lambda _at, number: reason if number % attempts == 0 else None


@dataclass(frozen=True)
class Traffic:
    """Results at a steady rate from time 0 on, some at a time.

    Attributes:
        settings: the schedule's.
        every_s: how often some come, in seconds.
        at_once: how many of them; they stay together, in one invocation.
        environments: execution environments, used in turn.
    """

    settings: Settings
    every_s: float
    at_once: int = 1
    environments: int = 1

    def meets(self, until_s: float, trouble: Trouble = never, ledger: Trouble = never) -> dict[str, MetricHistory]:
        """Return what is reported until then, by metric, and by metric and reason.

        Args:
            until_s: when to end.
            trouble: how attempts fail.
            ledger: which invocations can't use the ledger, whatever the reason that it gives.
        """
        now = 0.0
        timeout_s = self.settings.request_timeout_seconds
        environments = itertools.cycle([Gate(timeout_s, clock=lambda: now) for _ in range(self.environments)])
        attempts, invocations, ties = itertools.count(1), itertools.count(1), itertools.count()
        jitters = itertools.cycle(JITTERS)
        metrics: dict[str, MetricHistory] = {}
        # When results come up, a tie-breaker, when they were sent, how often they were received, how many they are.
        arrivals = itertools.takewhile(lambda at: at < until_s, itertools.count(0, self.every_s))
        due = [(at, next(ties), at, 1, self.at_once) for at in arrivals]
        while due:
            now, _, sent_at, receives, count = heapq.heappop(due)
            gate, age_s = next(environments), now - sent_at
            blocked = gate.blocked(CREDENTIALS)
            number = next(invocations)
            figures = {"LedgerErrors": float(not blocked and ledger(now, number) is not None)}
            reasons = Counter[Reason]()
            for _ in range(count):
                not_asked = blocked or gate.admit(CREDENTIALS, Deadline(math.inf))
                reason = not_asked.reason if not_asked else trouble(now, next(attempts))
                if not not_asked:
                    gate.learn(reason, CREDENTIALS)
                if reason:
                    reasons[reason] += 1
            if deferred := sum(reasons.values()):
                delay_s = policy.schedule_s(self.settings, receives, age_s, next(jitters))
                if now + delay_s < until_s:
                    heapq.heappush(due, (now + delay_s, next(ties), sent_at, receives + 1, deferred))
            figures["OldestPendingAge"] = age_s if deferred else 0.0
            figures["EndpointFailing"] = float(gate.failing or reasons[Reason.ENDPOINT_FAILING] > 0)
            figures["CredentialsRejected"] = float(reasons[Reason.CREDENTIALS_REJECTED])
            figures |= {f"ResultsDeferred/{reason}": float(times) for reason, times in reasons.items()}
            for name, value in figures.items():
                metrics.setdefault(name, MetricHistory()).report(now, value)
        return metrics
