"""Decide whether an attempt may start now: is there time, and does nothing speak against asking the endpoint?"""

import threading
from collections.abc import Callable

from flash_call_relay import telemetry
from flash_call_relay.budget import Deadline, wall_clock
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import Judgement, Reason

IN_A_ROW = 5
BLOCK_S = 30.0
# A refusal this soon after an acceptance concerns that record only, unless it is the fifth in a row.
ACCEPTED_LATELY_S = 60.0
# While the endpoint throttles and names no time, the gate waits this long, then twice as long, up to the last one.
FIRST_HOLD_S, LAST_HOLD_S = 1.0, 60.0
REFUSED = Judgement(Reason.CREDENTIALS_REJECTED, "not asked: the endpoint refused these credentials just now")
FAILING = Judgement(Reason.ENDPOINT_FAILING, "not asked: the endpoint fails")
OUT_OF_TIME = Judgement(Reason.OUT_OF_TIME, "the function's time is over")
OVER_THE_LIMIT = Judgement(Reason.THROTTLED, "not asked in time: RateLimitPerSecond")


class Gate:
    """A circuit breaker. Its state belongs to this execution environment; all lanes share it.

    It blocks an endpoint that asks to wait until the time asked for, and a failing endpoint, or refused credentials,
    for 30 s. Then it admits one attempt, the trial, and the rest of the batch waits for the trial's end. If nothing
    speaks against the endpoint any more, the whole batch is delivered. If it still fails, the gate blocks for
    `timeout_s`; if it still refuses the credentials, for another 30 s.
    """

    def __init__(self, timeout_s: float, interval_s: float = 0.0, *, clock: Callable[[], float] = wall_clock) -> None:
        """Let everything through at first.

        `timeout_s` bounds one attempt, and `interval_s` is the least time between the starts of two, in seconds of
        `clock`.
        """
        self._timeout_s, self._interval_s, self._clock = timeout_s, interval_s, clock
        self._changed = threading.Condition()  # guards all below; a thread that holds it may take it again
        self._trial_until: float | None = None
        self._turn_at = 0.0
        self._held_until: float | None = None
        self._hold_s = FIRST_HOLD_S
        self._failures = self._refusals = 0
        self._failing_until: float | None = None
        self._refused: Credentials | None = None
        self._refused_until = 0.0
        self._accepted: Credentials | None = None
        self._accepted_at = 0.0

    def blocked(self, credentials: Credentials) -> Judgement | None:
        """Return why the gate admits no attempt with these credentials now; None if it may admit one."""
        with self._changed:
            now, trial_until = self._clock(), self._trial_until or 0.0  # a trial that is under way keeps others out
            if self._held_until is not None and now < max(self._held_until, trial_until):
                wait_s = max(self._held_until, trial_until) - now
                return Judgement(Reason.THROTTLED, "not asked: the endpoint asked to wait", wait_s=wait_s)
            if credentials == self._refused and now < max(self._refused_until, trial_until):
                return REFUSED
            if self._failing_until is not None and now < max(self._failing_until, trial_until):
                return FAILING
            return None

    def admit(self, credentials: Credentials, end: Deadline) -> bool | Judgement:
        """Admit one attempt and return whether it is a trial, or return why not.

        After each admitted attempt, `learn` must be told how it ended.

        While the endpoint or the credentials are in doubt, waits for the trial that is under way, `timeout_s` at most.
        Then waits for this attempt's turn. The attempt must be over at `end`.
        """
        with self._changed:
            while True:
                if self._is_doubtful(credentials) and self._trial_until is not None:
                    left_s = min(self._trial_until - self._clock(), end.left_s)
                    self._changed.wait_for(lambda: self._trial_until is None, left_s)
                if blocked := self.blocked(credentials):
                    return blocked
                self._turn_at = min(self._turn_at, self._clock() + self._interval_s)  # if the clock was put back
                turn_in_s = max(0.0, self._turn_at - self._clock())
                if end.left_s < self._timeout_s + turn_in_s:
                    return OVER_THE_LIMIT if turn_in_s else OUT_OF_TIME
                if not turn_in_s:
                    break
                self._changed.wait(turn_in_s)
            self._turn_at = self._clock() + self._interval_s
            if is_trial := self._is_doubtful(credentials):
                # If the trial never reports its end, the gate admits another one at this time. A second longer, because
                # an attempt that times out ends a moment later.
                self._trial_until = self._clock() + self._timeout_s + 1
            return is_trial

    def learn(self, judgement: Judgement, credentials: Credentials, *, is_trial: bool) -> None:
        """Record how an admitted attempt ended, and which credentials it used."""
        reason = judgement.reason
        fails = reason is not None and reason.against_endpoint
        with self._changed:
            if is_trial:
                self._trial_until = None
                self._changed.notify_all()
            if judgement.asks_to_wait:
                self._hold(judgement.wait_s, after_trial=is_trial)
            elif is_trial and self._held_until is not None:
                self._end_hold(fails=fails)
            if fails:
                self._count_failure(was_trial=is_trial)
            elif not judgement.asks_to_wait:
                self._end_failures()
            if reason is None or reason.proves_credentials:
                self._accept(credentials)
            elif reason is Reason.CREDENTIALS_REJECTED:
                self._refuse(credentials)

    @property
    def failing(self) -> bool:
        """Whether the endpoint has failed five times in a row, and not answered since."""
        with self._changed:
            return self._failing_until is not None

    @property
    def throttling(self) -> bool:
        """Whether the endpoint has asked to wait, and not answered otherwise since."""
        with self._changed:
            return self._held_until is not None

    def _is_doubtful(self, credentials: Credentials) -> bool:
        return self._held_until is not None or self._failing_until is not None or credentials == self._refused

    def _hold(self, wait_s: float | None, *, after_trial: bool) -> None:
        if self._held_until is None:
            self._hold_s = FIRST_HOLD_S
            telemetry.report("endpoint.throttling")
        elif after_trial:
            self._hold_s = min(2 * self._hold_s, LAST_HOLD_S)
        self._held_until = max(self._held_until or 0.0, self._clock() + (wait_s or self._hold_s))

    def _end_hold(self, *, fails: bool) -> None:
        now, held_until = self._clock(), self._held_until or 0.0
        if fails:
            self._held_until = max(held_until, now + self._timeout_s)
        elif held_until <= now:  # else another attempt has brought a request to wait meanwhile
            self._held_until = None
            telemetry.report("endpoint.throttling_ended")

    def _count_failure(self, *, was_trial: bool) -> None:
        self._failures += 1
        if self._failures == IN_A_ROW:
            self._failing_until = self._clock() + BLOCK_S
            telemetry.report("endpoint.failing")
        elif self._failing_until is not None and was_trial:
            self._failing_until = self._clock() + self._timeout_s

    def _end_failures(self) -> None:
        self._failures = 0
        if self._failing_until is not None:
            self._failing_until = None
            telemetry.report("endpoint.recovered")

    def _accept(self, credentials: Credentials) -> None:
        self._accepted, self._accepted_at, self._refusals = credentials, self._clock(), 0
        if credentials == self._refused:
            self._refused = None

    def _refuse(self, credentials: Credentials) -> None:
        self._refusals += 1
        accepted_lately = credentials == self._accepted and self._clock() - self._accepted_at < ACCEPTED_LATELY_S
        if self._refusals < IN_A_ROW and accepted_lately:
            return
        if credentials != self._refused:
            telemetry.report("credentials.rejected")
        self._refused, self._refused_until = credentials, self._clock() + BLOCK_S
