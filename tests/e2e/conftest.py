"""The deployed stack: this template, built and deployed once a run, with the role's policy enforced."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.emulator.deployment import Deployment, sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import StandIn
from local.soak.run import PARAMETERS
from tests.support.deployed import SENDER_RULES, VISIBILITY_S, DeployedRelay
from tests.support.operator import Operator

SHORT: dict[str, str | int] = {
    "RetryBaseSeconds": 1,
    "RetryCapSeconds": 3,
    # Long enough for a stalled machine: a test that waits for a time-out sets its own.
    "RequestTimeoutSeconds": 10,
    "UnknownCallGraceSeconds": 20,
}


@pytest.fixture(scope="session")
def built(emulator: Emulator) -> Path:
    """Run the real `sam build`, once."""
    return sam_build(emulator)


@pytest.fixture(scope="session")
def package(built: Path) -> Path:
    """Return the function's package that `sam build` made."""
    return built.parent / "RelayFunction"


@pytest.fixture(scope="session")
def soaked(emulator: Emulator, built: Path) -> Deployment:
    """Deploy one relay for all soaks."""
    return sam_deploy(emulator, "soak", built, PARAMETERS)


@pytest.fixture(scope="session")
def relay(emulator: Emulator, built: Path) -> Iterator[DeployedRelay]:
    """Deploy the relay with events routed to the queue, and with two more rules that may send to it."""
    arns = ",".join(f"arn:aws:events:eu-central-1:000000000000:rule/{name}" for name in SENDER_RULES)
    yield from _deployed(emulator, built, "relay", {"EventRoute": "queue", "SenderRuleArns": arns})


@pytest.fixture(scope="session")
def function_route(emulator: Emulator, built: Path) -> Iterator[DeployedRelay]:
    """Deploy the relay with events routed to the function, and without a ledger."""
    yield from _deployed(emulator, built, "function-route", {"EventRoute": "function", "Deduplication": "false"})


@pytest.fixture(scope="session")
def without_credentials(emulator: Emulator, built: Path) -> Iterator[DeployedRelay]:
    """Deploy the relay with an empty secret, as after a first `sam deploy`."""
    yield from _deployed(emulator, built, "without-credentials", {"EventRoute": "none"}, fill_secret=False)


@pytest.fixture(scope="session")
def permitted(emulator: Emulator, built: Path) -> Iterator[DeployedRelay]:
    """Deploy the relay with all permissions that its role can have for a secret of the stack, and without polling."""
    parameters = {
        "EventRoute": "none",
        "OutcomeBusName": "default",
        "PermissionsBoundaryArn": "arn:aws:iam::000000000000:policy/boundary",
        "IamPath": "/acme/relay/",
        "PointInTimeRecovery": "true",
        "SenderPrincipalArns": "arn:aws:iam::111122223333:root",
        "KmsKeyArn": emulator.client("kms").create_key()["KeyMetadata"]["Arn"],
        "SubnetIds": "subnet-0a1b2c3d,subnet-0a1b2c3e",
        "SecurityGroupIds": "sg-0a1b2c3d",
    }
    for relay in _deployed(emulator, built, "permitted", parameters):
        relay.deployment.poll(on=False)
        yield relay


@pytest.fixture
def swept(relay: DeployedRelay) -> Iterator[DeployedRelay]:
    """Return the relay with empty queues, and empty them after the test."""
    relay.settled()
    relay.deployment.purge_queues()
    yield relay
    relay.settled()
    relay.deployment.purge_queues()


@pytest.fixture(scope="session")
def operator(emulator: Emulator) -> Operator:
    """Return an operator with all permissions."""
    return Operator(emulator)


def _deployed(
    emulator: Emulator, built: Path, name: str, parameters: dict[str, str], *, fill_secret: bool = True
) -> Iterator[DeployedRelay]:
    with StandIn() as endpoint:
        places = {"WebhookUrl": endpoint.url, "EventSource": f"tests.{name}"}
        deployment = sam_deploy(emulator, name, built, {**SHORT, **places, **parameters})
        deployment.shorten_visibility(VISIBILITY_S)
        if fill_secret:
            deployment.fill_secret(*endpoint.credentials)
        relay = DeployedRelay(deployment, endpoint)
        relay.active()
        yield relay
