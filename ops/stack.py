"""A deployed stack, found by its name: its outputs, and clients for what they name."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ops.problems import Problem

# A person waits: two tries more, and no call for longer than a minute. Long polling takes 20 s of it at most.
CLIENTS = Config(
    connect_timeout=5,
    read_timeout=25,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=20,
    user_agent_extra="flash-call-relay-ops",
)


@dataclass(frozen=True)
class Depth:
    """What SQS says of a queue: about how many messages it holds, and how long it keeps each."""

    visible: int
    hidden: int
    delayed: int
    retention_s: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.visible + self.hidden + self.delayed


class Stack:
    """A stack of this template, on AWS or wherever `AWS_ENDPOINT_URL` points."""

    def __init__(self, name: str, *, region: str | None = None, profile: str | None = None) -> None:
        self.name = name
        self._session: Any = boto3.Session(region_name=region or None, profile_name=profile or None)
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        """The region it is in."""
        region: str = self.client("cloudformation").meta.region_name
        return region

    def client(self, service: str) -> Any:
        """Return a client; one per service.

        Raises:
            Problem: if `AWS_ENDPOINT_URL` is no URL.
        """
        if service not in self._clients:
            try:
                self._clients[service] = self._session.client(service, config=CLIENTS)
            except BotoCoreError:
                raise
            except ValueError as error:
                raise Problem(f"{error}: is AWS_ENDPOINT_URL right?") from None
        return self._clients[service]

    @cached_property
    def description(self) -> dict[str, Any]:
        """What CloudFormation says of the stack.

        Raises:
            Problem: if there is no such stack, naming those that there are.
        """
        try:
            stacks = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        except ClientError as error:
            fault = error.response.get("Error", {})
            if fault.get("Code") != "ValidationError":
                raise
            others = ", ".join(self._relays()) or "none"
            raise Problem(
                f"There is no stack {self.name!r} in {self.region}. Stacks of this relay there: {others}. "
                "Name one with --stack, or another --region or --profile."
            ) from None
        description: dict[str, Any] = stacks[0]
        return description

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs by name."""
        return {output["OutputKey"]: output["OutputValue"] for output in self.description.get("Outputs", ())}

    def output(self, name: str) -> str:
        """Return one output.

        Raises:
            Problem: if the stack does not have it, so that it is no relay, or not deployed to its end.
        """
        if name not in self.outputs:
            raise Problem(
                f"Stack {self.name!r} ({self.description['StackStatus']}) has no output {name}: "
                "is it a stack of this relay, and deployed to its end?"
            )
        return self.outputs[name]

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The parameters that the stack was deployed with."""
        return {one["ParameterKey"]: one["ParameterValue"] for one in self.description.get("Parameters", ())}

    @cached_property
    def rule(self) -> dict[str, str]:
        """The names of the rule and its bus, as EventBridge wants them; there is none with `EventRoute: none`."""
        resource = self.client("cloudformation").describe_stack_resource(
            StackName=self.name, LogicalResourceId="ResultRule"
        )
        bus, _, rule = resource["StackResourceDetail"]["PhysicalResourceId"].rpartition("|")
        return {"Rule": rule, "EventBusName": bus or self.output("EventBusName")}

    def depth(self, output: str) -> Depth:
        """Ask SQS about the queue whose URL is this output."""
        asked = {"QueueUrl": self.output(output), "AttributeNames": ["All"]}
        said = self.client("sqs").get_queue_attributes(**asked)["Attributes"]
        kinds = ("", "NotVisible", "Delayed")
        visible, hidden, delayed = (int(said[f"ApproximateNumberOfMessages{kind}"]) for kind in kinds)
        return Depth(visible, hidden, delayed, int(said["MessageRetentionPeriod"]))

    @cached_property
    def environment(self) -> dict[str, str]:
        """The function's environment variables: the settings that it runs with."""
        configuration = self.client("lambda").get_function_configuration(FunctionName=self.output("FunctionName"))
        variables: dict[str, str] = configuration["Environment"]["Variables"]
        return variables

    def _relays(self) -> list[str]:
        try:
            pages = self.client("cloudformation").get_paginator("describe_stacks").paginate()
            return [
                stack["StackName"]
                for page in pages
                for stack in page["Stacks"]
                if {"ResultQueueUrl", "ParkedQueueUrl"} <= {output["OutputKey"] for output in stack.get("Outputs", ())}
            ]
        except ClientError:  # who may describe one stack need not be allowed to list all
            return []
