"""The deployed stack: the template as it is, built and deployed once a run, with the role's policy enforced."""

import contextlib
import json
import secrets
import uuid as uuids
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from local.endpoint import StandIn
from local.stack import Deployment, LocalStack, wait_until

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
        function, client = self.deployment.outputs["FunctionName"], self.deployment.stack.client("lambda")
        client.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=1)
        try:
            yield
        finally:
            client.delete_function_concurrency(FunctionName=function)

    def _environment(self) -> dict[str, str]:
        function = self.deployment.outputs["FunctionName"]
        configuration = self.deployment.stack.client("lambda").get_function_configuration(FunctionName=function)
        variables: dict[str, str] = configuration["Environment"]["Variables"]
        return variables

    def _reconfigure(self, function: str, timeout_s: int, variables: dict[str, str]) -> None:
        self.deployment.stack.client("lambda").update_function_configuration(
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


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition holds, and say what did not come true if it does not."""
    if not wait_until(condition, timeout_s, every_s=0.1):
        raise TimeoutError(f"{what}: not within {timeout_s} s")


@pytest.fixture(scope="session")
def built(emulator: LocalStack) -> Path:
    """Run the real `sam build`, once."""
    return emulator.build()


@pytest.fixture(scope="session")
def relay(emulator: LocalStack, built: Path) -> Iterator[Relay]:
    """Deploy the relay with events routed to the queue."""
    yield from _deployed(emulator, built, "relay", {"EventRoute": "queue"})


@pytest.fixture(scope="session")
def function_route(emulator: LocalStack, built: Path) -> Iterator[Relay]:
    """Deploy the relay with events routed straight to the function, and without a ledger."""
    yield from _deployed(emulator, built, "function-route", {"EventRoute": "function", "Deduplication": "false"})


@pytest.fixture(scope="session")
def without_credentials(emulator: LocalStack, built: Path) -> Iterator[Relay]:
    """Deploy the relay and leave its secret empty, as it is after a first `sam deploy`."""
    yield from _deployed(emulator, built, "without-credentials", {"EventRoute": "none"}, fill_secret=False)


def _deployed(
    emulator: LocalStack, built: Path, name: str, parameters: dict[str, str], *, fill_secret: bool = True
) -> Iterator[Relay]:
    api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
    with StandIn(api_key=api_key, user_id=user_id) as endpoint:
        places = {"WebhookUrl": endpoint.url, "EventSource": f"tests.{name}"}
        deployment = emulator.deploy(name, built, {**SHORT, **places, **parameters})
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
