"""The relay in this process: real queues and a real secret in the emulator, the stand-in as its endpoint."""

import io
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, cast

import boto3
import pytest

from flash_call_relay import handler, telemetry
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import FlashCallResult, Reply
from flash_call_relay.settings import Settings
from local.emulator.emulator import Emulator
from local.endpoint.standin import StandIn
from tests.support import emf

KEY, USER = "key-4f1c-hunter2", "user-93aa-hunter2"
CREDENTIALS = Credentials(KEY, USER)
UUID = "01JV5V54KPYK9GB29265EQRZ2P"
SUCCESS = FlashCallResult(UUID, "Success")
CONFIRMED = Reply(200, {"uuid": UUID, "status": "Success", "message": "OK"}, "OK")
GOOD_SECRET = json.dumps({"api_key": KEY, "user_id": USER})
NUMBERS = {
    "CONFIRMATION": "reply",
    "CONNECTIONS_PER_FUNCTION": "10",
    "REQUEST_TIMEOUT_SECONDS": "1",
    "RETRY_BASE_SECONDS": "10",
    "RETRY_CAP_SECONDS": "900",
    "FRESH_SECONDS": "3600",
    "FRESH_RETRY_CAP_SECONDS": "60",
    "RETRY_HORIZON_SECONDS": "86400",
    "MAX_RECEIVE_COUNT": "300",
    "VISIBILITY_TIMEOUT_SECONDS": "400",
    "LEDGER_TABLE_NAME": "",
    "UNKNOWN_CALL_GRACE_SECONDS": "900",
}
PATIENCE_S = 10  # only a test that fails waits so long


def webhook_settings(url: str, **numbers: int) -> Settings:
    """Return settings for a `Webhook` by itself."""
    places = dict.fromkeys(("CREDENTIALS_SECRET_ARN", "RESULT_QUEUE_URL", "PARKED_QUEUE_URL"), "none")
    chosen = {name.upper(): str(number) for name, number in numbers.items()}
    return Settings.from_environment({**NUMBERS, **places, "WEBHOOK_URL": url, **chosen})


@cache
def session() -> boto3.Session:
    """Return a session for all relays: each new one reads botocore's data files anew, for a tenth of a second."""
    return boto3.Session()


@dataclass(frozen=True)
class Context:
    """What the relay reads of Lambda's context."""

    remaining_ms: int = 60_000
    aws_request_id: str = "00000000-0000-4000-8000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        """Return what is left of the function's time."""
        return self.remaining_ms


@dataclass
class Relay:
    """A relay of a test's own.

    Attributes:
        emulator: where the queues and the secret are.
        endpoint: knows no call until it is told of one.
        environ: what the function is configured with; to be changed before the first invocation.
        log: what the logger wrote.
        printed: what was written to standard output: the metrics.
        requests: what was asked of AWS since the start, as (operation, parameters).
    """

    emulator: Emulator
    endpoint: StandIn
    monkeypatch: pytest.MonkeyPatch
    log: io.StringIO = field(default_factory=io.StringIO)
    printed: io.StringIO = field(default_factory=io.StringIO)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    name: str = field(default_factory=lambda: f"relay-{uuid.uuid4().hex}")

    def __post_init__(self) -> None:
        """Make the queues and the secret, and configure the function."""
        # Longer than any test: a message that comes back was hidden by the relay.
        made = {kind: self._queue(kind, VisibilityTimeout="400") for kind in ("results", "parked")}
        self.results_url, self.parked_url = made["results"], made["parked"]
        self.secret_id = self.secrets.create_secret(Name=self.name, SecretString=GOOD_SECRET)["ARN"]
        self.configure(
            **self.emulator.environment,
            **NUMBERS,
            WEBHOOK_URL=self.endpoint.url,
            CREDENTIALS_SECRET_ARN=self.secret_id,
            RESULT_QUEUE_URL=self.results_url,
            PARKED_QUEUE_URL=self.parked_url,
        )
        self.monkeypatch.setattr(boto3, "DEFAULT_SESSION", session())
        for stream in telemetry.logger.handlers:
            self.monkeypatch.setattr(stream, "stream", self.log)

    def configure(self, **environ: str) -> None:
        """Set environment variables; the next invocation is that of a new execution environment."""
        for name, text in environ.items():
            self.monkeypatch.setenv(name, text)
        handler.wire.cache_clear()

    def remember(self, **environ: str) -> None:
        """Give the function a ledger; `environ` may say where DynamoDB is."""
        self.dynamodb.create_table(
            TableName=self.name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "uuid", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "uuid", "KeyType": "HASH"}],
        )
        self.configure(LEDGER_TABLE_NAME=self.name, **environ)

    def remembered(self) -> dict[str, dict[str, str]]:
        """Return what the ledger holds, by uuid."""
        items = self.dynamodb.scan(TableName=self.name)["Items"]
        plain = [{name: next(iter(value.values())) for name, value in item.items()} for item in items]
        return {item["uuid"]: item for item in plain}

    def send(self, *bodies: object) -> list[dict[str, Any]]:
        """Put bodies on the result queue and return what Lambda's poller would make of them, in the same order."""
        ids = []
        for body in bodies:
            text = body if isinstance(body, str) else json.dumps(body)
            ids.append(self.sqs.send_message(QueueUrl=self.results_url, MessageBody=text)["MessageId"])
        received = {record["messageId"]: record for record in self.receive(self.results_url, len(ids))}
        return [received[message_id] for message_id in ids]

    def receive(self, queue_url: str, count: int) -> list[dict[str, Any]]:
        """Receive messages as the records of a Lambda event; fewer than `count` if no more come."""
        records: list[dict[str, Any]] = []
        while len(records) < count:
            reply = self.sqs.receive_message(
                QueueUrl=queue_url,
                MaxNumberOfMessages=min(10, count - len(records)),
                WaitTimeSeconds=PATIENCE_S,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
            if not (messages := reply.get("Messages")):
                break
            for message in messages:
                names = {"messageId": "MessageId", "receiptHandle": "ReceiptHandle", "body": "Body"}
                record = {name: message[theirs] for name, theirs in names.items()}
                attributes = {"attributes": message["Attributes"], "given": message.get("MessageAttributes", {})}
                records.append(record | attributes | {"eventSource": "aws:sqs"})
        return records

    def parked(self, count: int) -> list[dict[str, Any]]:
        """Return the parked messages, as many as expected, with their attributes' values by name in `given`."""
        messages = self.receive(self.parked_url, count)
        for message in messages:
            message["given"] = {name: value["StringValue"] for name, value in message["given"].items()}
        return messages

    def waiting(self, queue_url: str) -> dict[str, int]:
        """Return how many of a queue's messages are visible, hidden and delayed."""
        names = {"visible": "", "hidden": "NotVisible", "delayed": "Delayed"}
        attributes = self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
        return {name: int(attributes[f"ApproximateNumberOfMessages{theirs}"]) for name, theirs in names.items()}

    def invoke(self, event: object, context: Context | None = None) -> list[str]:
        """Invoke the function; return the ids of the messages that have to stay on the queue."""
        with redirect_stdout(self.printed):
            reply = handler.lambda_handler(event, cast("Any", context or Context()))
        assert reply.keys() == {"batchItemFailures"}
        return [failure["itemIdentifier"] for failure in reply["batchItemFailures"]]

    def invoke_with(self, records: list[dict[str, Any]], context: Context | None = None) -> list[str]:
        """Invoke the function with an SQS batch."""
        return self.invoke({"Records": records}, context)

    def lines(self, message: str = "") -> list[dict[str, Any]]:
        """Return the relay's log lines whose message begins with this."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["message"].startswith(message)]

    def blobs(self) -> list[dict[str, Any]]:
        """Return the EMF blobs, one for each line of standard output."""
        return [json.loads(line) for line in self.printed.getvalue().splitlines()]

    def metrics(self) -> list[emf.Metric]:
        """Return all metrics of all blobs."""
        return [metric for blob in self.blobs() for metric in emf.read(blob)]

    def counted(self, name: str, **dimensions: str) -> list[float]:
        """Return the values of a metric, oldest first; `dimensions` are those beside `service`."""
        return emf.values_of(self.metrics(), name, {"service": "flash-call-relay", **dimensions})

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """Return the parameters of each call of an operation."""
        return [parameters for name, parameters in self.requests if name == operation]

    def note(self, params: dict[str, Any], model: Any, **_: object) -> None:
        """Note a call of AWS by the function."""
        self.requests.append((model.name, params))

    def _queue(self, kind: str, **attributes: str) -> str:
        url: str = self.sqs.create_queue(QueueName=f"{self.name}-{kind}", Attributes=attributes)["QueueUrl"]
        return url

    @cached_property
    def sqs(self) -> Any:
        """A client for the queues."""
        return self.emulator.client("sqs")

    @cached_property
    def dynamodb(self) -> Any:
        """A client for the ledger's table."""
        return self.emulator.client("dynamodb")

    @cached_property
    def secrets(self) -> Any:
        """A client for the secret."""
        return self.emulator.client("secretsmanager")


@contextmanager
def relaying(emulator: Emulator) -> Iterator[Relay]:
    """Set a relay up for the length of a `with` block."""
    with pytest.MonkeyPatch.context() as monkeypatch, StandIn(api_key=KEY, user_id=USER) as endpoint:
        relay = Relay(emulator, endpoint, monkeypatch)
        session().events.register("provide-client-params", relay.note)
        try:
            yield relay
        finally:
            session().events.unregister("provide-client-params", relay.note)
            handler.wire.cache_clear()
            relay.sqs.close()
            relay.secrets.close()
            relay.dynamodb.close()


def result(call: str, status: str = "Success") -> dict[str, str]:
    """Return a result as producers send it."""
    return {"uuid": call, "status": status}
