"""What the relay emits: gathered from telemetry's real output over every kind of outcome, so that it can't drift."""

import contextlib
import io
import json
import logging
from functools import cache
from typing import Any

from flash_call_relay import policy, telemetry
from flash_call_relay.models import (
    OTHER,
    Confirmed,
    Finding,
    FlashCallResult,
    NoReply,
    NoResult,
    Reason,
    Record,
    Reply,
    Settled,
)
from tests.support import emf
from tests.support.relay import webhook_settings

SETTINGS = webhook_settings("https://example.com/")
PARKED_ONLY = {Reason.INVALID_EVENT, Reason.REJECTED, Reason.CONFLICTING_STATUS, Reason.RETRIES_EXHAUSTED}
AGES_S = (1.0, SETTINGS.unknown_call_grace_seconds, SETTINGS.retry_horizon_seconds)


def emitted_metrics() -> dict[str, str]:
    """Return the unit of each metric, by name."""
    return {metric.name: metric.unit for metric in _metrics()}


def emitted_dimensions() -> dict[str, set[tuple[str, ...]]]:
    """Return the sets of dimensions that each metric comes with, by its name."""
    dimensions: dict[str, set[tuple[str, ...]]] = {}
    for metric in _metrics():
        dimensions.setdefault(metric.name, set()).add(tuple(metric.dimensions))
    return dimensions


def emitted_reasons() -> dict[str, set[str]]:
    """Return the values of the dimension `reason` that each metric comes with, by its name."""
    reasons: dict[str, set[str]] = {}
    for metric in _metrics():
        if "reason" in metric.dimensions:
            reasons.setdefault(metric.name, set()).add(metric.dimensions["reason"])
    return reasons


def emitted_fields() -> set[str]:
    """Return the names of all fields of log lines (not those of the blobs that carry the metrics)."""
    return {field for line in emitted_lines() for field in line}


def emitted_lines() -> list[dict[str, Any]]:
    """Return one log line of each kind, at least."""
    return _output()[0]


def _metrics() -> list[emf.Metric]:
    return _output()[1]


@cache
def _output() -> tuple[list[dict[str, Any]], list[emf.Metric]]:
    log, printed = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as restoring:
        restoring.enter_context(contextlib.redirect_stdout(printed))
        for handler in telemetry.logger.handlers:
            assert isinstance(handler, logging.StreamHandler)
            restoring.callback(handler.setStream, handler.setStream(log))
        telemetry.log_start(webhook_settings("https://example.com/", max_receive_count=2))
        batch = telemetry.Batch("00000000-0000-4000-8000-000000000000")
        batch.log_outcomes(every_outcome())
        batch.log_news(["endpoint.failing", "endpoint.recovered", "credentials.rejected", "credentials.accepted"])
        batch.log_ledger(["read: TimeoutError"], ["uuid"])
        batch.close({"message": "park: AccessDenied"}, failing=True, late_after_s=SETTINGS.fresh_seconds)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return lines, [metric for line in printed.getvalue().splitlines() for metric in emf.read(json.loads(line))]


def every_outcome() -> list[Settled]:
    """Return what policy makes of every finding, for a result of either status, at every age that matters."""
    settled = [_settle(NoResult("no uuid"), None, 1.0, None)]
    for status in OTHER.values():
        result = FlashCallResult("uuid", status)
        answers = [Reply(code, {}, duration_ms=1.0) for code in (200, 400, 401, 404, 429, 500)]
        others: list[Finding] = [Confirmed(status, at=0.0), Confirmed(OTHER[status], at=0.0)]
        others += [NoReply(reason, "why") for reason in Reason if reason not in PARKED_ONLY]
        for age_s in AGES_S:
            settled += [_settle(result, answer, age_s, answer.duration_ms) for answer in answers]
            settled += [_settle(result, finding, age_s, None) for finding in others]
    return settled


def _settle(
    content: FlashCallResult | NoResult, finding: Finding | None, age_s: float, duration_ms: float | None
) -> Settled:
    record = Record("message", "handle", "{}", 0.0, 1, content)
    return Settled(record, policy.decide(SETTINGS, record, finding, now=age_s, jitter=1.0), age_s, duration_ms)
