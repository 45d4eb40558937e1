"""How an invocation spends its time, and how much of it is reserved for which work. All in seconds.

start ── ledger read ── attempts ─────────┬─ SQS ── ledger write ── events ── report ── time-out
                               last moment ┘  SETTLE_S before the time-out

A look-up of AWS's names comes on top of a call's time-outs, with 4 s at most (RES_OPTIONS in template.yaml).
"""

import time
from dataclasses import dataclass
from typing import NamedTuple, Self

# For what outlasts an invocation: Lambda may stop the monotonic clock in between (docs/decisions/06-gate.md).
wall_clock = time.time


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A moment that work must not outlast: `at_s`, in seconds of the monotonic clock."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the deadline so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 once it has passed."""
        return max(0.0, self.at_s - time.monotonic())

    def earlier(self, seconds: float) -> "Deadline":
        """Return the deadline so many seconds before this one."""
        return Deadline(self.at_s - seconds)


class Call(NamedTuple):
    """The bounds on one call to AWS: botocore's time-outs `connect` and `read`, for each of `attempts` tries."""

    connect: float
    read: float
    attempts: int = 2

    @property
    def worst(self) -> float:
        """The longest time the call can take, by botocore 1.44's standard retries (botocore/retries/standard.py).

        Before its n-th repetition, botocore waits up to 2^(n-1) s if AWS throttles, and up to 5 s more if the reply
        carries `x-amz-retry-after`.
        """
        waits = sum(2.0 ** (repetition - 1) + 5 for repetition in range(1, self.attempts))
        return self.attempts * (self.connect + self.read) + waits


AWS_CALL = Call(connect=1, read=2)  # to SQS or Secrets Manager
LEDGER_CALL = Call(connect=0.3, read=0.5)
EVENTS_CALL = Call(connect=0.3, read=0.5, attempts=1)  # a slow call must not take the next invocation's time
LEDGER_S = 1.0  # a read of the ledger, or one write, starts no call later than this after its begin
EVENTS_S = 1.0  # no call to the outcome bus starts later than this
CALLS_S = 4.0  # for the SQS calls before the last one; enough for the hundred that hide a batch of 1,000
REPORT_S = 1.0  # for the last log lines, the metrics and the reply

# No call to SQS starts when less than this is left, so that even the slowest one ends in time. The ledger and the
# outcome bus take what SQS leaves of it.
LAST_CALL_S = AWS_CALL.worst + REPORT_S
# Each attempt ends at least this long before the time-out.
SETTLE_S = CALLS_S + LAST_CALL_S
