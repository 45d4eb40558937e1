"""Outcomes into log lines, from the main thread as they come in. Nothing that fails here changes an outcome."""

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from aws_lambda_powertools import Logger, single_metric
from aws_lambda_powertools.metrics import MetricUnit

from flash_call_relay import policy
from flash_call_relay.models import Deferred, FlashCallResult, Parked, Reason, Settled
from flash_call_relay.settings import Settings

NAMESPACE = "FlashCallRelay"
SERVICE = "flash-call-relay"

# Lambda's log level sets the root logger, and at DEBUG botocore logs the whole reply of GetSecretValue. Cut off from
# the root, these have no way out below WARNING, whatever level their children have.
for _name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)
    logging.getLogger(_name).propagate = False

logger = Logger(service=SERVICE, location=None, use_rfc3339=True)  # the one timestamp that Lambda takes a level with


def log_outcomes(settled: Sequence[Settled]) -> None:
    """Log what became of records, a line each."""
    with contextlib.suppress(Exception):
        for one in settled:
            name = type(one.outcome).__name__.lower()
            log = {Deferred: logger.warning, Parked: logger.error}.get(type(one.outcome), logger.info)
            log(f"result.{name}", extra={key: value for key, value in _fields(one, name).items() if value is not None})


def _fields(settled: Settled, name: str) -> dict[str, object]:
    record, outcome, content = settled.record, settled.outcome, settled.record.content
    result = content if isinstance(content, FlashCallResult) else None
    return {
        "uuid": result and result.uuid,
        "status": result and result.status,
        "outcome": name,
        **{key: getattr(outcome, key, None) for key in ("reason", "detail", "http_status", "retry_in_s")},
        "receive_count": record.receive_count,
        "duration_ms": settled.duration_ms and round(settled.duration_ms, 1),
        "age_s": round(settled.age_s, 1),
        "message_id": record.message_id,
    }


def log_start(settings: Settings) -> None:
    """Warn of a schedule with which SQS may give a result up before the relay does."""
    with contextlib.suppress(Exception):
        earliest_s = policy.earliest_exhaustion_s(settings)
        if earliest_s < settings.retry_horizon_seconds:
            fields = {"exhausted_after_s": earliest_s, "retry_horizon_s": settings.retry_horizon_seconds}
            logger.warning("settings.receives_run_out_before_the_horizon", extra=fields)


def log_news(news: Sequence[str]) -> None:
    """Log and count what has changed at the gate."""
    with contextlib.suppress(Exception):
        for event in news:
            log = logger.info if event in ("endpoint.recovered", "credentials.accepted") else logger.error
            log(event)
            if event.startswith("endpoint."):
                _count("EndpointFailing", event == "endpoint.failing")


def log_ledger(faults: Sequence[str], clashes: Sequence[str]) -> None:
    """Log and count what went wrong with the ledger, and calls that were confirmed with both statuses."""
    with contextlib.suppress(Exception):
        for fault in faults:
            logger.error("ledger.failed", extra={"detail": fault})
        for uuid in clashes:
            logger.error("ledger.conflict", extra={"uuid": uuid})
        if faults:
            _count("LedgerErrors", len(faults))
        if clashes:
            _count("ConflictingResults", len(clashes))


def log_batch(settled: Sequence[Settled], failures: Mapping[str, str]) -> None:
    """Log what SQS did not do, by message id, and the batch's counts."""
    with contextlib.suppress(Exception):
        for message_id, failure in failures.items():
            logger.error("settle.failed", extra={"message_id": message_id, "detail": failure})
        counts = Counter(type(s.outcome).__name__.lower() for s in settled)
        logger.info("batch.settled", extra={"records": len(settled), **counts})
        reasons = Counter(getattr(s.outcome, "reason", None) for s in settled)
        if refused := reasons[Reason.CREDENTIALS_REJECTED]:
            _count("CredentialsRejected", refused)
        if reasons[Reason.ENDPOINT_FAILING]:
            _count("EndpointFailing", 1)


def _count(name: str, value: int) -> None:
    with single_metric(name, MetricUnit.Count, value, namespace=NAMESPACE, default_dimensions={"service": SERVICE}):
        pass
