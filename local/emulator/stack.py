"""The relay's own template, built and deployed by the real SAM CLI into the ministack emulator on loopback.

Nothing here defines a second stack, and nothing here can reach AWS: every client and every child process is given the
emulator's address and made-up credentials.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import boto3
import botocore.session
import trustme
import urllib3
from botocore.config import Config

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".venv"
REGION = "eu-central-1"
START_TIMEOUT_S = 60
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, the terminal is closed

# ministack asks for these under the names of the API calls; AWS asks for the action on the left for both.
BATCH_TWINS = {
    "dynamodb:PartiQLInsert": "dynamodb:BatchExecuteStatement",
    "sqs:SendMessage": "sqs:SendMessageBatch",
    "sqs:ChangeMessageVisibility": "sqs:ChangeMessageVisibilityBatch",
}


class StackError(Exception):
    """The local stack can't be set up. The message is for the person who asked for it."""


def free_port() -> int:
    """Return a loopback port that is free now. Linux gives none of this range to outgoing connections meanwhile."""
    for port in random.sample(range(10_240, 32_768), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise StackError("No loopback port from 10240 to 32767 is free.")


def require_free(port: int, what: str, variable: str) -> None:
    """Raise a `StackError` with a way out if a port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            raise StackError(f"{variable} must be a port from 1 to 65535, not {port}.") from None
        except OSError:
            raise StackError(
                f"Port {port}, meant for {what}, is taken. If that is an earlier `make up`, `make down` ends it; "
                f"else choose another port with {variable}=..."
            ) from None


@dataclass
class LocalStack:
    """An emulator process, and stacks deployed into it.

    Attributes:
        state: a directory for all that the emulator and SAM write.
        port: the emulator's loopback port.
        say: takes a line for every step, for whoever waits.
    """

    state: Path
    port: int
    say: Callable[[str], None] = lambda _line: None
    pid: int = field(default=0, init=False)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False)

    @property
    def url(self) -> str:
        """The emulator's endpoint."""
        return f"https://localhost:{self.port}"

    @property
    def ca_bundle(self) -> Path:
        """The certificate authority that clients of the emulator trust."""
        return self.state / "ca.pem"

    @property
    def environment(self) -> dict[str, str]:
        """What the AWS CLI, SAM or boto3 need in their environment to talk to the emulator, and to nothing else."""
        nowhere = str(self.state / "no-such-file")
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CA_BUNDLE": str(self.ca_bundle),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "SAM_CLI_TELEMETRY": "0",
            "SAM_CLI_POLL_DELAY": "0.5",
        }

    def start(self) -> None:
        """Start the emulator and wait until it answers.

        TLS, because the queues refuse plain http; AUTH, so that a permission which the function's role lacks shows up.
        """
        python = TOOLS / "emulator" / "bin" / "python"
        if not python.exists():
            raise StackError(f"{python} is missing: run `make setup` first.")
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "tmp").mkdir(exist_ok=True)
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(str(self.ca_bundle))
        certificate.private_key_pem.write_to_path(str(self.state / "key.pem"))
        (self.state / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
        environment = {
            "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.state),
            "TMPDIR": str(self.state / "tmp"),
            "STATE_DIR": str(self.state),
            **self.environment,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "MINISTACK_REGION": REGION,
            "MINISTACK_SSL_CERT": str(self.state / "cert.pem"),
            "MINISTACK_SSL_KEY": str(self.state / "key.pem"),
            "USE_SSL": "1",
            "AUTH": "true",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }
        with (self.state / "emulator.log").open("wb") as log, signals_held():
            self._process = subprocess.Popen(
                [str(python), "-m", "ministack"],
                env=environment,
                cwd=self.state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we end it
            )
        self.pid = self._process.pid
        self._wait_until_healthy(self._process)

    def _wait_until_healthy(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with urllib3.PoolManager(ca_certs=str(self.ca_bundle), retries=False, timeout=2) as http:
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    if http.request("GET", f"{self.url}/_ministack/health").status == 200:
                        return
                time.sleep(0.1)
        log = (self.state / "emulator.log").read_text(errors="replace")
        self.stop()
        raise StackError(f"The emulator did not start. Its last words:\n{log[-2000:]}")

    def stop(self) -> None:
        """End the emulator and the functions' workers, which are its children."""
        with signals_held():
            if self._process is not None:
                end_session(self._process.pid, self._process.wait)
                self._process = None

    def build(self) -> Path:
        """Run `sam build`; return the built template."""
        if shutil.which("make") is None:
            raise StackError("`sam build` needs make, and there is none on PATH.")
        self.say("sam build")
        build = self.state / "build"
        self._sam("build", "--template-file", str(ROOT / "template.yaml"), "--build-dir", str(build), "--no-cached")
        return build / "template.yaml"

    def deploy(self, name: str, template: Path, parameters: Mapping[str, str | int]) -> "Deployment":
        """Run `sam deploy`; return the deployed stack, its role completed by what only the emulator asks for."""
        self.say(f"sam deploy {name}")
        # An uncapped mapping: ministack stalls on a cap that comes from a parameter. It also refuses
        # saved queries, and alarms on expressions.
        overrides = {"MaximumConcurrency": 0, "Monitoring": "false", **parameters}
        self._sam(
            *("deploy", "--template-file", str(template), "--stack-name", name, "--resolve-s3"),
            *(
                "--capabilities",
                "CAPABILITY_IAM",
                "CAPABILITY_AUTO_EXPAND",
                "--no-confirm-changeset",
                "--no-fail-on-empty-changeset",
            ),
            *("--parameter-overrides", *(f"{key}={value}" for key, value in overrides.items())),
        )
        deployment = Deployment(self, name)
        deployment.add_batch_twins()
        return deployment

    def _sam(self, *arguments: str) -> None:
        sam = TOOLS / "sam" / "bin" / "sam"
        if not sam.exists():
            raise StackError(f"{sam} is missing: run `make setup` first.")
        # Without the person's own profile, session token or endpoints of single services.
        own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment = {**own, **self.environment}
        environment["PATH"] = f"{TOOLS / 'dev' / 'bin'}:{environment.get('PATH', os.defpath)}"
        environment["TMPDIR"] = str(self.state / "tmp")  # where nothing is left behind if SAM is interrupted
        with contextlib.ExitStack() as ending:
            process = start_session(ending, [str(sam), *arguments], env=environment, stdout=subprocess.PIPE)
            words = process.communicate()[0].decode(errors="replace")
        if process.returncode:
            raise StackError(f"sam {arguments[0]} failed ({process.returncode}):\n{words[-4000:]}")

    @cached_property
    def _session(self) -> Any:
        # The person's own profile is of no use here, and it need not exist: our configuration file does not.
        session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
        return cast("Any", boto3).Session(botocore_session=session)

    def client(self, service: str) -> Any:
        """Return a boto3 client of the emulator."""
        return self._session.client(
            service,
            endpoint_url=self.url,
            verify=str(self.ca_bundle),
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106 - the emulator's
            config=Config(proxies={}, max_pool_connections=20, retries={"total_max_attempts": 3}),
        )


@dataclass
class Deployment:
    """A deployed stack: its outputs, and what people do with it."""

    stack: LocalStack
    name: str

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs by name."""
        described = self.stack.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"][0]
        return {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}

    @cached_property
    def sqs(self) -> Any:
        """A client for the queues."""
        return self.stack.client("sqs")

    @cached_property
    def bus(self) -> Any:
        """A client for the event bus."""
        return self.stack.client("events")

    @cached_property
    def role(self) -> str:
        """The name of the function's role."""
        resource = self.stack.client("cloudformation").describe_stack_resource(
            StackName=self.name, LogicalResourceId="RelayRole"
        )
        name: str = resource["StackResourceDetail"]["PhysicalResourceId"]
        return name

    def add_batch_twins(self) -> None:
        """Allow the role the emulator's names of the actions that the template allows, and nothing else."""
        iam = self.stack.client("iam")
        document = iam.get_role_policy(RoleName=self.role, PolicyName="relay")["PolicyDocument"]
        twins = []
        for statement in document["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if allowed := [BATCH_TWINS[action] for action in actions if action in BATCH_TWINS]:
                # Of a PartiQL statement the emulator doesn't see which table it is for.
                resource = "*" if "dynamodb:BatchExecuteStatement" in allowed else statement["Resource"]
                twins.append({"Effect": "Allow", "Action": allowed, "Resource": resource})
        policy = {"Version": "2012-10-17", "Statement": twins}
        iam.put_role_policy(RoleName=self.role, PolicyName="emulator-only", PolicyDocument=json.dumps(policy))

    def fill_secret(self, api_key: str, user_id: str) -> None:
        """Put credentials into the stack's secret."""
        self.stack.client("secretsmanager").put_secret_value(
            SecretId=self.outputs["CredentialsSecretArn"],
            SecretString=json.dumps({"api_key": api_key, "user_id": user_id}),
        )

    def shorten_visibility(self, seconds: int) -> None:
        """Let messages that the function did not hide come back sooner than the template has it."""
        self.sqs.set_queue_attributes(
            QueueUrl=self.outputs["ResultQueueUrl"], Attributes={"VisibilityTimeout": str(seconds)}
        )

    @contextlib.contextmanager
    def receives_limited(self, count: int) -> Iterator[None]:
        """Have SQS give messages up after fewer receives than the template has it."""
        url = self.outputs["ResultQueueUrl"]
        reply = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])
        before = reply["Attributes"]["RedrivePolicy"]
        fewer = json.dumps({**json.loads(before), "maxReceiveCount": count})
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": fewer})
        try:
            yield
        finally:
            self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": before})

    def send(self, bodies: list[str]) -> list[str]:
        """Put bodies on the result queue; return their message ids."""
        ids = []
        for start in range(0, len(bodies), 10):
            entries = [{"Id": str(i), "MessageBody": body} for i, body in enumerate(bodies[start : start + 10])]
            reply = self.sqs.send_message_batch(QueueUrl=self.outputs["ResultQueueUrl"], Entries=entries)
            ids += [entry["MessageId"] for entry in reply["Successful"]]
        return ids

    def put_events(self, details: list[str], source: str = "flash-call.verification") -> list[str]:
        """Put results on the event bus; return the events' ids."""
        ids = []
        for start in range(0, len(details), 10):
            entries = [
                {
                    "Source": source,
                    "DetailType": "Flash Call Result",
                    "Detail": detail,
                    "EventBusName": self.outputs["EventBusName"],
                }
                for detail in details[start : start + 10]
            ]
            reply = self.bus.put_events(Entries=entries)
            if reply["FailedEntryCount"]:
                raise StackError(f"the bus refused events: {reply['Entries']}")
            ids += [entry["EventId"] for entry in reply["Entries"]]
        return ids

    def invoke(self, event: object) -> dict[str, Any]:
        """Invoke the function with an event; return its reply, with `FunctionError` where it raised."""
        reply = self.stack.client("lambda").invoke(
            FunctionName=self.outputs["FunctionName"], Payload=json.dumps(event).encode()
        )
        return {"Payload": json.loads(reply["Payload"].read()), "FunctionError": reply.get("FunctionError")}

    def depth(self, output: str) -> int:
        """Return how many messages a queue holds: visible, hidden or delayed."""
        names = ["", "NotVisible", "Delayed"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.outputs[output], AttributeNames=["All"])["Attributes"]
        return sum(int(attributes[f"ApproximateNumberOfMessages{name}"]) for name in names)

    def peek(self, output: str) -> list[dict[str, Any]]:
        """Return all messages of a queue as the emulator holds them, hidden ones too, and leave them there."""
        url = f"{self.stack.url}/_ministack/sqs/messages"
        with urllib3.PoolManager(ca_certs=str(self.stack.ca_bundle), retries=False, timeout=60) as http:
            held = http.request("GET", url, fields={"QueueUrl": self.outputs[output]}).json()["messages"]
        return [
            message
            for regions in held.values()
            for queues in regions.values()
            for messages in queues.values()
            for message in messages
        ]

    def take_all(self, output: str) -> list[dict[str, Any]]:
        """Receive and delete what is visible on a queue; `Reasons` holds the attributes' values by name."""
        messages: list[dict[str, Any]] = []
        url = self.outputs[output]
        while True:
            batch = self.sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=0
            ).get("Messages", [])
            if not batch:
                return messages
            for message in batch:
                attributes = message.get("MessageAttributes", {})
                message["Reasons"] = {name: value["StringValue"] for name, value in attributes.items()}
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            messages += batch

    def log(self) -> list[dict[str, Any]]:
        """Return the function's JSON log lines, oldest first (the emulator's own time is the invocation's end)."""
        return sorted(
            (line for line in self._json() if "_aws" not in line), key=lambda line: str(line.get("timestamp"))
        )

    def metrics(self) -> list[dict[str, Any]]:
        """Return the blobs that carry the function's metrics."""
        return [line for line in self._json() if "_aws" in line]

    def _json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw_log() if line.startswith("{")]

    def raw_log(self) -> list[str]:
        """Return all that the function wrote, oldest first."""
        logs = self.stack.client("logs")
        lines: list[tuple[int, str]] = []
        token: dict[str, str] = {}
        while True:
            page = logs.filter_log_events(logGroupName=self.outputs["LogGroupName"], **token)
            lines += [(event["timestamp"], event["message"].rstrip()) for event in page["events"]]
            if not page.get("nextToken"):
                return [line for _, message in sorted(lines, key=lambda at: at[0]) for line in message.splitlines()]
            token = {"nextToken": page["nextToken"]}


def start_session(
    ending: contextlib.ExitStack, command: list[str], *, cwd: Path = ROOT, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start a process as the leader of a session of its own; `ending` ends it. So Ctrl-C is for us alone."""
    with signals_held():
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        ending.callback(end_session, process.pid, process.wait)
    return process


def end_session(pid: int, reap: Callable[[], object] = lambda: None) -> None:
    """End a process that was started as the leader of a session of its own, and what it started in turn.

    At once: nothing in there has anything to save, and the emulator takes its time over SIGTERM. `reap` is for who is
    its parent.
    """
    with signals_held(), contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
        reap()
        wait_until(lambda: os.killpg(pid, 0), limit_s=2)  # until it raises: the last of the group is gone


def wait_until(condition: Callable[[], object], limit_s: float, every_s: float = 0.05) -> bool:
    """Wait until a condition holds; return whether it did within the limit."""
    deadline = time.monotonic() + limit_s
    while not (holds := bool(condition())) and time.monotonic() < deadline:
        time.sleep(every_s)
    return holds


@contextlib.contextmanager
def running(stack: LocalStack) -> Iterator[LocalStack]:
    """Start an emulator for the length of a `with` block."""
    try:
        stack.say(f"starting the emulator on {stack.url}")
        stack.start()
        yield stack
    finally:
        stack.stop()


# ---- what the commands share ----


class Interrupted(BaseException):
    """A signal asks us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_command(command: Callable[[], int]) -> int:
    """Run a command, cleaning up on the signals that end it; return its exit code."""
    for number in ENDINGS:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, _interrupt)
    try:
        return command()
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print("interrupted, cleaned up", file=sys.stderr)
        return 128 + interrupted.number


def _interrupt(number: int, _frame: object) -> None:
    for other in ENDINGS:  # once is enough: from here on we clean up
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Put the signals that end us off to the end of the block, where a process must start or end and be noted."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets them
        yield
        return
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def stopwatch(show: Callable[[str], object]) -> Callable[[str], None]:
    """Return what shows a line with the time that has passed since now."""
    began = time.monotonic()

    def say(line: str) -> None:
        show(f"{time.monotonic() - began:6.1f} s  {line}")

    return say


def add_ports(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where to listen."""
    parser.add_argument("--emulator-port", type=int, default=4566, help="on 127.0.0.1 (default %(default)s)")
    parser.add_argument("--endpoint-port", type=int, default=8787, help="on 127.0.0.1 (default %(default)s)")


def require_ports(options: argparse.Namespace) -> None:
    """Raise a `StackError` with a way out if one of these ports is taken."""
    require_free(options.emulator_port, "the emulator", "EMULATOR_PORT")
    require_free(options.endpoint_port, "the endpoint", "ENDPOINT_PORT")
