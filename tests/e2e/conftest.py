"""The deployed stack: the template as it is, built and deployed once a run, with the role's policy enforced."""

import contextlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from local import ROOT
from local.emulator.deployment import Deployment, sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import StandIn
from local.processes import wait_until
from ops import queues
from ops.cli import main

SHORT: dict[str, str | int] = {
    "RetryBaseSeconds": 1,
    "RetryCapSeconds": 3,
    "RequestTimeoutSeconds": 2,
    "UnknownCallGraceSeconds": 8,
}


def result(status: str = "Success") -> dict[str, str]:
    """Return a result of a call of its own."""
    return {"uuid": uuids.uuid4().hex, "status": status}


def pairs(*results: dict[str, str]) -> list[tuple[str, str]]:
    """Return results the way the endpoint lists them."""
    return sorted((one["uuid"], one["status"]) for one in results)


@dataclass
class Relay:
    """A deployed relay, and the endpoint it reports to."""

    deployment: Deployment
    endpoint: StandIn
    api_key: str = field(repr=False)
    user_id: str = field(repr=False)

    @property
    def source(self) -> str:
        """The EventBridge source that this deployment's rule listens to."""
        return f"tests.{self.deployment.name}"

    def put_events(self, *results: dict[str, str]) -> None:
        """Put results on the bus."""
        self.deployment.put_events([json.dumps(result) for result in results], self.source)

    def send(self, *bodies: dict[str, str] | str) -> list[str]:
        """Send results, or bodies as they are; return their message ids."""
        return self.deployment.send([body if isinstance(body, str) else json.dumps(body) for body in bodies])

    def parked(self, count: int) -> dict[str, dict[str, Any]]:
        """Wait for so many parked messages and take them, by source message id."""
        taken: dict[str, dict[str, Any]] = {}

        def all_there() -> bool:
            messages = self.deployment.take_all("ParkedQueueUrl")
            taken.update({message["Reasons"]["source_message_id"]: message for message in messages})
            return len(taken) >= count

        wait_for(all_there, f"{count} parked messages")
        return taken

    def put(self, output: str, *messages: tuple[str, Mapping[str, str | int]]) -> dict[str, str]:
        """Put bodies with their message attributes on a queue; return the bodies by message id."""
        put: dict[str, str] = {}
        for start in range(0, len(messages), 10):
            part = messages[start : start + 10]
            entries = [
                {"Id": str(number), "MessageBody": body, "MessageAttributes": message_attributes(attributes)}
                for number, (body, attributes) in enumerate(part)
            ]
            reply = self.deployment.sqs.send_message_batch(QueueUrl=self.deployment.outputs[output], Entries=entries)
            assert not reply.get("Failed")
            put |= {entry["MessageId"]: part[int(entry["Id"])][0] for entry in reply["Successful"]}
        return put

    def visible(self, output: str) -> int:
        """Return the number of visible messages on a queue."""
        return queues.Queue(self.deployment.sqs, self.deployment.outputs[output]).depth().visible

    def sweep(self) -> None:
        """Leave nothing on any queue."""
        for output in ("ResultQueueUrl", "ParkedQueueUrl", "DeadLetterQueueUrl"):
            self.deployment.sqs.purge_queue(QueueUrl=self.deployment.outputs[output])

    def confirmed(self, uuid: str) -> str | None:
        """Return the status that the ledger knows to be confirmed."""
        key = {"TableName": self.deployment.outputs["LedgerTableName"], "Key": {"uuid": {"S": uuid}}}
        item = self.deployment.emulator.client("dynamodb").get_item(**key, ConsistentRead=True).get("Item")
        return item["status"]["S"] if item else None

    @contextlib.contextmanager
    def reconfigured(self, timeout_s: int = 60, /, **environment: str) -> Iterator[None]:
        """Run with another time-out or other environment variables; either way in new execution environments."""
        function, before = self.deployment.outputs["FunctionName"], self._environment()
        self._reconfigure(function, timeout_s, before | environment)
        try:
            yield
        finally:
            self._reconfigure(function, 60, before)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Run in one execution environment at a time: each has a gate of its own."""
        function, client = self.deployment.outputs["FunctionName"], self.deployment.emulator.client("lambda")
        client.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=1)
        try:
            yield
        finally:
            client.delete_function_concurrency(FunctionName=function)

    def poll(self, *, on: bool) -> None:
        """Let Lambda take messages from the result queue, or not."""
        mapping = self.deployment.outputs["EventSourceMappingId"]
        self.deployment.emulator.client("lambda").update_event_source_mapping(UUID=mapping, Enabled=on)

    def _environment(self) -> dict[str, str]:
        function = self.deployment.outputs["FunctionName"]
        configuration = self.deployment.emulator.client("lambda").get_function_configuration(FunctionName=function)
        variables: dict[str, str] = configuration["Environment"]["Variables"]
        return variables

    def _reconfigure(self, function: str, timeout_s: int, variables: dict[str, str]) -> None:
        self.deployment.emulator.client("lambda").update_function_configuration(
            FunctionName=function, Timeout=timeout_s, Environment={"Variables": variables}
        )

    def settled(self) -> None:
        """Wait until nothing is left on the result queue."""
        wait_for(lambda: self.deployment.depth("ResultQueueUrl") == 0, "an empty result queue", timeout_s=90)

    def accepted(self, *results: dict[str, str]) -> list[tuple[str, str]]:
        """Wait until the endpoint has accepted all of these; return what it accepted of them, copies too."""
        wanted = {one["uuid"] for one in results}
        self.endpoint.wait_until(
            lambda endpoint: wanted <= {uuid for uuid, _ in endpoint.accepted}, timeout=90, what="delivery"
        )
        return sorted(pair for pair in self.endpoint.accepted if pair[0] in wanted)

    def story(self, uuid: str) -> list[dict[str, object]]:
        """Return the outcome lines of one uuid, oldest first."""
        return [line for line in self.deployment.log() if line.get("uuid") == uuid]


@dataclass(frozen=True)
class Ended:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Operator:
    """An operator who runs `flash-call-relay`."""

    emulator: Emulator

    def __call__(self, *arguments: str, environment: Mapping[str, str | None] | None = None) -> Ended:
        """Run a command in this process; a variable that is None is not set."""
        out, err = io.StringIO(), io.StringIO()
        on_end = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queues, "LONG_POLL_S", 0)  # a short poll of the emulator misses no message
            for name in [name for name in os.environ if name.startswith(("AWS_", "FLASH_CALL_RELAY_"))]:
                patch.delenv(name)
            for name, value in {**self.emulator.environment, **(environment or {})}.items():
                if value is not None:
                    patch.setenv(name, value)
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    status = main(list(arguments))
            finally:
                signal.signal(signal.SIGTERM, on_end)
        return Ended(status, out.getvalue(), err.getvalue())

    @contextlib.contextmanager
    def start(
        self, *arguments: str, before: str = "", stdin: int = subprocess.DEVNULL
    ) -> Iterator["subprocess.Popen[str]"]:
        """Run a command in a new process, after the Python code `before`; kill it at the end of the block."""
        command: Sequence[str] = ["-m", "ops"]
        if before:
            command = ["-c", f"{before}\nimport sys\nfrom ops.cli import main\nsys.exit(main())"]
        own = {"PATH": os.defpath, "HOME": str(self.emulator.state), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        with subprocess.Popen(
            [sys.executable, *command, *arguments],
            env={**own, **self.emulator.environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def ended(process: "subprocess.Popen[str]", says: str | None = None) -> Ended:
    """Write to the standard input of a process, wait for its end, and return its status and output."""
    out, err = process.communicate(says, timeout=60)
    return Ended(process.returncode, out, err)


def message_attributes(values: Mapping[str, str | int]) -> dict[str, dict[str, str]]:
    """Return values as SQS wants message attributes."""
    return {
        name: {"DataType": "String" if isinstance(value, str) else "Number", "StringValue": str(value)}
        for name, value in values.items()
    }


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition holds, and say what did not come true if it does not."""
    if not wait_until(condition, timeout_s, every_s=0.1):
        raise TimeoutError(f"{what}: not within {timeout_s} s")


@pytest.fixture(scope="session")
def built(emulator: Emulator) -> Path:
    """Run the real `sam build`, once."""
    return sam_build(emulator)


@pytest.fixture(scope="session")
def relay(emulator: Emulator, built: Path) -> Iterator[Relay]:
    """Deploy the relay with events routed to the queue."""
    yield from _deployed(emulator, built, "relay", {"EventRoute": "queue"})


@pytest.fixture(scope="session")
def function_route(emulator: Emulator, built: Path) -> Iterator[Relay]:
    """Deploy the relay with events routed straight to the function, and without a ledger."""
    yield from _deployed(emulator, built, "function-route", {"EventRoute": "function", "Deduplication": "false"})


@pytest.fixture(scope="session")
def without_credentials(emulator: Emulator, built: Path) -> Iterator[Relay]:
    """Deploy the relay and leave its secret empty, as it is after a first `sam deploy`."""
    yield from _deployed(emulator, built, "without-credentials", {"EventRoute": "none"}, fill_secret=False)


@pytest.fixture(scope="session")
def permitted(emulator: Emulator, built: Path) -> Iterator[Relay]:
    """Deploy the relay with each permission that its role can have; its mapping is off: a test is the poller."""
    key = "arn:aws:kms:eu-central-1:000000000000:key/0b5d4a9e-7d2c-4c5e-9d0f-5b1f0a3c6e11"
    for relay in _deployed(emulator, built, "permitted", {"EventRoute": "none", "CredentialsKmsKeyArn": key}):
        relay.poll(on=False)
        yield relay


@pytest.fixture
def swept(relay: Relay) -> Iterator[Relay]:
    """Return the relay with empty queues, and leave it so."""
    relay.settled()
    relay.sweep()
    yield relay
    relay.settled()
    relay.sweep()


@pytest.fixture(scope="session")
def operator(emulator: Emulator) -> Operator:
    """Return an operator with all permissions."""
    return Operator(emulator)


def _deployed(
    emulator: Emulator, built: Path, name: str, parameters: dict[str, str], *, fill_secret: bool = True
) -> Iterator[Relay]:
    api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
    with StandIn(api_key=api_key, user_id=user_id) as endpoint:
        places = {"WebhookUrl": endpoint.url, "EventSource": f"tests.{name}"}
        deployment = sam_deploy(emulator, name, built, {**SHORT, **places, **parameters})
        # What a killed function leaves comes back within a test's patience.
        deployment.shorten_visibility(30)
        if fill_secret:
            deployment.fill_secret(api_key, user_id)
        yield Relay(deployment, endpoint, api_key, user_id)


@pytest.fixture(autouse=True)
def _behaving(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("relay", "function_route"):
        if name in request.fixturenames:
            request.getfixturevalue(name).endpoint.heal()
