"""Lambda entry: wiring and the response. It decides nothing."""

import functools
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
from botocore.config import Config

from flash_call_relay import budget, events, telemetry
from flash_call_relay.budget import Deadline
from flash_call_relay.credentials import CredentialsStore
from flash_call_relay.delivery import Delivery
from flash_call_relay.gate import Gate
from flash_call_relay.ledger import Ledger, NoLedger
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
DYNAMODB = _bounded(budget.LEDGER_CALL, parameter_validation=False)  # validation costs a third of a call's CPU


class NotSettledError(RuntimeError):
    """The relay neither delivered nor queued an event given straight to the function. Lambda has to try it again."""


class Relay(NamedTuple):
    """The rooms of one execution environment."""

    settings: Settings
    delivery: Delivery
    gate: Gate
    queues: Queues
    ledger: Ledger | NoLedger


@functools.cache
def wire() -> Relay:
    """Wire the rooms from the environment's settings, once per execution environment."""
    settings = Settings.from_environment(os.environ)
    credentials = CredentialsStore(boto3.client("secretsmanager", config=AWS_CLIENTS), settings.credentials_secret_arn)
    gate = Gate(settings.request_timeout_seconds)
    queues = Queues(boto3.client("sqs", config=AWS_CLIENTS), settings.result_queue_url, settings.parked_queue_url)
    ledger = (
        Ledger(boto3.client("dynamodb", config=DYNAMODB), settings.ledger_table_name)
        if settings.ledger_table_name
        else NoLedger()
    )
    telemetry.log_start(settings)
    return Relay(settings, Delivery(settings, credentials, gate, Webhook(settings)), gate, queues, ledger)


def lambda_handler(event: object, context: "LambdaContext") -> dict[str, list[dict[str, str]]]:
    """Relay the results of an SQS batch or an EventBridge event; return the messages that must stay on the queue.

    Raises:
        UnsupportedEventError: if the event carries no results.
        NotSettledError: if the relay could neither deliver nor queue an EventBridge event.
    """
    deadline = Deadline.after(context.get_remaining_time_in_millis() / 1000)
    invocation = telemetry.Invocation(context.aws_request_id)
    records = events.read(event, now=time.time())
    settings, delivery, gate, queues, ledger = wire()
    blocked = delivery.blocked()
    kept: list[str] = []
    failures: dict[str, str] = {}
    with ledger.open(delivery.to_look_up(records, blocked)) as page:
        for processed in delivery.deliver(records, page.confirmed, blocked, deadline=deadline):
            invocation.log_outcomes(processed)
            invocation.log_gate(gate.events())
            page.note(processed)
            settlement = queues.settle(processed, deadline=deadline)
            kept += settlement.kept
            failures |= settlement.failures
    invocation.log_ledger(page.faults, page.clashes)
    invocation.close(failures, failing=gate.failing, late_after_s=settings.fresh_seconds)
    if failures and any(record.receipt_handle is None for record in records):
        raise NotSettledError(f"SQS did not take the event ({', '.join(failures.values())})")
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in kept]}


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # on Lambda, the init phase has more CPU for this than an invocation
    wire()
