"""Everything that is decided: what is known of a record → its outcome and delay. Pure: no I/O, no clock."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from flash_call_relay import models
from flash_call_relay.models import Deferred, FlashCallResult, Outcome, Parked, Reason, Record, Reply, printable
from flash_call_relay.settings import Settings

JITTER = (0.8, 1.2)
MAX_RETRY_AFTER_S = 900

# Reasons that speak against the endpoint as a whole; the gate counts them.
ENDPOINT_FAILURES = frozenset(
    {
        Reason.UNCONFIRMED,
        Reason.ENDPOINT_MISCONFIGURED,
        Reason.ENDPOINT_ERROR,
        Reason.TIMEOUT,
        Reason.CONNECTION_FAILED,
        Reason.TLS_FAILED,
        Reason.BAD_REPLY,
    }
)
# What only an API that has accepted the credentials says of a result. None: it confirms it.
CREDENTIALS_ACCEPTED = frozenset({None, Reason.CONTRADICTED, Reason.REJECTED, Reason.UNKNOWN_CALL})


def judge(settings: Settings, result: FlashCallResult, answer: models.Answer) -> Reason | None:  # noqa: PLR0911 - a table
    """Return what stands against the delivery; None confirms it."""
    if not isinstance(answer, Reply):
        return answer.reason
    match answer.http_status, answer.json_object is not None:
        case status, is_object if 200 <= status < 300:
            if settings.confirmation == "http-status":
                return None
            return _contradiction(result, answer) if is_object else Reason.UNCONFIRMED
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


def decide(settings: Settings, record: Record, finding: models.Finding | None, *, now: float, jitter: float) -> Outcome:
    """Decide what becomes of a record.

    Args:
        settings: the numbers that decisions rest on.
        record: what was handed to the relay.
        finding: what is known of its result; None for a record that is no result.
        now: the time in seconds since the epoch.
        jitter: a random factor from the range `JITTER`.
    """
    result = record.content
    if isinstance(result, models.NoResult):
        return Parked(Reason.INVALID_EVENT, printable(result.fault))
    if finding is None:
        raise TypeError("a result needs a finding")
    if isinstance(finding, models.Confirmed):
        return _repeated(result, finding)
    http_status, retry_after, detail = None, None, ""
    if isinstance(finding, Reply):
        http_status, retry_after = finding.http_status, finding.retry_after
        detail = printable(f"HTTP {finding.http_status} {finding.message}")
    else:
        detail = printable(finding.detail)
    reason, age_s = judge(settings, result, finding), age(record, now)
    if reason is None:
        return models.Delivered(http_status or 200)
    if reason is Reason.REJECTED or (reason is Reason.UNKNOWN_CALL and age_s >= settings.unknown_call_grace_seconds):
        return Parked(reason, detail, http_status)
    if age_s >= settings.retry_horizon_seconds:
        last = printable(f"gave up at the age of {age_s:.0f} s; at last {reason}: {detail}")
        return Parked(Reason.RETRIES_EXHAUSTED, last, http_status)
    delay_s = schedule_s(settings, record.receive_count, age_s, jitter)
    if reason in (Reason.THROTTLED, Reason.ENDPOINT_ERROR):
        delay_s = max(delay_s, retry_after_s(retry_after, now))
    return Deferred(reason, detail, delay_s, http_status)


def _contradiction(result: FlashCallResult, reply: Reply) -> Reason | None:
    said = reply.json_object or {}
    uuid, status = said.get("uuid", result.uuid), said.get("status", result.status)
    # Beyond ASCII there are other characters that are one of its letters in lower case: the Kelvin sign is no k here.
    other_uuid = isinstance(uuid, str) and not (uuid.isascii() and uuid.lower() == result.uuid.lower())
    other_status = isinstance(status, str) and status.casefold() == models.OTHER[result.status].casefold()
    return Reason.CONTRADICTED if other_uuid or other_status else None


def _repeated(result: FlashCallResult, confirmed: models.Confirmed) -> Outcome:
    if confirmed.status == result.status:
        return models.Duplicate()
    at = datetime.fromtimestamp(confirmed.at, UTC).isoformat(timespec="seconds")
    detail = f"{confirmed.status} was confirmed at {at}, and this one says {result.status}"
    return Parked(Reason.CONFLICTING_STATUS, detail)


def schedule_s(settings: Settings, receive_count: int, age_s: float, jitter: float) -> int:
    """Return the delay after the n-th receive in whole seconds: min(cap, base * 2^(n-1)) * jitter, rounded up.

    The cap is lower while the result is fresh: comparable report APIs count a result that comes after 5 to 60 minutes
    as failed.
    """
    cap_s = settings.retry_cap_seconds
    if age_s < settings.fresh_seconds:
        cap_s = min(cap_s, settings.fresh_retry_cap_seconds)
    doubled = settings.retry_base_seconds << min(receive_count - 1, 30)
    return math.ceil(min(cap_s, doubled) * jitter)


def retry_after_s(value: str | None, now: float) -> int:
    """Return what a `Retry-After` header asks for: 0 to 900 whole seconds, 0 where it says nothing sensible."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:10]), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0, min(math.ceil(moment.timestamp() - now), MAX_RETRY_AFTER_S))
    except (ValueError, TypeError, OverflowError):
        return 0


def earliest_exhaustion_s(settings: Settings) -> int:
    """Return the age in seconds below which SQS can't have used up `MaxReceiveCount`, whatever happens to the receives.

    After the n-th receive a message comes back after the schedule's shortest delay; or, where it was not hidden (the
    call failed, the function was killed or throttled), after the queue's visibility time-out. No delay gets shorter
    with the age, so the shortest delay each time leads to the earliest end.
    """
    age_s = 0
    for receive in range(1, settings.max_receive_count):
        delay_s = schedule_s(settings, receive, age_s, JITTER[0])
        age_s += min(delay_s, settings.visibility_timeout_seconds)
    return age_s


def age(record: Record, now: float) -> float:
    """Return the record's age in seconds, never below 0: clocks differ."""
    return max(0.0, now - record.sent_at)
