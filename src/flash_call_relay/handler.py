"""Lambda entry: wiring and the response. It decides nothing."""

import contextlib
import functools
import os
import time
from typing import Any

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
from flash_call_relay.queues import Queues
from flash_call_relay.settings import Settings
from flash_call_relay.webhook import Webhook


class NotSettledError(RuntimeError):
    """SQS did not take an event that was given straight to the function. Lambda has to try it again."""


class Relay:
    """The modules of one execution environment, wired from the environment variables."""

    def __init__(self) -> None:
        self.settings = settings = Settings.from_environment(os.environ)
        aws_call = _bounded(budget.AWS_CALL)
        secrets = boto3.client("secretsmanager", config=aws_call)
        self.credentials = CredentialsStore(secrets, settings.credentials_secret_arn, telemetry.report)
        self.gate = Gate(settings.request_timeout_seconds, settings.post_interval_s)
        self.delivery = Delivery(settings, self.credentials, self.gate, Webhook(settings))
        sqs = boto3.client("sqs", config=aws_call)
        self.queues = Queues(sqs, settings.result_queue_url, settings.parked_queue_url)
        self.dynamodb = self.outcome_bus = None
        if settings.ledger_table_name:
            self.dynamodb = boto3.client("dynamodb", config=_bounded(budget.LEDGER_CALL))
        if settings.outcome_bus_name:
            eventbridge = boto3.client("events", config=_bounded(budget.EVENTS_CALL))
            self.outcome_bus = OutcomeBus(eventbridge, settings.outcome_bus_name, telemetry.SERVICE)


wire = functools.cache(Relay)  # once per execution environment


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
    telemetry.logger.append_keys(function_request_id=context.aws_request_id)
    if call := events.probed_call(event):
        answer = wire().delivery.probe(call, deadline=deadline)
        telemetry.report("probe.answered", probe=call, answer=answer)  # in a field of its own, which no query counts
        return answer
    records = events.read(event, now=time.time())
    relay = wire()
    processed = []
    with contextlib.closing(Ledger(relay.dynamodb, relay.settings.ledger_table_name, deadline)) as ledger:
        for one in relay.delivery.deliver(records, ledger.look_up, deadline=deadline):
            processed.append(one)
            telemetry.log_outcome(one)
            ledger.note(one)
        failures = relay.queues.settle(processed, deadline=deadline)
    settled = [one for one in processed if one.record.message_id not in failures]
    if relay.outcome_bus:
        relay.outcome_bus.publish(settled, deadline=deadline)
    telemetry.log_settled(processed, failures)
    failing, throttling, late_after_s = relay.gate.failing, relay.gate.throttling, relay.settings.fresh_seconds
    telemetry.emit_metrics(processed, failing=failing, throttling=throttling, late_after_s=late_after_s)
    if failures and any(record.receipt_handle is None for record in records):
        raise NotSettledError(f"SQS did not take the event ({', '.join(failures.values())})")
    final = {id(one.record) for one in settled if not isinstance(one.outcome, Deferred)}
    kept = [record.message_id for record in records if record.receipt_handle and id(record) not in final]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in kept]}


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # on Lambda, where the init phase has a whole CPU
    with contextlib.suppress(CredentialsUnavailableError):
        wire().credentials.current()
