"""Lambda entry: wiring and the response. It decides nothing."""

import contextlib
import functools
import os
import time
from typing import Any, NamedTuple

import boto3
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from flash_call_relay import budget, events, telemetry
from flash_call_relay.budget import Deadline
from flash_call_relay.credentials import CredentialsStore, CredentialsUnavailableError
from flash_call_relay.delivery import Delivery
from flash_call_relay.gate import Gate
from flash_call_relay.ledger import Ledger
from flash_call_relay.models import Deferred
from flash_call_relay.outcome_bus import OutcomeBus
from flash_call_relay.probe import probe
from flash_call_relay.queues import Queues
from flash_call_relay.settings import Settings
from flash_call_relay.webhook import Webhook


class NotSettledError(RuntimeError):
    """SQS did not take an event that was given straight to the function. Lambda has to try it again."""


class Relay(NamedTuple):
    """The modules of one execution environment, wired."""

    settings: Settings
    credentials: CredentialsStore
    gate: Gate
    delivery: Delivery
    queues: Queues
    dynamodb: Any
    outcome_bus: OutcomeBus | None


@functools.cache
def wire() -> Relay:
    """Wire the modules from the environment variables, once per execution environment."""
    settings = Settings.from_environment(os.environ)
    aws_call = _bounded(budget.AWS_CALL)
    credentials = CredentialsStore(boto3.client("secretsmanager", config=aws_call), settings.credentials_secret_arn)
    gate = Gate(settings.request_timeout_seconds, settings.post_interval_s)
    delivery = Delivery(settings, credentials, gate, Webhook(settings))
    queues = Queues(boto3.client("sqs", config=aws_call), settings.result_queue_url, settings.parked_queue_url)
    dynamodb = outcome_bus = None
    if settings.ledger_table_name:
        dynamodb = boto3.client("dynamodb", config=_bounded(budget.LEDGER_CALL))
    if settings.outcome_bus_name:
        eventbridge = boto3.client("events", config=_bounded(budget.EVENTS_CALL))
        outcome_bus = OutcomeBus(eventbridge, settings.outcome_bus_name, telemetry.SERVICE)
    telemetry.warn_if_receives_run_out(settings)
    return Relay(settings, credentials, gate, delivery, queues, dynamodb, outcome_bus)


def _bounded(call: budget.Call) -> Config:
    retries: Any = {"mode": "standard", "total_max_attempts": call.attempts}
    return Config(connect_timeout=call.connect, read_timeout=call.read, retries=retries)


def lambda_handler(event: object, context: LambdaContext) -> dict[str, Any]:
    """Relay the results of an SQS batch or an EventBridge event; return the messages that must stay on the queue.

    For an operator's probe, return what the endpoint answered.

    Raises:
        UnsupportedEventError: if the event carries no results.
        NotSettledError: if the relay could neither deliver nor queue an EventBridge event.
    """
    deadline = Deadline.after(context.get_remaining_time_in_millis() / 1000)
    invocation = telemetry.Invocation(context.aws_request_id)
    if call := events.probed_call(event):
        answer = probe(call, wire().settings, wire().credentials, deadline=deadline)
        telemetry.log_probe(call, answer)
        return answer
    records = events.read(event, now=time.time())
    relay = wire()
    processed = []
    with contextlib.closing(Ledger(relay.dynamodb, relay.settings.ledger_table_name, deadline)) as ledger:
        for one in relay.delivery.deliver(records, ledger.look_up, deadline=deadline):
            processed.append(one)
            invocation.log_outcome(one)
            invocation.log_gate(relay.gate.events())
            ledger.note(one)
        failures = relay.queues.settle(processed, deadline=deadline)
    settled = [one for one in processed if one.record.message_id not in failures]
    invocation.log_ledger(ledger.faults, ledger.clashes)
    invocation.log_secret(relay.credentials.new_fault())
    if relay.outcome_bus:
        invocation.log_unpublished(relay.outcome_bus.publish(settled, deadline=deadline))
    failing, throttling = relay.gate.failing, relay.gate.throttling
    invocation.close(failures, failing=failing, throttling=throttling, late_after_s=relay.settings.fresh_seconds)
    if failures and any(record.receipt_handle is None for record in records):
        raise NotSettledError(f"SQS did not take the event ({', '.join(failures.values())})")
    final = {id(one.record) for one in settled if not isinstance(one.outcome, Deferred)}
    kept = [record.message_id for record in records if record.receipt_handle and id(record) not in final]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in kept]}


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # on Lambda, where the init phase has a whole CPU
    with contextlib.suppress(CredentialsUnavailableError):
        wire().credentials.current()
