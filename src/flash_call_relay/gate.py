"""May the endpoint be asked now? One place for the clock, refused credentials and a failing endpoint."""

import threading
import time
from collections.abc import Callable

from flash_call_relay.credentials import Credentials
from flash_call_relay.models import NoReply, Reason
from flash_call_relay.policy import CREDENTIALS_ACCEPTED, ENDPOINT_FAILURES

IN_A_ROW = 5
HOLD_S = 30.0
ACCEPTED_LATELY_S = 60.0  # a refusal this soon after an acceptance is that record's own, unless it is one of a row


class Gate:
    """The state is this execution environment's own, shared by its lanes.

    A held endpoint, and held credentials, are asked for nothing for 30 s; then one attempt, the probe, is let through.
    The others of its batch wait for what it ends with, so that all are delivered if the endpoint is well again. If the
    probe fails, nothing is asked for `timeout_s`.
    """

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the gate; `timeout_s` is the bound on one attempt, in seconds of `clock`."""
        self._timeout_s, self._clock = timeout_s, clock
        self._lock = threading.Condition()
        self._probe_until: float | None = None
        self._failures = self._refusals = 0
        self._endpoint_held_until: float | None = None
        self._refused: Credentials | None = None
        self._refused_until = 0.0
        self._accepted: Credentials | None = None
        self._accepted_at = 0.0
        self._news: list[str] = []

    def closed(self, credentials: Credentials | None) -> NoReply | None:
        """Return why nothing may be asked now with these credentials; None if something may."""
        with self._lock:
            return self._closed(self._clock(), credentials)

    def hold(self, credentials: Credentials, last_moment: float) -> NoReply | None:
        """Return why the endpoint may not be asked now; None lets one attempt through, which must `learn` its end.

        Waits for a probe that is under way, for `timeout_s` at most.

        Args:
            credentials: those the attempt would use.
            last_moment: when the attempt has to be over, by the same clock.
        """
        with self._lock:
            if self._is_doubtful(credentials) and self._probe_until is not None:
                self._lock.wait_for(lambda: self._probe_until is None, self._probe_until - self._clock())
            now = self._clock()
            if now + self._timeout_s > last_moment:
                return NoReply(Reason.OUT_OF_TIME, "the function's time is over")
            if closed := self._closed(now, credentials):
                return closed
            if self._is_doubtful(credentials):
                self._probe_until = now + self._timeout_s
                # Should the probe never be heard of again, these let the next one through.
                if self._endpoint_held_until is not None:
                    self._endpoint_held_until = self._probe_until
                if credentials == self._refused:
                    self._refused_until = self._probe_until
            return None

    def _is_doubtful(self, credentials: Credentials) -> bool:
        return self._endpoint_held_until is not None or credentials == self._refused

    def _closed(self, now: float, credentials: Credentials | None) -> NoReply | None:
        if credentials is not None and credentials == self._refused and now < self._refused_until:
            return NoReply(Reason.CREDENTIALS_REJECTED, "not asked: the endpoint refused these credentials just now")
        if self._endpoint_held_until is not None and now < self._endpoint_held_until:
            return NoReply(Reason.ENDPOINT_FAILING, "not asked: the endpoint fails")
        return None

    def learn(self, reason: Reason | None, credentials: Credentials) -> None:
        """Take what an attempt with these credentials ended with: what stands against it, or None."""
        with self._lock:
            now = self._clock()
            was_probing, self._probe_until = self._probe_until is not None, None
            self._lock.notify_all()
            if reason in ENDPOINT_FAILURES:
                self._failures += 1
                if self._failures == IN_A_ROW:
                    self._endpoint_held_until = now + HOLD_S
                    self._news.append("endpoint.failing")
                elif self._endpoint_held_until is not None and was_probing:
                    self._endpoint_held_until = now + self._timeout_s
                return
            self._failures = 0
            if self._endpoint_held_until is not None:
                self._endpoint_held_until = None
                self._news.append("endpoint.recovered")
            if reason in CREDENTIALS_ACCEPTED:
                self._accepted, self._accepted_at, self._refusals = credentials, now, 0
                if credentials == self._refused:
                    self._refused = None
                    self._news.append("credentials.accepted")
            elif reason is Reason.CREDENTIALS_REJECTED:
                self._refusals += 1
                lately_accepted = credentials == self._accepted and now - self._accepted_at < ACCEPTED_LATELY_S
                if self._refusals < IN_A_ROW and lately_accepted:
                    return
                if credentials != self._refused:
                    self._news.append("credentials.rejected")
                self._refused, self._refused_until = credentials, now + HOLD_S

    @property
    def failing(self) -> bool:
        """Whether the endpoint has failed often enough to be held, and not been heard of since."""
        with self._lock:
            return self._endpoint_held_until is not None

    def news(self) -> list[str]:
        """Return what has changed since the last call, as dotted event names."""
        with self._lock:
            news, self._news = self._news, []
            return news
