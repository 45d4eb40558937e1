"""The relay in this process: real queues and a real secret in the emulator, the stand-in as its endpoint."""

import io
import json
import queue
import ssl
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
import trustme

from flash_call_relay import budget, credentials, gate, handler, ledger, outcome_bus, telemetry
from flash_call_relay.connections import StaleConnectionError
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import FlashCallResult, Reply
from flash_call_relay.webhook import Webhook
from local.emulator.emulator import Emulator
from local.endpoint.behaviour import answer, hang
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from local.processes import held_port
from tests.support.emitted import EmfMetric, read_emf
from tests.support.template import default_settings, environment

KEY, USER = "key-4f1c-hunter2", "user-93aa-hunter2"
CREDENTIALS = Credentials(KEY, USER)
UUID = "01JV5V54KPYK9GB29265EQRZ2P"
SUCCESS = FlashCallResult(UUID, "Success")
CONFIRMED = Reply(200, {"uuid": UUID, "status": "Success", "message": "OK"}, "OK")
GOOD_SECRET = json.dumps({"api_key": KEY, "user_id": USER})
PATIENCE_S = 30  # seconds; only a failing test waits this long

# Limits of the function that a stalled test machine would exceed, with the tests' own values.
_CALL = budget.Call(connect=PATIENCE_S, read=PATIENCE_S)
_PATIENT_LIMITS: dict[tuple[Any, str], Any] = {
    (budget, "AWS_CALL"): _CALL,
    (budget, "LEDGER_CALL"): _CALL,
    (budget, "EVENTS_CALL"): _CALL,
    (ledger, "LEDGER_S"): PATIENCE_S,
    (outcome_bus, "EVENTS_S"): PATIENCE_S,
    (gate, "BLOCK_S"): 3600.0,
    (gate, "ACCEPTED_LATELY_S"): 3600.0,
    (credentials, "FETCH_INTERVAL_S"): 3600.0,
    (credentials, "MAX_AGE_S"): 3600.0,
}
_REAL_LIMITS = {(module, name): getattr(module, name) for module, name in _PATIENT_LIMITS}


def client(url: str, timeout_s: int = 20, connections: int = 1) -> Webhook:
    """Return a client; with one connection it has nothing left if a failure costs it that one."""
    chosen = {"REQUEST_TIMEOUT_SECONDS": str(timeout_s), "CONNECTIONS_PER_FUNCTION": str(connections)}
    return Webhook(default_settings(WEBHOOK_URL=url, **chosen))


def post_all(webhook: Webhook, uuids: Iterable[str], timeout_s: float = 20) -> dict[str, Reply]:
    """Make attempts side by side, as `Delivery` does; an endless attempt fails the test instead of stopping it."""
    said: queue.SimpleQueue[tuple[str, Reply]] = queue.SimpleQueue()

    def post_one(uuid: str) -> None:
        result, deadline = FlashCallResult(uuid, "Success"), budget.Deadline.after(timeout_s)
        try:
            said.put((uuid, webhook.post(result, CREDENTIALS, deadline, kept=True)))
        except StaleConnectionError:  # the kept connection has died
            said.put((uuid, webhook.post(result, CREDENTIALS, deadline, kept=False)))

    threads = [threading.Thread(target=post_one, args=(uuid,), daemon=True) for uuid in uuids]
    for thread in threads:
        thread.start()
    return dict(said.get(timeout=60) for _ in threads)


def post(webhook: Webhook, timeout_s: float = 20) -> Reply:
    """Make one attempt."""
    return post_all(webhook, [UUID], timeout_s)[UUID]


@cache
def session() -> boto3.Session:
    """Return one session for all relays: a new one reads botocore's data files again, which takes 0.1 s."""
    return boto3.Session()


@dataclass(frozen=True)
class Context:
    """The parts of Lambda's context that the relay reads."""

    remaining_ms: int = 300_000  # not the function's 60 s: a test machine may stall
    aws_request_id: str = "00000000-0000-4000-8000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        """Return the time until the function's time-out, in milliseconds."""
        return self.remaining_ms


@dataclass
class InProcessRelay:
    """A relay with queues, a secret and an endpoint that no other test uses.

    Attributes:
        emulator: holds the queues, the secret and the ledger.
        endpoint: the stand-in; it knows only the calls issued to it.
        monkeypatch: sets the function's environment variables.
        log: everything that the logger wrote.
        printed: everything written to standard output, which is the metrics.
        aws_calls: the function's calls to AWS, as (operation, parameters).
        name: the name of the secret and of the ledger's table, and the prefix of the queues' names.
    """

    emulator: Emulator
    endpoint: StandIn
    monkeypatch: pytest.MonkeyPatch
    log: io.StringIO = field(default_factory=io.StringIO)
    printed: io.StringIO = field(default_factory=io.StringIO)
    aws_calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    name: str = field(default_factory=lambda: f"relay-{uuid.uuid4().hex}")

    def __post_init__(self) -> None:
        """Make the queues and the secret, and configure the function."""
        self.sqs, self.secrets, self.dynamodb = map(self.emulator.client, ("sqs", "secretsmanager", "dynamodb"))
        # Longer than any test: a message that comes back within a test was hidden by the relay.
        hidden = {"VisibilityTimeout": "400"}
        self.results_url, self.parked_url = (
            self.sqs.create_queue(QueueName=f"{self.name}-{name}", Attributes=hidden)["QueueUrl"]
            for name in ("results", "parked")
        )
        self.secret_id = self.secrets.create_secret(Name=self.name, SecretString=GOOD_SECRET)["ARN"]
        changes = {"WEBHOOK_URL": self.endpoint.url, "REQUEST_TIMEOUT_SECONDS": "20", "LEDGER_TABLE_NAME": ""}
        changes |= {"RESULT_QUEUE_URL": self.results_url, "PARKED_QUEUE_URL": self.parked_url}
        changes |= {"CREDENTIALS_SECRET_ARN": self.secret_id, **self.emulator.environment}
        for (module, name), value in _PATIENT_LIMITS.items():
            self.monkeypatch.setattr(module, name, value)
        self.configure(**environment() | changes)
        self.monkeypatch.setattr(boto3, "DEFAULT_SESSION", session())
        for stream in telemetry.logger.handlers:
            self.monkeypatch.setattr(stream, "stream", self.log)

    def configure(self, **environ: str) -> None:
        """Set environment variables, and start a new execution environment with the next invocation."""
        for name, text in environ.items():
            self.monkeypatch.setenv(name, text)
        self.end_environment()

    def keep_real_limits(self, *names: str) -> None:
        """Have the function keep its own limits of these names, for a service that is silent or throttles."""
        for (module, name), value in _REAL_LIMITS.items():
            if name in names:
                self.monkeypatch.setattr(module, name, value)
        self.end_environment()

    def end_environment(self) -> None:
        """End the execution environment: wait for its lanes, and start a new environment with the next invocation."""
        if handler.wire.cache_info().currsize:
            handler.wire().delivery._threads.shutdown()
        handler.wire.cache_clear()

    def add_ledger(self, **environ: str) -> None:
        """Make the ledger's table and configure the function for it, with these further environment variables."""
        self.dynamodb.create_table(
            TableName=self.name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "uuid", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "uuid", "KeyType": "HASH"}],
        )
        self.configure(LEDGER_TABLE_NAME=self.name, **environ)

    def ledger_entries(self) -> dict[str, dict[str, str]]:
        """Return the ledger's entries by uuid."""
        items = self.dynamodb.scan(TableName=self.name)["Items"]
        plain = [{name: next(iter(value.values())) for name, value in item.items()} for item in items]
        return {item["uuid"]: item for item in plain}

    def issue_calls(self, count: int) -> list[str]:
        """Make `count` calls known to the endpoint; return their uuids."""
        uuids = [f"call-{number}" for number in range(count)]
        self.endpoint.issue(*uuids)
        return uuids

    def send(self, *bodies: object) -> list[dict[str, Any]]:
        """Put bodies on the result queue; return the records that Lambda's poller makes of them, in the same order."""
        texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
        ids: list[str] = []
        for start in range(0, len(texts), 10):
            entries = [{"Id": str(at), "MessageBody": text} for at, text in enumerate(texts[start : start + 10])]
            sent = self.sqs.send_message_batch(QueueUrl=self.results_url, Entries=entries)["Successful"]
            ids += [one["MessageId"] for one in sorted(sent, key=lambda one: int(one["Id"]))]
        received: dict[str, dict[str, Any]] = {}
        while missing := set(ids) - received.keys():  # a deferred message may come back meanwhile
            more = self.receive(self.results_url, len(missing))
            assert more, "SQS lost a message"
            received |= {record["messageId"]: record for record in more}
        records = [received[message_id] for message_id in ids]
        for earlier, later in pairwise(record["attributes"] for record in records):
            # Two sends in one millisecond would have no order.
            later["SentTimestamp"] = str(max(int(later["SentTimestamp"]), int(earlier["SentTimestamp"]) + 1))
        return records

    def receive(self, queue_url: str, count: int) -> list[dict[str, Any]]:
        """Receive messages as the records of a Lambda event; fewer than `count` if no more come.

        `given` holds the values of their message attributes by name.
        """
        records: list[dict[str, Any]] = []
        while len(records) < count:
            reply = self.sqs.receive_message(
                QueueUrl=queue_url,
                MaxNumberOfMessages=min(10, count - len(records)),
                WaitTimeSeconds=20,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
            if not (messages := reply.get("Messages")):
                break
            for message in messages:
                names = {"messageId": "MessageId", "receiptHandle": "ReceiptHandle", "body": "Body"}
                record = {name: message[theirs] for name, theirs in names.items()}
                given = {name: one["StringValue"] for name, one in message.get("MessageAttributes", {}).items()}
                more = {"attributes": message["Attributes"], "given": given, "eventSource": "aws:sqs"}
                records.append(record | more)
        return records

    def parked(self, count: int) -> list[dict[str, Any]]:
        """Receive `count` parked messages."""
        return self.receive(self.parked_url, count)

    def call(self, event: object, context: Context | None = None) -> Any:
        """Invoke the function; return its answer, as the caller of Lambda reads it."""
        with redirect_stdout(self.printed):
            return json.loads(json.dumps(handler.lambda_handler(event, cast("Any", context or Context()))))

    def invoke(self, event: object, context: Context | None = None) -> list[str]:
        """Invoke the function; return the ids of the messages that it keeps on the queue."""
        reply = self.call(event, context)
        assert reply.keys() == {"batchItemFailures"}
        return [failure["itemIdentifier"] for failure in reply["batchItemFailures"]]

    def invoke_with(self, records: list[dict[str, Any]], context: Context | None = None) -> list[str]:
        """Invoke the function with an SQS batch; return the ids of the messages that it keeps on the queue."""
        return self.invoke({"Records": records}, context)

    def probe(self, call: str, context: Context | None = None) -> Any:
        """Invoke the function with a probe; return its answer."""
        return self.call({"probe": call}, context)

    def lines(self, message: str = "") -> list[dict[str, Any]]:
        """Return the relay's log lines whose message begins with this text."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["message"].startswith(message)]

    def outcomes(self) -> list[tuple[str, str | None]]:
        """Return the outcome and the reason on each outcome line, oldest first."""
        return [(line["outcome"], line.get("reason")) for line in self.lines("result.")]

    def blobs(self) -> list[dict[str, Any]]:
        """Return the EMF blobs, one for each line of standard output."""
        return [json.loads(line) for line in self.printed.getvalue().splitlines()]

    def metrics(self) -> list[EmfMetric]:
        """Return the metrics of all blobs."""
        return [metric for blob in self.blobs() for metric in read_emf(blob)]

    def counted(self, name: str, **dimensions: str) -> list[float]:
        """Return the values of a metric, oldest first; `dimensions` are the dimensions other than `service`."""
        wanted = (name, {"service": "flash-call-relay", **dimensions})
        return [value for one in self.metrics() if (one.name, one.dimensions) == wanted for value in one.values]

    def calls_of(self, operation: str) -> list[dict[str, Any]]:
        """Return the parameters of each call of an AWS operation."""
        return [parameters for name, parameters in self.aws_calls if name == operation]


@contextmanager
def relaying(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessRelay]:
    """Set a relay up for the length of a `with` block; `monkeypatch` is the test's, so that both undo in order."""
    with StandIn(api_key=KEY, user_id=USER) as endpoint:
        relay = InProcessRelay(emulator, endpoint, monkeypatch)

        def note(params: dict[str, Any], model: Any, **_: object) -> None:
            relay.aws_calls.append((model.name, params))

        session().events.register("provide-client-params", note)
        try:
            yield relay
        finally:
            session().events.unregister("provide-client-params", note)
            relay.end_environment()


@contextmanager
def failing_service(failure: str, error: str = "ThrottlingException") -> Iterator[str]:
    """Yield the URL of an AWS service that is "unreachable", "silent" or "throttled" with this `error`."""
    if failure == "unreachable":
        with held_port() as port:
            yield f"https://127.0.0.1:{port}"
        return
    with StandIn(api_key=KEY, user_id=USER) as service:
        service.override(hang() if failure == "silent" else answer(400, {"__type": error, "message": "slow down"}))
        yield service.url.removesuffix(WEBHOOK_PATH)


def trusted_authority(directory: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return an authority that the relay trusts during the test."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(directory / "ca.pem"))
    return authority


def server_tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    """Return the context of a server with a certificate for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context
