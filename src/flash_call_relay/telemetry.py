"""Write what happens as log lines, where it happens, and as metrics at the end of an invocation.

A failure here changes no outcome, and costs no other line or metric.
"""

import contextlib
import functools
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from flash_call_relay import models
from flash_call_relay.models import Deferred, Delivered, Parked, Processed, Reason

NAMESPACE = "FlashCallRelay"
SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME", "flash-call-relay")
MAX_VALUES = 100  # of one metric in one EMF document, by its specification

# Lambda's log level sets the root logger. At DEBUG, botocore logs the whole reply of GetSecretValue. At WARNING,
# urllib3 logs headers of a reply, which may echo the credentials. So these loggers do not reach the root.
for _name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)
    logging.getLogger(_name).propagate = False

_json = functools.partial(json.dumps, default=str, separators=(",", ":"))
logger = Logger(
    service=SERVICE,
    location=None,
    utc=True,
    xray_trace_id=None,  # nothing is traced, and the id would be an eighth of a line
    use_rfc3339=True,  # Lambda reads a line's level only with this timestamp
    json_serializer=_json,
    json_deserializer=str,  # messages are names and not JSON
)
_LEVELS = {  # other events are errors
    "attempt.ended": logger.debug,
    "endpoint.throttling": logger.warning,
    **dict.fromkeys(("endpoint.recovered", "endpoint.throttling_ended"), logger.info),
    **dict.fromkeys(("probe.answered", "batch.settled"), logger.info),
}
_emf = EphemeralMetrics(namespace=NAMESPACE)
_reported: list[str] = []  # the events since the last metrics, of an invocation that failed, too


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Log an exception instead of raising it, without its traceback, which could quote a result or a credential."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - logging must never cost a result
        with contextlib.suppress(Exception):
            logger.error("telemetry.failed", extra={"detail": type(error).__name__})  # noqa: TRY400


@_harmless()
def report(event: str, /, **fields: object) -> None:
    """Log an event that is no outcome, and count it for the metrics. Any thread may call it."""
    _reported.append(event)
    _LEVELS.get(event, logger.error)(event, extra=fields)


@_harmless()
def log_outcome(processed: Processed) -> None:
    """Log a record's outcome."""
    log = {Deferred: logger.warning, Parked: logger.error}.get(type(processed.outcome), logger.info)
    log(f"result.{processed.name}", extra=processed.fields())


def log_settled(processed: Sequence[Processed], failures: Mapping[str, str]) -> None:
    """Log what SQS did not do, by message id, and the counts of the batch."""
    for message_id, failure in failures.items():
        report("settle.failed", message_id=message_id, detail=failure)
    report("batch.settled", records=len(processed), **Counter(one.name for one in processed))


@_harmless()
def emit_metrics(processed: Sequence[Processed], *, failing: bool, throttling: bool, late_after_s: float) -> None:
    """Write the metrics of an invocation.

    `failing` and `throttling` say what the endpoint does by now. From the age `late_after_s`, in seconds, a
    confirmation is late; 0: none is.
    """
    events = Counter(_reported)
    del _reported[: events.total()]  # a lane may report another one meanwhile
    undelivered = [one.outcome for one in processed if isinstance(one.outcome, Deferred | Parked)]
    reasons = Counter((one.reason, f"Results{type(one).__name__}") for one in undelivered)
    for (reason, name), count in reasons.items():
        _emit({name: (MetricUnit.Count, [count])}, reason=reason)
    kinds = Counter(type(one.outcome) for one in processed)
    delivered = [one for one in processed if isinstance(one.outcome, Delivered)]
    calls = Counter(getattr(one.record.content, "status", None) for one in delivered)
    deferred = [(one.age_s, one.outcome) for one in processed if isinstance(one.outcome, Deferred)]
    # A call that the endpoint does not know yet waits by design.
    pending = [age_s for age_s, outcome in deferred if outcome.reason is not Reason.UNKNOWN_CALL]
    statuses = {outcome.http_status for _, outcome in deferred}
    confirmed = [round(one.age_s, 1) for one in delivered]
    latencies = [round(one.duration_ms, 1) for one in processed if one.duration_ms is not None]
    counts = {
        "ResultsReceived": len(processed),
        "ResultsDelivered": kinds[Delivered],
        "ResultsDeferred": kinds[Deferred],
        "ResultsParked": kinds[Parked],
        "DuplicateResults": kinds[models.Duplicate],
        "ConflictingResults": reasons[Reason.CONFLICTING_STATUS, "ResultsParked"] + events["ledger.conflict"],
        "CredentialsRejected": reasons[Reason.CREDENTIALS_REJECTED, "ResultsDeferred"],
        "EndpointFailing": int(failing or reasons[Reason.ENDPOINT_FAILING, "ResultsDeferred"] > 0),
        "Throttled": int(throttling or 429 in statuses),
        "LedgerErrors": int(events["ledger.failed"] > 0),
        "ConfirmedLate": sum(age_s >= late_after_s > 0 for age_s in confirmed),
        "OutcomeEventsFailed": events["outcome_event.failed"],
        "CallsVerified": calls["Success"],
        "CallsFailed": calls["Failed"],
    }
    values = {
        "OldestPendingAge": (MetricUnit.Seconds, [round(max(pending, default=0.0), 1)]),
        "ConfirmationAge": (MetricUnit.Seconds, confirmed),
        "PostLatency": (MetricUnit.Milliseconds, latencies),
    }
    _emit({**{name: (MetricUnit.Count, [count]) for name, count in counts.items()}, **values})


@_harmless()
def _emit(metrics: Mapping[str, tuple[MetricUnit, Sequence[float]]], **dimensions: str) -> None:
    """Write metrics as EMF documents; a metric with more than 100 values takes more than one."""
    for start in range(0, max(len(values) for _, values in metrics.values()), MAX_VALUES):
        part = {
            name: {"Unit": unit.value, "Value": values[start : start + MAX_VALUES]}
            for name, (unit, values) in metrics.items()
            if values[start:]
        }
        # `add_metric` would render all values of a metric again for each value: 35 µs a record.
        sys.stdout.write(_json(_emf.serialize_metric_set(part, {"service": SERVICE, **dimensions})) + "\n")
