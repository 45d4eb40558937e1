"""The deployed stack: the template as it is, built and deployed once a run, with the role's policy enforced."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from local.endpoint import StandIn
from local.stack import Deployment, LocalStack

SHORT: dict[str, str | int] = {
    "RetryBaseSeconds": 1,
    "RetryCapSeconds": 3,
    "RequestTimeoutSeconds": 2,
    "UnknownCallGraceSeconds": 8,
}


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

    def story(self, uuid: str) -> list[dict[str, object]]:
        """Return the outcome lines of one uuid, oldest first."""
        return [line for line in self.deployment.log() if line.get("uuid") == uuid]


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition holds, and say what did not come true if it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def built(emulator: LocalStack) -> Path:
    """Run the real `sam build`, once."""
    return emulator.build()


@pytest.fixture(scope="session")
def relay(emulator: LocalStack, built: Path) -> Iterator[Relay]:
    """Deploy the relay with events routed to the queue."""
    yield from _deployed(emulator, built, "relay", "queue")


@pytest.fixture(scope="session")
def function_route(emulator: LocalStack, built: Path) -> Iterator[Relay]:
    """Deploy the relay with events routed straight to the function, from a source of its own."""
    yield from _deployed(emulator, built, "function-route", "function")


@pytest.fixture(scope="session")
def without_credentials(emulator: LocalStack, built: Path) -> Iterator[Relay]:
    """Deploy the relay and leave its secret empty, as it is after a first `sam deploy`."""
    yield from _deployed(emulator, built, "without-credentials", "none", fill_secret=False)


def _deployed(emulator: LocalStack, built: Path, name: str, route: str, *, fill_secret: bool = True) -> Iterator[Relay]:
    api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
    with StandIn(api_key=api_key, user_id=user_id) as endpoint:
        parameters = {**SHORT, "WebhookUrl": endpoint.url, "EventRoute": route, "EventSource": f"tests.{name}"}
        deployment = emulator.deploy(name, built, parameters)
        if fill_secret:
            deployment.fill_secret(api_key, user_id)
        yield Relay(deployment, endpoint, api_key, user_id)


@pytest.fixture(autouse=True)
def _behaving(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("relay", "function_route"):
        if name in request.fixturenames:
            request.getfixturevalue(name).endpoint.heal()
