"""A deployed stack, found by its name: outputs, parameters, settings, and clients for its services."""

import logging
import os
import shlex
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay.text import error_code
from ops.errors import EXPLAINED, CommandError, cause, withhold

# A person waits: three attempts of 30 s each at most. Long polling takes 20 s at most.
TRIES: Any = {"mode": "standard", "total_max_attempts": 3}
CLIENTS = Config(connect_timeout=5, read_timeout=25, retries=TRIES, user_agent_extra="flash-call-relay-ops")
# Longer than the function's time-out, and without a retry, which would run the function twice.
ONE_INVOCATION = CLIENTS.merge(Config(read_timeout=70, retries={"total_max_attempts": 1}, tcp_keepalive=True))
logging.getLogger("botocore.credentials").setLevel(logging.CRITICAL)  # its warnings hold the text of exceptions


def _options(options: dict[str, str | None]) -> str:
    return "".join(f" --{name.replace('_', '-')} {shlex.quote(value)}" for name, value in options.items() if value)


class Stack:
    """A stack of this template, on AWS or at `AWS_ENDPOINT_URL`."""

    def __init__(self, name: str, *, region: str | None = None, profile: str | None = None) -> None:
        self.name, self._region, self._profile = name, region or None, profile or None
        self._clients: dict[tuple[str, Config], Any] = {}

    def beside(self, name: str) -> "Stack":
        """Return another stack of this account and region."""
        return Stack(name, region=self._region, profile=self._profile)

    @property
    def region(self) -> str:
        """The region of the stack."""
        return str(self.client("cloudformation").meta.region_name)

    @property
    def label(self) -> str:
        """The name and the region of the stack, for a sentence."""
        return f"{self.name} ({self.region})"

    def command(self, words: str) -> str:
        """Return an operator's command for this stack, to copy and paste."""
        region = None if self._region == os.environ.get("AWS_REGION") else self._region
        options = {"stack": self.name, "region": region, "profile": self._profile}
        return f"flash-call-relay{_options(options)} {words}"

    def aws_command(self, words: str, **options: str) -> str:
        """Return a command of the AWS CLI for this stack's region, to copy and paste."""
        return f"aws {words}{_options({**options, 'region': self.region, 'profile': self._profile})}"

    @cached_property
    def _session(self) -> Any:
        return boto3.Session(region_name=self._region, profile_name=self._profile)

    def client(self, service: str, config: Config = CLIENTS) -> Any:
        """Return the client of a service; the same one at each call with this configuration."""
        self._check_credentials()
        if (service, config) not in self._clients:
            try:
                client = self._session.client(service, config=config)
                _ = urlsplit(client.meta.endpoint_url).port  # botocore reads it with the first request
            except BotoCoreError:
                raise
            except ValueError:
                raise CommandError("The endpoint is not a URL: check AWS_ENDPOINT_URL.") from None
            self._clients[service, config] = client
        return self._clients[service, config]

    def _check_credentials(self) -> None:
        """Read the credentials, and withhold them. A long command gets new ones, so each use of a client does this."""
        try:
            credentials = self._session.get_credentials()
            frozen = credentials and credentials.get_frozen_credentials()
        except EXPLAINED:
            raise
        except Exception as error:  # noqa: BLE001 - of a file, a program or JSON
            raise CommandError(f"The AWS credentials can't be read ({cause(error)}): check their source.") from None
        if frozen:  # without any, the first call says so
            withhold((frozen.access_key, frozen.secret_key, frozen.token or ""))

    @cached_property
    def description(self) -> Any:
        """CloudFormation's description of the stack. A stack that does not exist ends the command."""
        try:
            return self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"][0]
        except ClientError as error:
            if error_code(error) != "ValidationError":
                raise
            says = f"There is no stack {self.name!r} in {self.region}: name another --stack, --region or --profile."
            raise CommandError(says) from None

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs by name."""
        return {output["OutputKey"]: output["OutputValue"] for output in self.description.get("Outputs", ())}

    def output(self, name: str) -> str:
        """Return one output. A stack that lacks it ends the command."""
        if name not in self.outputs:
            status = self.description["StackStatus"]
            raise CommandError(f"{self.name!r} ({status}) has no output {name}: is it a relay stack, and complete?")
        return self.outputs[name]

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The stack's parameters by name."""
        return {one["ParameterKey"]: one["ParameterValue"] for one in self.description.get("Parameters", ())}

    @cached_property
    def rule(self) -> dict[str, str]:
        """The names of the rule and its bus, as EventBridge's API takes them. `EventRoute: none` has no rule."""
        client = self.client("cloudformation")
        found = client.describe_stack_resource(StackName=self.name, LogicalResourceId="ResultRule")
        bus, _, rule = found["StackResourceDetail"]["PhysicalResourceId"].rpartition("|")
        return {"Rule": rule, "EventBusName": bus or self.output("EventBusName")}
