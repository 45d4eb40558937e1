"""Lambda entry: wiring and the response. Nothing is decided here."""

import functools
import os
import time
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from flash_call_relay import budget, events, telemetry
from flash_call_relay.credentials import CredentialsStore
from flash_call_relay.delivery import Delivery
from flash_call_relay.gate import Gate
from flash_call_relay.ledger import Ledger
from flash_call_relay.queues import Queues
from flash_call_relay.settings import Settings
from flash_call_relay.webhook import Webhook

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def _bounded(call: budget.Call, **options: Any) -> Config:
    return Config(
        connect_timeout=call.connect,
        read_timeout=call.read,
        retries={"mode": "standard", "total_max_attempts": call.attempts},
        **options,
    )


AWS_CLIENTS = _bounded(budget.AWS_CALL)
DYNAMODB = _bounded(budget.LEDGER_CALL, parameter_validation=False)  # to check parameters costs a third of its CPU


class NotSettledError(RuntimeError):
    """An event given straight to the function is neither delivered nor on a queue, so Lambda has to try it again."""


@functools.cache
def wire() -> tuple[Settings, Delivery, Gate, Queues, Ledger | None]:
    """Wire the rooms from the environment's settings, once per execution environment."""
    settings = Settings.from_environment(os.environ)
    secrets = boto3.client("secretsmanager", config=AWS_CLIENTS)
    sqs = boto3.client("sqs", config=AWS_CLIENTS)
    credentials = CredentialsStore(secrets, settings.credentials_secret_arn)
    gate = Gate(settings.request_timeout_seconds)
    queues = Queues(sqs, settings.result_queue_url, settings.parked_queue_url)
    ledger = None
    if settings.ledger_table_name:
        ledger = Ledger(boto3.client("dynamodb", config=DYNAMODB), settings.ledger_table_name)
    telemetry.log_start(settings)
    return settings, Delivery(settings, credentials, gate, Webhook(settings)), gate, queues, ledger


def lambda_handler(event: object, context: "LambdaContext") -> dict[str, list[dict[str, str]]]:
    """Relay the results of an SQS batch or an EventBridge event; return the messages that must stay on the queue.

    Raises:
        UnsupportedEventError: if the event carries no results.
        NotSettledError: if an EventBridge event could be neither delivered nor put on a queue.
    """
    deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000
    batch = telemetry.Batch(context.aws_request_id)
    records = events.read(event, now=time.time())
    settings, delivery, gate, queues, ledger = wire()
    closed = delivery.closed()
    page = ledger and ledger.open(delivery.to_look_up(records, closed))
    kept: list[str] = []
    failures: dict[str, str] = {}
    for ready in delivery.deliver(records, page.confirmed if page else {}, closed, deadline=deadline):
        batch.log_outcomes(ready)
        batch.log_news(gate.news())
        if page:
            page.note(ready)
        kept += queues.settle(ready, failures, deadline=deadline)
    if page:
        page.close()
        batch.log_ledger(page.faults, page.clashes)
    batch.close(failures, failing=gate.failing, late_after_s=settings.fresh_seconds)
    if failures and any(record.receipt_handle is None for record in records):
        raise NotSettledError(f"SQS did not take the event ({', '.join(failures.values())})")
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in kept]}


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # on Lambda, the init phase has more CPU for this than an invocation
    wire()
