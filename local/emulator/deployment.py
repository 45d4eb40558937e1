"""The relay's own template, built and deployed into the emulator by the real SAM CLI."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import urllib3

from local import ROOT, TOOLS
from local.emulator.emulator import Emulator
from local.processes import LocalError, start_session, tool
from ops.queues import Queue

# AWS has one action for a call and its batch call. ministack asks for the batch call's name as an action of its own. It
# knows no conditions on PutEvents.
BATCH_ACTIONS = {
    "events:PutEvents": "events:PutEvents",
    "dynamodb:PartiQLInsert": "dynamodb:BatchExecuteStatement",
    "sqs:SendMessage": "sqs:SendMessageBatch",
    "sqs:ChangeMessageVisibility": "sqs:ChangeMessageVisibilityBatch",
}
PAGE_LINES = 10_000
LATE_LOG_MS = 60_000  # the emulator may take this long from an invocation's timestamp to its stream


def sam_build(emulator: Emulator) -> Path:
    """Run `sam build`; return the built template."""
    if shutil.which("make") is None:
        raise LocalError("`sam build` needs make, and there is none on PATH.")
    emulator.say("sam build")
    build = emulator.state / "build"
    _sam(emulator, "build", "--template-file", str(ROOT / "template.yaml"), "--build-dir", str(build), "--no-cached")
    return build / "template.yaml"


def sam_deploy(emulator: Emulator, name: str, template: Path, parameters: Mapping[str, str | int]) -> "Deployment":
    """Run `sam deploy`; return the deployed stack, with the permissions that only the emulator asks for."""
    # ministack stalls on a concurrency cap from a parameter. It refuses saved queries and alarms on metric math.
    deployment = deploy_stack(emulator, name, template, {"MaximumConcurrency": 0, "Monitoring": "false", **parameters})
    deployment.allow_batch_actions()
    return deployment


def deploy_stack(emulator: Emulator, name: str, template: Path, parameters: Mapping[str, str | int]) -> "Deployment":
    """Run `sam deploy` with a template; return the stack."""
    emulator.say(f"sam deploy {name}")
    overrides = [f"{key}={value}" for key, value in parameters.items()]
    _sam(
        emulator,
        *("deploy", "--template-file", str(template), "--stack-name", name, "--resolve-s3"),
        *("--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"),
        *("--no-confirm-changeset", "--no-fail-on-empty-changeset"),
        *(("--parameter-overrides", *overrides) if overrides else ()),
    )
    return Deployment(emulator, name)


def _sam(emulator: Emulator, *arguments: str) -> None:
    # Without the AWS profile, session token or service endpoints of the person who runs this.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = {**inherited, **emulator.environment}
    environment["PATH"] = f"{TOOLS / 'dev' / 'bin'}:{environment.get('PATH', os.defpath)}"
    environment["TMPDIR"] = str(emulator.state / "tmp")  # SAM leaves files there if it is interrupted
    with contextlib.ExitStack() as ending:
        command = [str(tool("sam/bin/sam")), *arguments]
        process = start_session(ending, command, env=environment, stdout=subprocess.PIPE)
        output = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        raise LocalError(f"sam {arguments[0]} failed ({process.returncode}):\n{output[-4000:]}")


@dataclass
class Deployment:
    """A deployed stack: its outputs, its queues, its bus, its function and its logs."""

    emulator: Emulator
    name: str
    _invocations: dict[str, tuple[int, list[str]]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs by name."""
        return {output["OutputKey"]: output["OutputValue"] for output in self._description["Outputs"]}

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The stack's parameters by name."""
        return {one["ParameterKey"]: one["ParameterValue"] for one in self._description["Parameters"]}

    @cached_property
    def _description(self) -> dict[str, Any]:
        stacks = self.emulator.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        description: dict[str, Any] = stacks[0]
        return description

    @cached_property
    def sqs(self) -> Any:
        """A client of SQS."""
        return self.emulator.client("sqs")

    @cached_property
    def bus(self) -> Any:
        """A client of EventBridge."""
        return self.emulator.client("events")

    @cached_property
    def role(self) -> str:
        """The name of the function's role."""
        resource = self.emulator.client("cloudformation").describe_stack_resource(
            StackName=self.name, LogicalResourceId="RelayRole"
        )
        name: str = resource["StackResourceDetail"]["PhysicalResourceId"]
        return name

    def variables(self) -> dict[str, str]:
        """Return the function's environment variables."""
        client = self.emulator.client("lambda")
        configuration = client.get_function_configuration(FunctionName=self.outputs["FunctionName"])
        variables: dict[str, str] = configuration["Environment"]["Variables"]
        return variables

    def poll(self, *, on: bool) -> None:
        """Enable or disable the event source mapping."""
        mapping = self.outputs["EventSourceMappingId"]
        self.emulator.client("lambda").update_event_source_mapping(UUID=mapping, Enabled=on)

    def allow_batch_actions(self) -> None:
        """Allow the role the emulator's batch action for each action of AWS that the template allows."""
        iam = self.emulator.client("iam")
        document = iam.get_role_policy(RoleName=self.role, PolicyName="relay")["PolicyDocument"]
        allowed = []
        for statement in document["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if batch := [BATCH_ACTIONS[action] for action in actions if action in BATCH_ACTIONS]:
                # The emulator does not see which table a PartiQL statement is for.
                resource = "*" if "dynamodb:BatchExecuteStatement" in batch else statement["Resource"]
                allowed.append({"Effect": "Allow", "Action": batch, "Resource": resource})
        policy = {"Version": "2012-10-17", "Statement": allowed}
        iam.put_role_policy(RoleName=self.role, PolicyName="emulator-only", PolicyDocument=json.dumps(policy))

    def fill_secret(self, api_key: str, user_id: str) -> None:
        """Put credentials into the stack's secret."""
        self.emulator.client("secretsmanager").put_secret_value(
            SecretId=self.outputs["CredentialsSecretArn"],
            SecretString=json.dumps({"api_key": api_key, "user_id": user_id}),
        )

    def shorten_visibility(self, seconds: int) -> None:
        """Set the result queue's visibility timeout, for messages that the function does not hide."""
        self.sqs.set_queue_attributes(
            QueueUrl=self.outputs["ResultQueueUrl"], Attributes={"VisibilityTimeout": str(seconds)}
        )

    @contextlib.contextmanager
    def receives_limited(self, count: int) -> Iterator[None]:
        """Have SQS move messages to the dead-letter queue after this many receives, within a `with` block."""
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
        for batch in _batches(bodies):
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(batch)]
            reply = self.sqs.send_message_batch(QueueUrl=self.outputs["ResultQueueUrl"], Entries=entries)
            ids += [entry["MessageId"] for entry in reply["Successful"]]
        return ids

    def put_events(self, details: list[str], source: str = "flash-call.verification") -> list[str]:
        """Put results on the event bus; return the events' ids."""
        ids = []
        common = {"Source": source, "DetailType": "Flash Call Result", "EventBusName": self.outputs["EventBusName"]}
        for batch in _batches(details):
            reply = self.bus.put_events(Entries=[{**common, "Detail": detail} for detail in batch])
            if reply["FailedEntryCount"]:
                raise LocalError(f"the bus refused events: {reply['Entries']}")
            ids += [entry["EventId"] for entry in reply["Entries"]]
        return ids

    def invoke(self, event: object) -> dict[str, Any]:
        """Invoke the function with an event; return its `Payload`, and its `FunctionError` if it raised."""
        reply = self.emulator.client("lambda").invoke(
            FunctionName=self.outputs["FunctionName"], Payload=json.dumps(event).encode()
        )
        return {"Payload": json.loads(reply["Payload"].read()), "FunctionError": reply.get("FunctionError")}

    def depth(self, output: str) -> int:
        """Return the number of messages that SQS reports for the queue: visible, hidden and delayed."""
        return Queue(self.sqs, self.outputs[output]).depth().total

    def peek(self, output: str) -> list[dict[str, Any]]:
        """Return all messages of a queue, hidden ones too, without receiving them."""
        url = f"{self.emulator.url}/_ministack/sqs/messages"
        with urllib3.PoolManager(ca_certs=str(self.emulator.ca_bundle), retries=False, timeout=60) as http:
            held = http.request("GET", url, fields={"QueueUrl": self.outputs[output]}).json()["messages"]
        return [
            message
            for regions in held.values()
            for queues in regions.values()
            for messages in queues.values()
            for message in messages
        ]

    def purge_queues(self) -> None:
        """Delete the messages of all queues."""
        for output in ("ResultQueueUrl", "ParkedQueueUrl", "DeadLetterQueueUrl"):
            self.sqs.purge_queue(QueueUrl=self.outputs[output])

    def take_all(self, output: str) -> list[dict[str, Any]]:
        """Receive and delete the visible messages of a queue; `Reasons` holds their attributes by name."""
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
        """Return the function's JSON log lines, without metrics, in the order of their own timestamps."""
        return sorted(
            (line for line in self._json() if "_aws" not in line), key=lambda line: str(line.get("timestamp"))
        )

    def metrics(self) -> list[dict[str, Any]]:
        """Return the log lines in the Embedded Metric Format, which carry the function's metrics."""
        return [line for line in self._json() if "_aws" in line]

    def _json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw_log() if line.startswith("{")]

    def raw_log(self) -> list[str]:
        """Return all lines that the function wrote, oldest first."""
        # The emulator returns at most 10,000 lines, the oldest, and no token. It puts all lines of an invocation into
        # one stream, with one timestamp.
        logs, newest = self.emulator.client("logs"), max((at for at, _ in self._invocations.values()), default=0)
        since, is_full = max(0, newest - LATE_LOG_MS), True
        while is_full:
            page = logs.filter_log_events(logGroupName=self.outputs["LogGroupName"], startTime=since)["events"]
            streams: dict[str, tuple[int, list[str]]] = {}
            for event in page:
                since = event["timestamp"]
                streams.setdefault(event["logStreamName"], (since, []))[1].extend(event["message"].splitlines())
            self._invocations |= streams
            is_full = len(page) == PAGE_LINES
        return [line for _, lines in sorted(self._invocations.values(), key=itemgetter(0)) for line in lines]


def _batches(items: list[str]) -> list[list[str]]:
    """Return the items in lists of ten, the most that SQS and EventBridge take in one call."""
    return [items[start : start + 10] for start in range(0, len(items), 10)]
