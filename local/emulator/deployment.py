"""The relay's own template, built and deployed into the emulator by the real SAM CLI."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import urllib3

from local import ROOT, TOOLS
from local.emulator.emulator import Emulator
from local.processes import LocalError, session, tool
from ops.queues import Queue
from ops.stack import Stack

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
    command = [str(tool("sam/bin/sam")), *arguments]
    with session(command, env=environment, stdout=subprocess.PIPE) as process:
        output = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        raise LocalError(f"sam {arguments[0]} failed ({process.returncode}):\n{output[-4000:]}")


class Deployment(Stack):
    """A deployed stack: its outputs, its queues, its bus, its function and its logs."""

    def __init__(self, emulator: Emulator, name: str) -> None:
        super().__init__(name)
        self.emulator = emulator
        self._invocations: dict[str, tuple[int, list[str]]] = {}

    def client(self, service: str, _config: object = None) -> Any:
        """Return the client of a service of the emulator."""
        return self.emulator.client(service)

    @cached_property
    def sqs(self) -> Any:
        """A client of SQS."""
        return self.client("sqs")

    @cached_property
    def role(self) -> str:
        """The name of the function's role."""
        asked = {"StackName": self.name, "LogicalResourceId": "RelayRole"}
        found = self.client("cloudformation").describe_stack_resource(**asked)["StackResourceDetail"]
        return str(found["PhysicalResourceId"])

    def variables(self) -> dict[str, str]:
        """Return the function's environment variables."""
        asked = {"FunctionName": self.outputs["FunctionName"]}
        return dict(self.client("lambda").get_function_configuration(**asked)["Environment"]["Variables"])

    def poll(self, *, on: bool) -> None:
        """Enable or disable the event source mapping."""
        mapping = self.outputs["EventSourceMappingId"]
        self.client("lambda").update_event_source_mapping(UUID=mapping, Enabled=on)

    def limit_environments(self, most: int) -> None:
        """Run the function in so many execution environments at most; 0: begin no more invocations."""
        asked = {"FunctionName": self.outputs["FunctionName"], "ReservedConcurrentExecutions": most}
        self.client("lambda").put_function_concurrency(**asked)

    def allow_batch_actions(self) -> None:
        """Allow the role the emulator's batch action for each action of AWS that the template allows."""
        iam = self.client("iam")
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
        self.client("secretsmanager").put_secret_value(
            SecretId=self.outputs["CredentialsSecretArn"],
            SecretString=json.dumps({"api_key": api_key, "user_id": user_id}),
        )

    def shorten_visibility(self, seconds: int) -> None:
        """Set the result queue's visibility timeout, for messages that the function does not hide."""
        self.sqs.set_queue_attributes(
            QueueUrl=self.outputs["ResultQueueUrl"], Attributes={"VisibilityTimeout": str(seconds)}
        )

    def send(self, bodies: Sequence[str]) -> list[str]:
        """Put bodies on the result queue; return their message ids."""
        return self.put("ResultQueueUrl", [{"MessageBody": body} for body in bodies])

    def put(self, output: str, messages: Sequence[Mapping[str, Any]]) -> list[str]:
        """Put messages on a queue; return their ids."""
        ids = []
        for batch in _batches(messages):
            entries = [{"Id": str(number), **one} for number, one in enumerate(batch)]
            reply = self.sqs.send_message_batch(QueueUrl=self.outputs[output], Entries=entries)
            ids += [entry["MessageId"] for entry in reply["Successful"]]
        return ids

    def put_events(self, details: Sequence[str], source: str = "flash-call.verification") -> None:
        """Put results on the event bus."""
        common = {"Source": source, "DetailType": "Flash Call Result", "EventBusName": self.outputs["EventBusName"]}
        for batch in _batches(details):
            reply = self.client("events").put_events(Entries=[{**common, "Detail": detail} for detail in batch])
            if reply["FailedEntryCount"]:
                raise LocalError(f"the bus refused events: {reply['Entries']}")

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

    def log(self, *, metrics: bool = False) -> list[dict[str, Any]]:
        """Return the function's JSON log lines in the order of their timestamps; or those that carry its metrics."""
        # The emulator returns at most 10,000 lines, the oldest, and no token. It puts all lines of an invocation into
        # one stream, with one timestamp.
        logs, newest = self.client("logs"), max((at for at, _ in self._invocations.values()), default=0)
        since, is_full = max(0, newest - LATE_LOG_MS), True
        while is_full:
            page = logs.filter_log_events(logGroupName=self.outputs["LogGroupName"], startTime=since)["events"]
            streams: dict[str, tuple[int, list[str]]] = {}
            for event in page:
                since = event["timestamp"]
                streams.setdefault(event["logStreamName"], (since, []))[1].extend(event["message"].splitlines())
            self._invocations |= streams
            is_full = len(page) == PAGE_LINES
        texts = [text for _, lines in self._invocations.values() for text in lines if text.startswith("{")]
        lines = [line for line in map(json.loads, texts) if ("_aws" in line) == metrics]
        return sorted(lines, key=lambda line: str(line.get("timestamp")))


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the items in lists of ten, the most that SQS and EventBridge take in one call."""
    return [items[start : start + 10] for start in range(0, len(items), 10)]
