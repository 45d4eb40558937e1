"""Outcomes into log lines, from the main thread as they come in. Nothing that fails here changes an outcome."""

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from aws_lambda_powertools import Logger

from flash_call_relay.models import Deferred, FlashCallResult, Parked, Settled

# Lambda's log level sets the root logger, and at DEBUG botocore logs the whole reply of GetSecretValue. Cut off from
# the root, these have no way out below WARNING, whatever level their children have.
for _name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)
    logging.getLogger(_name).propagate = False

logger = Logger(service="flash-call-relay", location=None)


def log_outcome(settled: Settled) -> None:
    """Log what became of one record."""
    with contextlib.suppress(Exception):
        record, outcome, content = settled.record, settled.outcome, settled.record.content
        name = type(outcome).__name__.lower()
        result = content if isinstance(content, FlashCallResult) else None
        fields = {
            "uuid": result and result.uuid,
            "status": result and result.status,
            "outcome": name,
            **{key: getattr(outcome, key, None) for key in ("reason", "detail", "http_status", "retry_in_s")},
            "receive_count": record.receive_count,
            "duration_ms": settled.duration_ms and round(settled.duration_ms, 1),
            "age_s": round(settled.age_s, 1),
            "message_id": record.message_id,
        }
        log = {Deferred: logger.warning, Parked: logger.error}.get(type(outcome), logger.info)
        log(f"result.{name}", extra={key: value for key, value in fields.items() if value is not None})


def log_batch(settled: Sequence[Settled], failures: Mapping[str, str]) -> None:
    """Log what SQS did not do, by message id, and the batch's counts."""
    with contextlib.suppress(Exception):
        for message_id, failure in failures.items():
            logger.error("settle.failed", extra={"message_id": message_id, "detail": failure})
        counts = Counter(type(s.outcome).__name__.lower() for s in settled)
        logger.info("batch.settled", extra={"records": len(settled), **counts})
