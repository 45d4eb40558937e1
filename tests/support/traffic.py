"""The metrics of a relay that receives results steadily while faults occur, by the real schedule and gate."""

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
from flash_call_relay.models import Judgement, Reason
from tests.support.alarms import MetricHistory
from tests.support.template import default_settings

SETTINGS = default_settings()
CREDENTIALS = Credentials("key", "user")
JITTERS = (1.2, 0.8, 1.0, 1.1, 0.9)

Fault = Callable[[float], Reason | None]  # the time of an attempt in seconds → how it fails


@dataclass(frozen=True)
class Traffic:
    """Results at a steady rate from time 0.

    Attributes:
        every_s: the time between two batches, in seconds.
        batch_size: the results in a batch; they stay together in one invocation.
        environments: the number of execution environments; invocations use them in turn.
    """

    every_s: float
    batch_size: int = 1
    environments: int = 1

    def meets(
        self, until_s: float, fault: Fault = lambda _: None, ledger: Fault = lambda _: None
    ) -> dict[str, MetricHistory]:
        """Return the metrics, by name, and by name and reason.

        Args:
            until_s: when to end, in seconds.
            fault: how attempts fail.
            ledger: in which invocations the ledger fails; the reason it gives does not matter.
        """
        now = 0.0
        timeout_s = SETTINGS.request_timeout_seconds
        environments = itertools.cycle([Gate(timeout_s, clock=lambda: now) for _ in range(self.environments)])
        ties, jitters = itertools.count(), itertools.cycle(JITTERS)
        metrics: dict[str, MetricHistory] = {}
        # When the results are received next, a tie-breaker, when they were sent, their receives, and their number.
        arrivals = itertools.takewhile(lambda at: at < until_s, itertools.count(0, self.every_s))
        due = [(at, next(ties), at, 1, self.batch_size) for at in arrivals]
        while due:
            now, _, sent_at, receives, count = heapq.heappop(due)
            gate, age_s = next(environments), now - sent_at
            blocked = gate.blocked(CREDENTIALS)
            figures = {"LedgerErrors": float(not blocked and ledger(now) is not None)}
            reasons = Counter[Reason]()
            for _ in range(count):
                judged = blocked or gate.admit(CREDENTIALS, Deadline(math.inf))
                if not isinstance(judged, Judgement):
                    is_trial, judged = judged, Judgement(fault(now), "why")
                    gate.learn(judged, CREDENTIALS, is_trial=is_trial)
                if judged.reason:
                    reasons[judged.reason] += 1
            if deferred := sum(reasons.values()):
                delay_s = policy.schedule_s(SETTINGS, receives, age_s, next(jitters))
                if now + delay_s < until_s:
                    heapq.heappush(due, (now + delay_s, next(ties), sent_at, receives + 1, deferred))
            figures["OldestPendingAge"] = age_s if deferred else 0.0
            figures["EndpointFailing"] = float(gate.failing or reasons[Reason.ENDPOINT_FAILING] > 0)
            figures["CredentialsRejected"] = float(reasons[Reason.CREDENTIALS_REJECTED])
            figures |= {f"ResultsDeferred/{reason}": float(times) for reason, times in reasons.items()}
            for name, value in figures.items():
                metrics.setdefault(name, MetricHistory()).report(now, value)
        return metrics
