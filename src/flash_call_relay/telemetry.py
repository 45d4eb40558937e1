"""Write outcomes as log lines while they arrive, and as metrics at the end of an invocation.

Only `log_attempt` may be called outside the main thread. A failure here changes no outcome, and costs no other line or
metric.
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

from flash_call_relay import models, policy
from flash_call_relay.models import Deferred, Delivered, FlashCallResult, GateEvent, Parked, Processed, Reason
from flash_call_relay.settings import Settings

NAMESPACE = "FlashCallRelay"
SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME", "flash-call-relay")
RECOVERIES = {GateEvent.ENDPOINT_RECOVERED, GateEvent.ENDPOINT_THROTTLING_ENDED, GateEvent.CREDENTIALS_ACCEPTED}
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
_emf = EphemeralMetrics(namespace=NAMESPACE)


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Log an exception instead of raising it, without its traceback, which could quote a result or a credential."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - logging must never cost a result
        with contextlib.suppress(Exception):
            logger.error("telemetry.failed", extra={"detail": type(error).__name__})  # noqa: TRY400


@_harmless()
def warn_if_receives_run_out(settings: Settings) -> None:
    """Warn if SQS may dead-letter a result before the retry horizon."""
    earliest_s, horizon_s = policy.earliest_exhaustion_s(settings), settings.retry_horizon_seconds
    if earliest_s < horizon_s:
        fields = {"exhausted_after_s": earliest_s, "retry_horizon_s": horizon_s}
        logger.warning("settings.receives_run_out_before_the_horizon", extra=fields)


@_harmless()
def log_attempt(result: FlashCallResult, judgement: models.Judgement) -> None:
    """Log an attempt at the level DEBUG, in one field, because queries count attempts by the fields of an outcome."""
    attempt = {"reason": judgement.reason, "detail": judgement.detail, "duration_ms": judgement.duration_ms}
    logger.debug("attempt.ended", extra={"uuid": result.uuid, "status": result.status, "attempt": attempt})


@_harmless()
def log_probe(call: str, answer: Mapping[str, object]) -> None:
    """Log the answer to a probe, in one field, because queries count lines by the fields of a result."""
    logger.info("probe.answered", extra={"probe": call, "answer": answer})


class Invocation:
    """The log lines and metrics of one invocation."""

    def __init__(self, request_id: str) -> None:
        """Put the invocation's id on every line that follows."""
        logger.append_keys(function_request_id=request_id)
        self._processed: list[Processed] = []
        self._faults = self._clashes = self._unpublished = 0

    @_harmless()
    def log_outcome(self, processed: Processed) -> None:
        """Log a record's outcome."""
        self._processed.append(processed)
        log = {Deferred: logger.warning, Parked: logger.error}.get(type(processed.outcome), logger.info)
        log(f"result.{processed.name}", extra=processed.fields())

    @_harmless()
    def log_gate(self, events: Sequence[GateEvent]) -> None:
        """Log the gate's changes."""
        for event in events:
            log = logger.warning if event is GateEvent.ENDPOINT_THROTTLING else logger.error
            (logger.info if event in RECOVERIES else log)(str(event))

    @_harmless()
    def log_secret(self, fault: str) -> None:
        """Log that the secret has become unreadable, even while older credentials are still good; empty: it has not."""
        if fault:
            logger.error("credentials.unreadable", extra={"detail": fault})

    @_harmless()
    def log_ledger(self, faults: Sequence[str], clashes: Sequence[str]) -> None:
        """Log the ledger's failures, and the calls that were confirmed with both statuses."""
        self._faults, self._clashes = len(faults), len(clashes)
        for fault in faults:
            logger.error("ledger.failed", extra={"detail": fault})
        for uuid in clashes:
            logger.error("ledger.conflict", extra={"uuid": uuid})

    @_harmless()
    def log_unpublished(self, unpublished: Sequence[tuple[Processed, str]]) -> None:
        """Log the events that the outcome bus did not confirm, a line each, with the reason."""
        self._unpublished = len(unpublished)
        for one, code in unpublished:
            # No `outcome` and no `duration_ms`: queries count outcomes and attempts by these.
            named = {name: value for name, value in one.fields().items() if name in ("uuid", "status", "message_id")}
            logger.error("outcome_event.failed", extra={**named, "event": one.name, "detail": f"PutEvents: {code}"})

    def close(self, failures: Mapping[str, str], *, failing: bool, throttling: bool, late_after_s: float) -> None:
        """Log what SQS did not do, by message id, and the batch's counts; emit the metrics.

        `failing` and `throttling` say what the endpoint does by now. From the age `late_after_s`, in seconds, a
        confirmation is late; 0: none is.
        """
        self._log_settled(failures)
        self._emit_metrics(failing=failing, throttling=throttling, late_after_s=late_after_s)
        self._emit_reasons()

    @_harmless()
    def _log_settled(self, failures: Mapping[str, str]) -> None:
        for message_id, failure in failures.items():
            logger.error("settle.failed", extra={"message_id": message_id, "detail": failure})
        counts = Counter(one.name for one in self._processed)
        logger.info("batch.settled", extra={"records": len(self._processed), **counts})

    @_harmless()
    def _emit_metrics(self, *, failing: bool, throttling: bool, late_after_s: float) -> None:
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
        statuses = {one.outcome.http_status for one in self._processed if isinstance(one.outcome, Deferred)}
        confirmed = [round(one.age_s, 1) for one in delivered]
        counts = {
            "ResultsReceived": len(self._processed),
            "ResultsDelivered": kinds[Delivered],
            "ResultsDeferred": kinds[Deferred],
            "ResultsParked": kinds[Parked],
            "DuplicateResults": kinds[models.Duplicate],
            "ConflictingResults": reasons[Reason.CONFLICTING_STATUS, "ResultsParked"] + self._clashes,
            "CredentialsRejected": reasons[Reason.CREDENTIALS_REJECTED, "ResultsDeferred"],
            "EndpointFailing": int(failing or reasons[Reason.ENDPOINT_FAILING, "ResultsDeferred"] > 0),
            "Throttled": int(throttling or 429 in statuses),
            "LedgerErrors": int(self._faults > 0),
            "ConfirmedLate": sum(age_s >= late_after_s > 0 for age_s in confirmed),
            "OutcomeEventsFailed": self._unpublished,
            "CallsVerified": calls["Success"],
            "CallsFailed": calls["Failed"],
        }
        values = {
            "OldestPendingAge": (MetricUnit.Seconds, [round(max(pending, default=0.0), 1)]),
            "ConfirmationAge": (MetricUnit.Seconds, confirmed),
            "PostLatency": (
                MetricUnit.Milliseconds,
                [round(one.duration_ms, 1) for one in self._processed if one.duration_ms is not None],
            ),
        }
        _emit({**{name: (MetricUnit.Count, [count]) for name, count in counts.items()}, **values})

    @_harmless()
    def _emit_reasons(self) -> None:
        for (reason, name), count in self._by_reason().items():
            _emit({name: (MetricUnit.Count, [count])}, reason=reason)

    def _by_reason(self) -> Counter[tuple[Reason, str]]:
        names = {Deferred: "ResultsDeferred", Parked: "ResultsParked"}
        open_ones = (one.outcome for one in self._processed if isinstance(one.outcome, Deferred | Parked))
        return Counter((outcome.reason, names[type(outcome)]) for outcome in open_ones)


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
