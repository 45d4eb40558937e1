"""Decide the outcome and the delay of each record. Pure: no I/O, no clock."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flash_call_relay import models
from flash_call_relay.models import Confirmed, Deferred, FlashCallResult, Judgement, Parked, Reason, Record, Reply
from flash_call_relay.settings import Settings
from flash_call_relay.text import printable

JITTER = (0.8, 1.2)
ERROR_KEYS = ("error", "errors", "errorMessage", "errorType")


def judge(settings: Settings, result: FlashCallResult, reply: Reply) -> Judgement:
    """Judge an attempt to send a result by the endpoint's reply."""
    reason, status = _failure(settings, result, reply), reply.http_status
    detail = printable(f"HTTP {status} {reply.message}" if status else reply.message)
    wait_s = reply.wait_s if reason is Reason.THROTTLED or (status or 0) >= 500 else None
    return Judgement(reason, detail, status, wait_s, reply.duration_ms)


def _failure(settings: Settings, result: FlashCallResult, reply: Reply) -> Reason | None:  # noqa: C901, PLR0911 - a table
    """Return why the reply does not confirm the result; None if it does."""
    status, is_object = reply.http_status or 0, reply.json_object is not None
    if 200 <= status < 300 and settings.confirmation == "http-status":
        return None
    if reply.failure and status not in (401, 429):  # these two need no body
        return reply.failure
    match status:
        case _ if 200 <= status < 300:
            return _doubt(result, reply.json_object)
        case 400 | 409 | 413 | 422 if is_object:
            return Reason.REJECTED
        case 404 if is_object:
            return Reason.UNKNOWN_CALL
        case 401:
            return Reason.CREDENTIALS_REJECTED
        case 403 if is_object:
            return Reason.CREDENTIALS_REJECTED
        case 408 | 425 | 429:
            return Reason.THROTTLED
        case _ if 300 <= status < 500:
            return Reason.ENDPOINT_MISCONFIGURED
        case _ if 500 <= status < 600:
            return Reason.ENDPOINT_ERROR
        case _:
            return Reason.BAD_REPLY


def _doubt(result: FlashCallResult, said: Mapping[str, Any] | None) -> Reason | None:
    """Return why a 2xx reply with this object, or without one, does not confirm the result; None if it does."""
    if said is None:
        return Reason.UNCONFIRMED
    uuid, status, sent = said.get("uuid"), said.get("status"), result.status.casefold()
    word = status.strip().casefold() if isinstance(status, str) else sent
    # ASCII only: `lower` also turns some other characters, such as the Kelvin sign, into ASCII letters.
    other_uuid = isinstance(uuid, str) and not (uuid.isascii() and uuid.lower() == result.uuid.lower())
    if other_uuid or word == models.OTHER[result.status].casefold():
        return Reason.CONTRADICTED
    names_error = said.get("success") is False or any(said.get(key) for key in ERROR_KEYS)
    return Reason.UNCONFIRMED if names_error or word != sent else None


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
    if known.wait_s:  # never earlier than asked, and not all at the same moment
        delay_s = max(delay_s, math.ceil(known.wait_s * (1 + (jitter - JITTER[0]) / 2)))
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


def age(record: Record, now: float) -> float:
    """Return the record's age in seconds, never below 0: clocks differ."""
    return max(0.0, now - record.sent_at)
