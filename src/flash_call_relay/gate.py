"""Decide whether an attempt may start now: is there time, are the credentials good, does the endpoint answer?"""

import threading
from collections.abc import Callable

from flash_call_relay.budget import Deadline, wall_clock
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import GateEvent, Judgement, Reason

IN_A_ROW = 5
BLOCK_S = 30.0
# A refusal this soon after an acceptance concerns that record only, unless it is the fifth in a row.
ACCEPTED_LATELY_S = 60.0
REFUSED = Judgement(Reason.CREDENTIALS_REJECTED, "not asked: the endpoint refused these credentials just now")
FAILING = Judgement(Reason.ENDPOINT_FAILING, "not asked: the endpoint fails")
OUT_OF_TIME = Judgement(Reason.OUT_OF_TIME, "the function's time is over")


class Gate:
    """A circuit breaker. Its state belongs to this execution environment; all lanes share it.

    It blocks a failing endpoint, and refused credentials, for 30 s. Then it admits one attempt, the trial, and the rest
    of the batch waits for the trial's end. If the endpoint answers again, the whole batch is delivered. If it still
    fails, the gate blocks for `timeout_s`; if it still refuses the credentials, for another 30 s.
    """

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = wall_clock) -> None:
        """Let everything through at first; `timeout_s` bounds one attempt, in seconds of `clock`."""
        self._timeout_s, self._clock = timeout_s, clock
        self._trial_ended = threading.Condition()  # its lock, which guards all below, may be taken again
        self._trial_until: float | None = None
        self._failures = self._refusals = 0
        self._endpoint_blocked_until: float | None = None
        self._refused: Credentials | None = None
        self._refused_until = 0.0
        self._is_refusal_reported = False
        self._accepted: Credentials | None = None
        self._accepted_at = 0.0
        self._events: list[GateEvent] = []

    def blocked(self, credentials: Credentials | None) -> Judgement | None:
        """Return why the gate admits no attempt with these credentials now; None if it may admit one."""
        with self._trial_ended:
            now = self._clock()
            if credentials is not None and credentials == self._refused and now < self._refused_until:
                return REFUSED
            if self._endpoint_blocked_until is not None and now < self._endpoint_blocked_until:
                return FAILING
            return None

    def admit(self, credentials: Credentials, end: Deadline) -> Judgement | None:
        """Admit one attempt, or return why not. Each admitted attempt must report its end to `learn`.

        While the endpoint or the credentials are in doubt, waits for the trial that is under way, `timeout_s` at most.
        The attempt must be over at `end`.
        """
        with self._trial_ended:
            if self._is_doubtful(credentials) and self._trial_until is not None:
                self._trial_ended.wait_for(lambda: self._trial_until is None, self._trial_until - self._clock())
            if end.left_s < self._timeout_s:
                return OUT_OF_TIME
            if blocked := self.blocked(credentials):
                return blocked
            if self._is_doubtful(credentials):
                # If the trial never reports its end, the gate admits another one at this time.
                self._trial_until = self._clock() + self._timeout_s
                if self._endpoint_blocked_until is not None:
                    self._endpoint_blocked_until = self._trial_until
                if credentials == self._refused:
                    self._refused_until = self._trial_until
            return None

    def learn(self, reason: Reason | None, credentials: Credentials) -> None:
        """Record how an attempt ended: the reason it failed (None if it is confirmed), and the credentials it used."""
        with self._trial_ended:
            was_trial = self._trial_until is not None
            self._trial_until = None
            self._trial_ended.notify_all()
            if reason and reason.against_endpoint:
                self._count_failure(was_trial=was_trial)
                return
            self._failures = 0
            if self._endpoint_blocked_until is not None:
                self._endpoint_blocked_until = None
                self._events.append(GateEvent.ENDPOINT_RECOVERED)
            if reason is None or reason.proves_credentials:
                self._accept(credentials)
            elif reason is Reason.CREDENTIALS_REJECTED:
                self._refuse(credentials)

    @property
    def failing(self) -> bool:
        """Whether the endpoint has failed five times in a row, and not answered since."""
        with self._trial_ended:
            return self._endpoint_blocked_until is not None

    def events(self) -> list[GateEvent]:
        """Return what has changed since the last call."""
        with self._trial_ended:
            events, self._events = self._events, []
            return events

    def _is_doubtful(self, credentials: Credentials) -> bool:
        return self._endpoint_blocked_until is not None or credentials == self._refused

    def _count_failure(self, *, was_trial: bool) -> None:
        self._failures += 1
        if self._failures == IN_A_ROW:
            self._endpoint_blocked_until = self._clock() + BLOCK_S
            self._events.append(GateEvent.ENDPOINT_FAILING)
        elif self._endpoint_blocked_until is not None and was_trial:
            self._endpoint_blocked_until = self._clock() + self._timeout_s

    def _accept(self, credentials: Credentials) -> None:
        # An attempt that was under way with the former good credentials does not end the refusal of the new ones.
        ends_refusal = credentials == self._refused or credentials != self._accepted
        self._accepted, self._accepted_at, self._refusals = credentials, self._clock(), 0
        if credentials == self._refused:
            self._refused = None
        if self._is_refusal_reported and ends_refusal:
            self._is_refusal_reported = False
            self._events.append(GateEvent.CREDENTIALS_ACCEPTED)

    def _refuse(self, credentials: Credentials) -> None:
        self._refusals += 1
        accepted_lately = credentials == self._accepted and self._clock() - self._accepted_at < ACCEPTED_LATELY_S
        if self._refusals < IN_A_ROW and accepted_lately:
            return
        if credentials != self._refused:
            self._is_refusal_reported = True
            self._events.append(GateEvent.CREDENTIALS_REJECTED)
        self._refused, self._refused_until = credentials, self._clock() + BLOCK_S
