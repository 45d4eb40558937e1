"""Everything that is decided: what is known of a record → its outcome and delay. Pure: no I/O, no clock."""

import math

from flash_call_relay import models
from flash_call_relay.models import Deferred, FlashCallResult, Outcome, Parked, Reason, Record, Reply, printable
from flash_call_relay.settings import Settings

JITTER = (0.8, 1.2)


def decide(settings: Settings, record: Record, answer: models.Answer | None, *, now: float, jitter: float) -> Outcome:
    """Decide what becomes of a record.

    Args:
        settings: the numbers that decisions rest on.
        record: what was handed to the relay.
        answer: the endpoint's; None for a record that is no result.
        now: the time in seconds since the epoch.
        jitter: a random factor from the range `JITTER`.
    """
    result = record.content
    if isinstance(result, models.NoResult):
        return Parked(Reason.INVALID_EVENT, printable(result.fault))
    if answer is None:
        raise TypeError("a result needs an answer")
    http_status: int | None = None
    if isinstance(answer, Reply):
        verdict = _judge(settings, result, answer)
        if verdict is None:
            return models.Delivered(answer.http_status)
        reason, http_status, detail = verdict, answer.http_status, f"HTTP {answer.http_status} {answer.message}"
    else:
        reason, detail = answer.reason, answer.detail
    age_s = age(record, now)
    if reason is Reason.REJECTED or (reason is Reason.UNKNOWN_CALL and age_s >= settings.unknown_call_grace_seconds):
        return Parked(reason, printable(detail), http_status)
    if age_s >= settings.retry_horizon_seconds:
        last = printable(f"gave up at the age of {age_s:.0f} s; at last {reason}: {detail}")
        return Parked(Reason.RETRIES_EXHAUSTED, last, http_status)
    return Deferred(reason, printable(detail), delay_s(settings, record.receive_count, jitter), http_status)


def _judge(settings: Settings, result: FlashCallResult, reply: Reply) -> Reason | None:  # noqa: PLR0911 - a table
    """Return what stands against the delivery; None confirms it."""
    match reply.http_status, reply.json_object is not None:
        case status, is_object if 200 <= status < 300:
            if settings.confirmation == "http-status":
                return None
            return _contradiction(result, reply) if is_object else Reason.UNCONFIRMED
        case (400 | 409 | 413 | 422, True):
            return Reason.REJECTED
        case (404, True):
            return Reason.UNKNOWN_CALL
        case (401 | 403, _):
            return Reason.CREDENTIALS_REJECTED
        case (408 | 425 | 429, _):
            return Reason.THROTTLED
        case status, _ if 300 <= status < 500:
            return Reason.ENDPOINT_MISCONFIGURED
        case status, _ if 500 <= status < 600:
            return Reason.ENDPOINT_ERROR
        case _:
            return Reason.BAD_REPLY


def _contradiction(result: FlashCallResult, reply: Reply) -> Reason | None:
    said = reply.json_object or {}
    uuid, status = said.get("uuid", result.uuid), said.get("status", result.status)
    other_uuid = isinstance(uuid, str) and uuid.casefold() != result.uuid.casefold()
    other_status = isinstance(status, str) and status.casefold() == models.OTHER[result.status].casefold()
    return Reason.CONTRADICTED if other_uuid or other_status else None


def delay_s(settings: Settings, receive_count: int, jitter: float) -> int:
    """Return the delay after the n-th receive in whole seconds: min(cap, base * 2^(n-1)) * jitter, rounded up."""
    doubled = settings.retry_base_seconds << min(receive_count - 1, 30)
    return math.ceil(min(settings.retry_cap_seconds, doubled) * jitter)


def age(record: Record, now: float) -> float:
    """Return the record's age in seconds, never below 0: clocks differ."""
    return max(0.0, now - record.sent_at)
