"""Write outcomes as log lines while they arrive, and as metrics at the end of an invocation. Main thread only.

A failure here changes no outcome, and costs no other line or metric.
"""

import contextlib
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging import formatter
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from flash_call_relay import policy
from flash_call_relay.models import (
    Deferred,
    Delivered,
    Duplicate,
    FlashCallResult,
    GateEvent,
    Parked,
    Processed,
    Reason,
)
from flash_call_relay.settings import Settings

NAMESPACE = "FlashCallRelay"
SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME", "flash-call-relay")
MAX_VALUES = 100  # of one metric in one EMF document, by its specification

Metrics = Mapping[str, tuple[MetricUnit, Sequence[float]]]

# Lambda's log level sets the root logger, and at DEBUG botocore logs the whole reply of GetSecretValue. These loggers
# do not reach the root, so nothing below WARNING gets out, whatever level their children have.
for _name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)
    logging.getLogger(_name).propagate = False

# The lines show neither caller nor thread nor process, so logging need not look them up: a tenth of a line's CPU
# (docs.python.org/3/howto/logging.html#optimization).
logging._srcfile = None  # noqa: SLF001
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False

# For each field of a line Powertools searches a tuple of 24 names: a quarter of a line's CPU.
formatter.RESERVED_LOG_ATTRS = frozenset(formatter.RESERVED_LOG_ATTRS)  # type: ignore[assignment]

logger = Logger(
    service=SERVICE,
    location=None,
    utc=True,
    xray_trace_id=None,  # nothing is traced, and the id would be an eighth of a line
    use_rfc3339=True,  # Lambda reads a line's level only with this timestamp
    # json.dumps would make an encoder for each line.
    json_serializer=json.JSONEncoder(default=str, separators=(",", ":")).encode,
    json_deserializer=str,  # messages are names and not JSON
)
_emf = EphemeralMetrics(namespace=NAMESPACE)


class _Harmless:
    """A context that logs an exception instead of raising it: logging must never cost a result."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        """Suppress an exception; a traceback of it could quote a result or a credential."""
        if not isinstance(error, Exception):
            return False
        with contextlib.suppress(Exception):
            logger.error("telemetry.failed", extra={"detail": type(error).__name__})
        return True


_harmless = _Harmless()


def warn_if_receives_run_out(settings: Settings) -> None:
    """Warn if SQS may dead-letter a result before the retry horizon."""
    with _harmless:
        earliest_s = policy.earliest_exhaustion_s(settings)
        if earliest_s < settings.retry_horizon_seconds:
            fields = {"exhausted_after_s": earliest_s, "retry_horizon_s": settings.retry_horizon_seconds}
            logger.warning("settings.receives_run_out_before_the_horizon", extra=fields)


class Invocation:
    """The log lines and metrics of one invocation."""

    def __init__(self, request_id: str) -> None:
        """Put the invocation's id on every line that follows."""
        logger.append_keys(function_request_id=request_id)
        self._processed: list[Processed] = []
        self._faults = self._clashes = self._unpublished = 0

    def log_outcomes(self, processed: Sequence[Processed]) -> None:
        """Log each record's outcome, a line each."""
        self._processed += processed
        for one in processed:
            with _harmless:
                log = {Deferred: logger.warning, Parked: logger.error}.get(type(one.outcome), logger.info)
                log(f"result.{one.name}", extra=one.fields())

    def log_probe(self, call: str, answer: Mapping[str, object]) -> None:
        """Log the answer to a probe, in one field, because queries count lines by the fields of a result."""
        with _harmless:
            logger.info("probe.answered", extra={"probe": call, "answer": answer})

    def log_gate(self, events: Sequence[GateEvent]) -> None:
        """Log the gate's changes."""
        for event in events:
            with _harmless:
                log = logger.info if event.is_recovery else logger.error
                log(str(event))

    def log_ledger(self, faults: Sequence[str], clashes: Sequence[str]) -> None:
        """Log the ledger's failures, and the calls that were confirmed with both statuses."""
        self._faults, self._clashes = len(faults), len(clashes)
        with _harmless:
            for fault in faults:
                logger.error("ledger.failed", extra={"detail": fault})
            for uuid in clashes:
                logger.error("ledger.conflict", extra={"uuid": uuid})

    def log_unpublished(self, unpublished: Sequence[tuple[Processed, str]]) -> None:
        """Log the events that the outcome bus did not take, a line each, with the reason."""
        self._unpublished = len(unpublished)
        for one, code in unpublished:
            with _harmless:
                # No `outcome` and no `duration_ms`: queries count outcomes and attempts by these.
                named = {
                    name: value for name, value in one.fields().items() if name in ("uuid", "status", "message_id")
                }
                event = {"event": one.name, "detail": f"PutEvents: {code}"}
                logger.error("outcome_event.failed", extra={**named, **event})

    def close(self, failures: Mapping[str, str], *, failing: bool, late_after_s: float) -> None:
        """Log the calls that SQS did not carry out and the batch's counts; emit the metrics.

        Args:
            failures: requests that SQS did not carry out, by message id.
            failing: whether the endpoint is failing by now.
            late_after_s: age in seconds from which a confirmation is late; 0: none is.
        """
        with _harmless:
            for message_id, failure in failures.items():
                logger.error("settle.failed", extra={"message_id": message_id, "detail": failure})
            counts = Counter(one.name for one in self._processed)
            logger.info("batch.settled", extra={"records": len(self._processed), **counts})
        with _harmless:
            _emit(self._metrics(failing=failing, late_after_s=late_after_s))
        with _harmless:
            for (reason, name), count in self._by_reason().items():
                with _harmless:
                    _emit(_counts(**{name: count}), reason=reason)

    def _metrics(self, *, failing: bool, late_after_s: float) -> Metrics:
        kinds, reasons = Counter(type(one.outcome) for one in self._processed), self._by_reason()
        delivered = [one for one in self._processed if isinstance(one.outcome, Delivered)]
        contents = (one.record.content for one in delivered)
        calls = Counter(content.status for content in contents if isinstance(content, FlashCallResult))
        # A call that the endpoint does not know yet waits by design.
        pending = [
            one.age_s
            for one in self._processed
            if isinstance(one.outcome, Deferred) and one.outcome.reason is not Reason.UNKNOWN_CALL
        ]
        confirmed = [round(one.age_s, 1) for one in delivered]
        attempts = [round(one.duration_ms, 1) for one in self._processed if one.duration_ms is not None]
        return {
            **_counts(
                ResultsReceived=len(self._processed),
                ResultsDelivered=kinds[Delivered],
                ResultsDeferred=kinds[Deferred],
                ResultsParked=kinds[Parked],
                DuplicateResults=kinds[Duplicate],
                ConflictingResults=reasons[Reason.CONFLICTING_STATUS, "ResultsParked"] + self._clashes,
                CredentialsRejected=reasons[Reason.CREDENTIALS_REJECTED, "ResultsDeferred"],
                EndpointFailing=int(failing or reasons[Reason.ENDPOINT_FAILING, "ResultsDeferred"] > 0),
                LedgerErrors=int(self._faults > 0),
                ConfirmedLate=sum(age_s >= late_after_s > 0 for age_s in confirmed),
                OutcomeEventsFailed=self._unpublished,
                CallsVerified=calls["Success"],
                CallsFailed=calls["Failed"],
            ),
            "OldestPendingAge": (MetricUnit.Seconds, [round(max(pending, default=0.0), 1)]),
            "ConfirmationAge": (MetricUnit.Seconds, confirmed),
            "PostLatency": (MetricUnit.Milliseconds, attempts),
        }

    def _by_reason(self) -> Counter[tuple[Reason, str]]:
        names = {Deferred: "ResultsDeferred", Parked: "ResultsParked"}
        open_ones = (one.outcome for one in self._processed if isinstance(one.outcome, Deferred | Parked))
        return Counter((outcome.reason, names[type(outcome)]) for outcome in open_ones)


def _counts(**counts: int) -> Metrics:
    return {name: (MetricUnit.Count, [count]) for name, count in counts.items()}


def _emit(metrics: Metrics, **dimensions: str) -> None:
    """Write metrics as EMF documents; a metric with more than 100 values takes more than one."""
    for start in range(0, max(len(values) for _, values in metrics.values()), MAX_VALUES):
        part = {
            name: {"Unit": unit.value, "Value": values[start : start + MAX_VALUES]}
            for name, (unit, values) in metrics.items()
            if values[start:]
        }
        # Not `add_metric`, which renders all values of a metric for each one that is added: 18 µs a record.
        blob = _emf.serialize_metric_set(part, {"service": SERVICE, **dimensions})
        sys.stdout.write(json.dumps(blob, separators=(",", ":")) + "\n")
