"""Decide the outcome and the delay of each record. Pure: no I/O, no clock."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from flash_call_relay import models
from flash_call_relay.models import (
    Deferred,
    FlashCallResult,
    Judgement,
    Outcome,
    Parked,
    Reason,
    Record,
    Reply,
    printable,
)
from flash_call_relay.settings import Settings

JITTER = (0.8, 1.2)
MAX_RETRY_AFTER_S = 900


def judge(settings: Settings, result: FlashCallResult, answer: models.Answer) -> Judgement:
    """Judge an attempt by the endpoint's answer.

    Args:
        settings: says what counts as a confirmation.
        result: the result that was sent.
        answer: the endpoint's reply, or why there is none.
    """
    if not isinstance(answer, Reply):
        return Judgement(answer.reason, printable(answer.detail), duration_ms=answer.duration_ms)
    detail = printable(f"HTTP {answer.http_status} {answer.message}")
    reason = _failure(settings, result, answer)
    return Judgement(reason, detail, answer.http_status, answer.retry_after, answer.duration_ms)


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
    settings: Settings, record: Record, result: FlashCallResult, finding: models.Finding, *, now: float, jitter: float
) -> Outcome:
    """Decide what becomes of a result.

    Args:
        settings: the numbers that decisions rest on.
        record: the record that carries the result.
        result: the record's content.
        finding: what is known of the result.
        now: the time in seconds since the epoch.
        jitter: a random factor from the range `JITTER`.
    """
    if isinstance(finding, models.Confirmed):
        return _compare(result, finding)
    http_status = finding.http_status if isinstance(finding, Judgement) else None
    reason, age_s = finding.reason, age(record, now)
    if reason is None:
        return models.Delivered(http_status)
    may_be_a_race = reason is Reason.UNKNOWN_CALL and age_s < settings.unknown_call_grace_seconds
    if reason.parks and not may_be_a_race:
        return Parked(reason, finding.detail, http_status)
    if age_s >= settings.retry_horizon_seconds:
        detail = printable(f"gave up at the age of {age_s:.0f} s; at last {reason}: {finding.detail}")
        return Parked(Reason.RETRIES_EXHAUSTED, detail, http_status)
    delay_s = schedule_s(settings, record.receive_count, age_s, jitter)
    if isinstance(finding, Judgement) and reason in (Reason.THROTTLED, Reason.ENDPOINT_ERROR):
        delay_s = max(delay_s, retry_after_s(finding.retry_after, now))
    return Deferred(reason, finding.detail, delay_s, http_status)


def _compare(result: FlashCallResult, confirmed: models.Confirmed) -> Outcome:
    if confirmed.status == result.status:
        return models.Duplicate()
    at = datetime.fromtimestamp(confirmed.at, UTC).isoformat(timespec="seconds")
    detail = f"{confirmed.status} was confirmed at {at}, and this one says {result.status}"
    return Parked(Reason.CONFLICTING_STATUS, detail)


def schedule_s(settings: Settings, receive_count: int, age_s: float, jitter: float) -> int:
    """Return the delay after the n-th receive: min(cap, base * 2^(n-1)) * jitter.

    The cap is lower while the result is fresh: comparable report APIs count a result that comes after 5 to 60 minutes
    as failed.

    Args:
        settings: base, both caps, and how long a result is fresh.
        receive_count: n, from 1.
        age_s: the result's age in seconds.
        jitter: a factor from the range `JITTER`.

    Returns:
        Whole seconds, rounded up, at least 1.
    """
    cap_s = settings.retry_cap_seconds
    if age_s < settings.fresh_seconds:
        cap_s = min(cap_s, settings.fresh_retry_cap_seconds)
    doubled = settings.retry_base_seconds << min(receive_count - 1, 30)
    return math.ceil(min(cap_s, doubled) * jitter)


def retry_after_s(value: str | None, now: float) -> int:
    """Return the wait that a `Retry-After` header asks for.

    Args:
        value: the header: seconds, or an HTTP date.
        now: the time in seconds since the epoch.

    Returns:
        0 to 900 whole seconds; 0 for a header that is missing or cannot be read.
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
