"""How an invocation's time is spent: what is kept back of it, and why. All in seconds.

start ── ledger read ── attempts ──────────────┬─ the last calls of SQS ── ledger write ── report ── time-out
                               last moment ────┘   SETTLE_S before the time-out
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment that work must not outlast.

    Attributes:
        at_s: the moment, in seconds of `clock`.
        clock: tells the time in seconds; it never goes back.
    """

    at_s: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the deadline so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 once it has passed."""
        return max(0.0, self.at_s - self.clock())

    def earlier(self, seconds: float) -> "Deadline":
        """Return the deadline so many seconds before this one."""
        return Deadline(self.at_s - seconds, self.clock)


class Call(NamedTuple):
    """The bounds on one call of AWS: `connect` and `read` are botocore's time-outs for each of `attempts` tries."""

    connect: float
    read: float
    attempts: int = 2

    @property
    def worst(self) -> float:
        """How long the call can take, from what botocore 1.44's standard retries do (botocore/retries/standard.py).

        Before its n-th repetition it waits up to 2^(n-1) s if AWS throttles, and up to 5 s more if the reply carries
        `x-amz-retry-after`.
        """
        waits = sum(2.0 ** (repetition - 1) + 5 for repetition in range(1, self.attempts))
        return self.attempts * (self.connect + self.read) + waits


AWS_CALL = Call(connect=1, read=2)  # to SQS or Secrets Manager
LEDGER_CALL = Call(connect=0.3, read=0.5)  # in the ledger's own thread: an invocation does not wait for the worst
LEDGER_S = 1.0  # the most that an invocation waits for the ledger to be read, and again to be written
CALLS_S = 2.0  # for SQS calls that go well, some dozens of them: those before the last
REPORT_S = 1.0  # for the last lines, the metrics and the reply

# No call of SQS starts later than this before the time-out, so that its worst case fits.
LAST_CALL_S = AWS_CALL.worst + LEDGER_S + REPORT_S
# Each attempt is over this long before the time-out.
SETTLE_S = CALLS_S + LAST_CALL_S
