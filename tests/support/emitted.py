"""The metrics and log lines that the relay emits, from telemetry's real output over every kind of outcome."""

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
    FlashCallResult,
    GateEvent,
    Judgement,
    NoResult,
    Processed,
    Reason,
    Record,
    Reply,
)
from tests.support import emf
from tests.support.template import default_settings

SETTINGS = default_settings()
AGES_S = (1.0, SETTINGS.unknown_call_grace_seconds, SETTINGS.retry_horizon_seconds)


def emitted_metrics() -> dict[str, str]:
    """Return the unit of each metric, by name."""
    return {metric.name: metric.unit for metric in _metrics()}


def emitted_dimensions() -> dict[str, set[tuple[str, ...]]]:
    """Return the sets of dimensions of each metric, by its name."""
    dimensions: dict[str, set[tuple[str, ...]]] = {}
    for metric in _metrics():
        dimensions.setdefault(metric.name, set()).add(tuple(metric.dimensions))
    return dimensions


def emitted_reasons() -> dict[str, set[str]]:
    """Return the values of the dimension `reason` of each metric, by its name."""
    reasons: dict[str, set[str]] = {}
    for metric in _metrics():
        if "reason" in metric.dimensions:
            reasons.setdefault(metric.name, set()).add(metric.dimensions["reason"])
    return reasons


def emitted_fields() -> set[str]:
    """Return the names of all fields of log lines, without the EMF blobs."""
    return {field for line in emitted_lines() for field in line}


def emitted_lines() -> list[dict[str, Any]]:
    """Return at least one log line of each kind."""
    return _output()[0]


def _metrics() -> list[emf.EmfMetric]:
    return _output()[1]


@cache
def _output() -> tuple[list[dict[str, Any]], list[emf.EmfMetric]]:
    log, printed = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as restoring:
        restoring.enter_context(contextlib.redirect_stdout(printed))
        for handler in telemetry.logger.handlers:
            assert isinstance(handler, logging.StreamHandler)
            restoring.callback(handler.setStream, handler.setStream(log))
        telemetry.warn_if_receives_run_out(default_settings(MAX_RECEIVE_COUNT="2"))
        invocation = telemetry.Invocation("00000000-0000-4000-8000-000000000000")
        for outcome in every_outcome():
            invocation.log_outcome(outcome)
        invocation.log_gate(list(GateEvent))
        invocation.log_ledger(["read: TimeoutError"], ["uuid"])
        invocation.log_secret("Secrets Manager answers AccessDeniedException")
        invocation.close(
            {"message": "park: AccessDenied"}, failing=True, throttling=True, late_after_s=SETTINGS.fresh_seconds
        )
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return lines, [metric for line in printed.getvalue().splitlines() for metric in emf.read(json.loads(line))]


def every_outcome() -> list[Processed]:
    """Return a record for each outcome and reason, for both statuses and at each age that the policy distinguishes."""
    invalid = NoResult("no uuid")
    processed = [Processed(_record(invalid), policy.park_invalid(invalid), 1.0)]
    for status in OTHER.values():
        result = FlashCallResult("uuid", status)
        replies = [Reply(code, {}, duration_ms=1.0) for code in (200, 400, 401, 404, 429, 500)]
        findings: list[Judgement | Confirmed] = [policy.judge(SETTINGS, result, reply) for reply in replies]
        findings += [Confirmed(status, at=0.0), Confirmed(OTHER[status], at=0.0)]
        findings += [Judgement(reason, "why") for reason in Reason if not reason.parks or reason is Reason.UNKNOWN_CALL]
        processed += [_decided(result, finding, age_s) for age_s in AGES_S for finding in findings]
    return processed


def _decided(result: FlashCallResult, finding: Judgement | Confirmed, age_s: float) -> Processed:
    record = _record(result)
    outcome = policy.decide(SETTINGS, record, result, finding, now=age_s, jitter=1.0)
    return Processed(record, outcome, age_s, finding.duration_ms if isinstance(finding, Judgement) else None)


def _record(content: FlashCallResult | NoResult) -> Record:
    return Record("message", "handle", "{}", 0.0, 1, content)
