"""The relay as a deployed stack, and the endpoint it reports to."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from local.emulator.deployment import Deployment
from local.endpoint.standin import StandIn
from local.processes import wait_until
from ops.queues import Queue

LIMIT_S = 300  # only a failing test waits this long
VISIBILITY_S = 60  # the messages of a killed function come back sooner than that limit, and those of a slow one do not
# The rules of docs/integrating.md, "Events of another shape".
SENDER_RULES = ("acme-verified", "acme-not-verified")


@dataclass
class DeployedRelay:
    """A deployed relay, and the endpoint it reports to."""

    deployment: Deployment
    endpoint: StandIn

    def put_events(self, *results: dict[str, str]) -> None:
        """Put results on the event bus."""
        self.deployment.put_events([json.dumps(result) for result in results], f"tests.{self.deployment.name}")

    def send(self, *bodies: dict[str, str] | str) -> list[str]:
        """Send results, or bodies as they are, to the result queue; return their message ids."""
        return self.deployment.send([body if isinstance(body, str) else json.dumps(body) for body in bodies])

    def send_known(self, *results: dict[str, str]) -> list[str]:
        """Issue the calls of these results at the endpoint, then send the results; return their message ids."""
        self.endpoint.issue(*(one["uuid"] for one in results))
        return self.send(*results)

    def invoke(self, event: object) -> dict[str, Any]:
        """Invoke the function with an event; return its `Payload`, and its `FunctionError` if it raised."""
        asked = {"FunctionName": self.deployment.outputs["FunctionName"], "Payload": json.dumps(event).encode()}
        reply = self.deployment.client("lambda").invoke(**asked)
        return {"Payload": json.loads(reply["Payload"].read()), "FunctionError": reply.get("FunctionError")}

    def put(self, output: str, *messages: tuple[str, Mapping[str, str | int]]) -> dict[str, str]:
        """Put bodies with their message attributes on a queue; return the bodies by message id."""
        ids = self.deployment.put(
            output,
            [{"MessageBody": body, "MessageAttributes": message_attributes(values)} for body, values in messages],
        )
        return dict(zip(ids, (body for body, _ in messages), strict=True))

    def visible(self, output: str) -> int:
        """Return the number of a queue's messages that SQS would return to a receive now."""
        return Queue(self.deployment.sqs, self.deployment.outputs[output]).depth().visible

    def confirmed(self, uuid: str) -> str | None:
        """Return the status that the ledger holds for a uuid; None without an entry."""
        item = self.ledger_entry(uuid)
        return item["status"]["S"] if item else None

    def ledger_entry(self, uuid: str) -> dict[str, Any] | None:
        """Return the ledger's entry for a uuid; None if there is none."""
        key = {"TableName": self.deployment.outputs["LedgerTableName"], "Key": {"uuid": {"S": uuid}}}
        item: dict[str, Any] | None
        item = self.deployment.client("dynamodb").get_item(**key, ConsistentRead=True).get("Item")
        return item

    @contextlib.contextmanager
    def reconfigured(self, **environment: str) -> Iterator[None]:
        """Run with these further environment variables, in new execution environments."""
        asked, client = {"FunctionName": self.deployment.outputs["FunctionName"]}, self.deployment.client("lambda")
        before = self.deployment.variables()
        client.update_function_configuration(**asked, Environment={"Variables": before | environment})
        try:
            yield
        finally:
            client.update_function_configuration(**asked, Environment={"Variables": before})

    def active(self) -> None:
        """Wait until the function's last change has taken effect."""
        function, client = self.deployment.outputs["FunctionName"], self.deployment.client("lambda")
        wait_for(lambda: client.get_function_configuration(FunctionName=function)["State"] == "Active", "the function")

    def role_policy(self) -> dict[str, Any]:
        """Return the policy that the template gives to the function's role."""
        iam = self.deployment.client("iam")
        document: dict[str, Any]
        document = iam.get_role_policy(RoleName=self.deployment.role, PolicyName="relay")["PolicyDocument"]
        return document

    @contextlib.contextmanager
    def with_role_policy(self, document: dict[str, Any]) -> Iterator[None]:
        """Give the function's role this policy instead of the template's for the length of a `with` block."""
        before = self.role_policy()

        def put(policy: dict[str, Any]) -> None:
            asked = {"RoleName": self.deployment.role, "PolicyName": "relay"}
            self.deployment.client("iam").put_role_policy(**asked, PolicyDocument=json.dumps(policy))
            self.deployment.allow_batch_actions()

        put(document)
        try:
            yield
        finally:
            put(before)

    def settled(self) -> None:
        """Wait until the result queue is empty."""
        wait_for(lambda: self.deployment.depth("ResultQueueUrl") == 0, "an empty result queue")

    def accepted(self, *results: dict[str, str]) -> list[tuple[str, str]]:
        """Wait until the endpoint has accepted these results; return its acceptances of them, repeated ones too."""
        wanted = {one["uuid"] for one in results}
        wait_for(lambda: wanted <= {uuid for uuid, _ in self.endpoint.accepted}, "delivery")
        return sorted(pair for pair in self.endpoint.accepted if pair[0] in wanted)

    def story(self, uuid: str, least: int = 0) -> list[dict[str, object]]:
        """Wait for at least this many outcome lines of one uuid; return them, oldest first."""
        lines: list[dict[str, object]] = []

        def are_there() -> bool:
            lines[:] = [line for line in self.deployment.log() if line.get("uuid") == uuid]
            return len(lines) >= least

        wait_for(are_there, f"{least} outcome lines")
        return lines


def message_attributes(values: Mapping[str, str | int]) -> dict[str, dict[str, str]]:
    """Return values in SQS's form of message attributes."""
    return {
        name: {"DataType": "String" if isinstance(value, str) else "Number", "StringValue": str(value)}
        for name, value in values.items()
    }


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = LIMIT_S) -> None:
    """Wait until a condition holds; a TimeoutError names it by `what`."""
    if not wait_until(condition, timeout_s, every_s=0.1):
        raise TimeoutError(f"{what}: not within {timeout_s} s")
