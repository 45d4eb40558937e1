"""The metrics and log lines that the relay emits, from telemetry's real output over every kind of outcome."""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flash_call_relay import models, policy, telemetry
from flash_call_relay.models import OTHER, Judgement, Processed, Reason
from tests.support.template import default_settings

SETTINGS = default_settings()
MAX_VALUES = 100  # of a metric in a blob
AGES_S = (1.0, SETTINGS.unknown_call_grace_seconds, SETTINGS.retry_horizon_seconds)


@dataclass(frozen=True)
class EmfMetric:
    """One metric of one blob."""

    namespace: str
    name: str
    unit: str
    dimensions: dict[str, str]
    values: list[float]


def read_emf(blob: dict[str, Any]) -> list[EmfMetric]:
    """Return a blob's metrics by the specification of EMF; AssertionError: CloudWatch would drop a part of them.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    assert type(blob["_aws"]["Timestamp"]) is int
    metrics = []
    for directive in blob["_aws"]["CloudWatchMetrics"]:
        for keys in directive["Dimensions"]:
            dimensions = {key: blob[key] for key in keys}
            assert all(isinstance(value, str) and value for value in dimensions.values())
            for definition in directive["Metrics"]:
                name, found = definition["Name"], blob[definition["Name"]]
                values = found if isinstance(found, list) else [found]
                assert 1 <= len(values) <= MAX_VALUES, f"{len(values)} values of {name}"
                assert all(type(value) in (int, float) for value in values)
                metrics.append(EmfMetric(directive["Namespace"], name, definition["Unit"], dimensions, values))
    return metrics


def emitted_metrics() -> dict[str, str]:
    """Return the unit of each metric, by name."""
    return {metric.name: metric.unit for metric in emitted()[1]}


def emitted_fields() -> set[str]:
    """Return the names of all fields of log lines, without the EMF blobs."""
    return {field for line in emitted()[0] for field in line}


@cache
def emitted() -> tuple[list[dict[str, Any]], list[EmfMetric]]:
    """Return at least one log line of each kind, and each metric with each set of dimensions."""
    log, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        for handler in telemetry.logger.handlers:
            patch.setattr(handler, "stream", log)
        telemetry.logger.append_keys(function_request_id="00000000-0000-4000-8000-000000000000")
        outcomes = list(_every_outcome())
        for outcome in outcomes:
            telemetry.log_outcome(outcome)
        for source in Path(telemetry.__file__).parent.glob("*.py"):
            for event in re.findall(r'report\("([\w.]+)"', source.read_text()):
                telemetry.report(event, uuid="uuid", detail="why")
        telemetry.log_settled(outcomes, {"message": "park: AccessDenied"})
        telemetry.emit_metrics(outcomes, failing=True, throttling=True, late_after_s=SETTINGS.fresh_seconds)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return lines, [metric for line in printed.getvalue().splitlines() for metric in read_emf(json.loads(line))]


def _every_outcome() -> Iterator[Processed]:
    """Yield a record for each outcome and reason, at each age that the policy distinguishes."""
    result, invalid = models.FlashCallResult("uuid", "Success"), models.NoResult("no uuid")
    record = models.Record("message", "handle", "{}", 0.0, 1, result)
    parked = models.Parked(Reason.INVALID_EVENT, invalid.fault)
    yield Processed(replace(record, content=invalid), parked, 1.0)
    findings: list[Judgement | models.Confirmed] = [models.Confirmed(status, at=0.0) for status in OTHER.values()]
    findings += [policy.judge(SETTINGS, result, models.Reply(code, {}, duration_ms=1.0)) for code in (200, 400)]
    findings += [Judgement(reason, "why") for reason in Reason if not reason.parks or reason is Reason.UNKNOWN_CALL]
    for age_s in AGES_S:
        for finding in findings:
            outcome = policy.decide(SETTINGS, record, result, finding, now=age_s, jitter=1.0)
            yield Processed(record, outcome, age_s, finding.duration_ms if isinstance(finding, Judgement) else None)
