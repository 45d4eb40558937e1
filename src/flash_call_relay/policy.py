"""Decide the outcome and the delay of each record. Pure: no I/O, no clock."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from flash_call_relay import models
from flash_call_relay.models import Confirmed, Deferred, FlashCallResult, Judgement, Parked, Reason, Record, Reply
from flash_call_relay.settings import Settings
from flash_call_relay.text import printable

JITTER = (0.8, 1.2)
MAX_RETRY_AFTER_S = 900


def judge(settings: Settings, result: FlashCallResult, reply: Reply) -> Judgement:
    """Judge an attempt to send a result by the endpoint's reply."""
    detail = printable(f"HTTP {reply.http_status} {reply.message}")
    reason = _failure(settings, result, reply)
    return Judgement(reason, detail, reply.http_status, reply.retry_after, reply.duration_ms)


def _failure(settings: Settings, result: FlashCallResult, reply: Reply) -> Reason | None:  # noqa: PLR0911 - a table
    """Return why the reply does not confirm the result; None if it does."""
    status, is_object = reply.http_status, reply.json_object is not None
    if 200 <= status < 300:
        if settings.confirmation == "http-status":
            return None
        return _contradiction(result, reply) if is_object else Reason.UNCONFIRMED
    match status:
        case 400 | 409 | 413 | 422 if is_object:
            return Reason.REJECTED
        case 404 if is_object:
            return Reason.UNKNOWN_CALL
        case 401 | 403:
            return Reason.CREDENTIALS_REJECTED
        case 408 | 425 | 429:
            return Reason.THROTTLED
        case _ if 300 <= status < 500:
            return Reason.ENDPOINT_MISCONFIGURED
        case _ if 500 <= status < 600:
            return Reason.ENDPOINT_ERROR
        case _:
            return Reason.BAD_REPLY


def _contradiction(result: FlashCallResult, reply: Reply) -> Reason | None:
    said = reply.json_object or {}
    uuid, status = said.get("uuid", result.uuid), said.get("status", result.status)
    # ASCII only: `lower` also turns some other characters, such as the Kelvin sign, into ASCII letters.
    other_uuid = isinstance(uuid, str) and not (uuid.isascii() and uuid.lower() == result.uuid.lower())
    other_status = isinstance(status, str) and status.casefold() == models.OTHER[result.status].casefold()
    return Reason.CONTRADICTED if other_uuid or other_status else None


def park_invalid(content: models.NoResult) -> Parked:
    """Decide what becomes of a record that is not a result."""
    return Parked(Reason.INVALID_EVENT, printable(content.fault))


def decide(  # noqa: PLR0913
    settings: Settings, record: Record, result: FlashCallResult, known: models.Known, *, now: float, jitter: float
) -> models.Outcome:
    """Decide what becomes of a record's result, by what is known of it.

    `now` is in seconds since the epoch, `jitter` a random factor from the range `JITTER`.
    """
    if isinstance(known, Confirmed):
        return _compare(result, known)
    reason, age_s = known.reason, age(record, now)
    if reason is None:
        return models.Delivered(known.http_status)
    may_be_a_race = reason is Reason.UNKNOWN_CALL and age_s < settings.unknown_call_grace_seconds
    if reason.parks and not may_be_a_race:
        return Parked(reason, known.detail, known.http_status)
    if age_s >= settings.retry_horizon_seconds:
        detail = printable(f"gave up at the age of {age_s:.0f} s; at last {reason}: {known.detail}")
        return Parked(Reason.RETRIES_EXHAUSTED, detail, known.http_status)
    delay_s = schedule_s(settings, record.receive_count, age_s, jitter)
    if reason in (Reason.THROTTLED, Reason.ENDPOINT_ERROR):
        delay_s = max(delay_s, retry_after_s(known.retry_after, now))
    return Deferred(reason, known.detail, delay_s, known.http_status)


def _compare(result: FlashCallResult, confirmed: Confirmed) -> models.Outcome:
    if confirmed.status == result.status:
        return models.Duplicate()
    at = datetime.fromtimestamp(confirmed.at, UTC).isoformat(timespec="seconds")
    detail = f"{confirmed.status} was confirmed at {at}, and this one says {result.status}"
    return Parked(Reason.CONFLICTING_STATUS, detail)


def schedule_s(settings: Settings, receive_count: int, age_s: float, jitter: float) -> int:
    """Return the delay after the n-th receive: min(cap, base * 2^(n-1)) * jitter, in whole seconds, at least 1.

    The cap is lower while the result is fresh: comparable report APIs count a result that comes after 5 to 60 minutes
    as failed. n counts from 1. `jitter` is a factor from the range `JITTER`.
    """
    cap_s = settings.retry_cap_seconds
    if age_s < settings.fresh_seconds:
        cap_s = min(cap_s, settings.fresh_retry_cap_seconds)
    doubled = settings.retry_base_seconds << min(receive_count - 1, 30)
    return math.ceil(min(cap_s, doubled) * jitter)


def retry_after_s(value: str | None, now: float) -> int:
    """Return the wait that a `Retry-After` header asks for, as seconds or as an HTTP date.

    0 to 900 whole seconds; 0 for a header that is missing or cannot be read. `now` is in seconds since the epoch.
    """
    text = (value or "").strip()
    number = text.partition(",")[0]  # a proxy may have repeated the header
    if number.isascii() and number.isdigit():
        return min(int(number[:10]), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0, min(math.ceil(moment.timestamp() - now), MAX_RETRY_AFTER_S))
    except (ValueError, TypeError, OverflowError):
        return 0


def earliest_exhaustion_s(settings: Settings) -> int:
    """Return the earliest age in seconds at which SQS can have used up `MaxReceiveCount`.

    After the n-th receive a message comes back after the schedule's shortest delay, or after the queue's visibility
    timeout if the relay did not hide it (the call failed, or Lambda killed or throttled the function). No delay gets
    shorter with the age, so the sum of the shortest delays is the earliest possible age.
    """
    age_s = 0
    for receive in range(1, settings.max_receive_count):
        delay_s = schedule_s(settings, receive, age_s, JITTER[0])
        age_s += min(delay_s, settings.visibility_timeout_seconds)
    return age_s


def age(record: Record, now: float) -> float:
    """Return the record's age in seconds, never below 0: clocks differ."""
    return max(0.0, now - record.sent_at)
