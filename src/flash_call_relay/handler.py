"""Lambda entry: wiring and the response. It decides nothing."""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
from botocore.config import Config

from flash_call_relay import budget, events, telemetry
from flash_call_relay.aws_http import use_kept_connections
from flash_call_relay.budget import Deadline
from flash_call_relay.credentials import CredentialsStore
from flash_call_relay.delivery import Delivery
from flash_call_relay.gate import Gate
from flash_call_relay.ledger import Confirmations, Ledger
from flash_call_relay.outcome_bus import OutcomeBus, Publication
from flash_call_relay.probe import probe
from flash_call_relay.queues import Queues
from flash_call_relay.settings import Settings
from flash_call_relay.webhook import USER_AGENT, Webhook

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
# Validation and building a user agent take botocore up to a third of a call's CPU.
DYNAMODB = _bounded(
    budget.LEDGER_CALL, parameter_validation=False, user_agent=USER_AGENT, account_id_endpoint_mode="disabled"
)
EVENTBRIDGE = _bounded(budget.EVENTS_CALL, parameter_validation=False, user_agent=USER_AGENT)

WARM_UP_S = 2.0  # Lambda gives the init phase 10 s in all
MAX_WARM_CONNECTIONS = 10  # the default batch needs no more


class NotSettledError(RuntimeError):
    """SQS did not take an event that was given straight to the function. Lambda has to try it again."""


class Relay(NamedTuple):
    """The modules of one execution environment, wired."""

    settings: Settings
    credentials: CredentialsStore
    webhook: Webhook
    gate: Gate
    delivery: Delivery
    queues: Queues
    ledger: Ledger | None
    outcome_bus: OutcomeBus | None


@functools.cache
def wire() -> Relay:
    """Wire the modules from the environment variables, once per execution environment."""
    settings = Settings.from_environment(os.environ)
    credentials = CredentialsStore(boto3.client("secretsmanager", config=AWS_CLIENTS), settings.credentials_secret_arn)
    webhook, gate = Webhook(settings), Gate(settings.request_timeout_seconds)
    delivery = Delivery(settings, credentials, gate, webhook)
    queues = Queues(boto3.client("sqs", config=AWS_CLIENTS), settings.result_queue_url, settings.parked_queue_url)
    ledger = None
    if settings.ledger_table_name:
        dynamodb = boto3.client("dynamodb", config=DYNAMODB)
        use_kept_connections(dynamodb, budget.LEDGER_CALL)
        ledger = Ledger(dynamodb, settings.ledger_table_name)
    outcome_bus = None
    if settings.outcome_bus_name:
        eventbridge = boto3.client("events", config=EVENTBRIDGE)
        use_kept_connections(eventbridge, budget.EVENTS_CALL)
        outcome_bus = OutcomeBus(eventbridge, settings.outcome_bus_name, telemetry.SERVICE)
    telemetry.warn_if_receives_run_out(settings)
    return Relay(settings, credentials, webhook, gate, delivery, queues, ledger, outcome_bus)


def warm_up(relay: Relay) -> None:
    """Read the secret and open connections, in parallel, for `WARM_UP_S` at most. Raises nothing.

    In the init phase a function has a whole CPU. In an invocation with 512 MB it has less than a third of one. The
    first invocation repeats a step that failed.
    """
    connections = min(relay.settings.connections_per_function, MAX_WARM_CONNECTIONS)
    steps: list[Callable[[], object]] = [relay.credentials.connect, relay.queues.connect]
    steps += [relay.ledger.connect] if relay.ledger else []
    steps += [relay.webhook.connect] * connections
    with contextlib.suppress(Exception):
        threads = ThreadPoolExecutor(len(steps), thread_name_prefix="warm-up")
        wait([threads.submit(step) for step in steps], timeout=WARM_UP_S)
        threads.shutdown(wait=False)


def lambda_handler(event: object, context: "LambdaContext") -> dict[str, Any]:
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
        invocation.log_probe(call, answer)
        return answer
    records = events.read(event, now=time.time())
    relay = wire()
    kept: list[str] = []
    failures: dict[str, str] = {}
    with Publication(relay.outcome_bus) as publication, Confirmations(relay.ledger) as confirmations:
        for processed in relay.delivery.deliver(records, confirmations.look_up, deadline=deadline):
            invocation.log_outcomes(processed)
            invocation.log_gate(relay.gate.events())
            confirmations.note(processed)
            settlement = relay.queues.settle(processed, deadline=deadline)
            publication.note(processed, settlement.kept)
            kept += settlement.kept
            failures |= settlement.failures
    invocation.log_ledger(confirmations.faults, confirmations.clashes)
    invocation.log_unpublished(publication.unpublished)
    invocation.close(failures, failing=relay.gate.failing, late_after_s=relay.settings.fresh_seconds)
    if failures and any(record.receipt_handle is None for record in records):
        raise NotSettledError(f"SQS did not take the event ({', '.join(failures.values())})")
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in kept]}


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # on Lambda
    warm_up(wire())
