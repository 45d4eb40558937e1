"""The deployed stack: this template, built and deployed once a run, with the role's policy enforced."""

import contextlib
import io
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.emulator.stack import ROOT, LocalStack
from local.endpoint.standin import StandIn
from ops import queue
from ops.cli import main
from tests.support import payloads
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.payloads import pairs

SHORT: dict[str, str | int] = {
    "RetryBaseSeconds": 1,
    "RetryCapSeconds": 3,
    "RequestTimeoutSeconds": 2,
    "UnknownCallGraceSeconds": 8,
}


# The tests of the operators' commands import these names from here.
Relay = DeployedRelay
__all__ = ["Ended", "Operator", "Relay", "ended", "pairs", "result", "wait_for"]


def result(status: str = "Success") -> dict[str, str]:
    """Return the result of a new call."""
    return payloads.result(status=status)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Operator:
    """Somebody at a machine of theirs with the command `flash-call-relay`."""

    emulator: LocalStack

    def __call__(self, *arguments: str, environment: Mapping[str, str | None] | None = None) -> Ended:
        """Run a command in this process; without the variables that are None."""
        out, err = io.StringIO(), io.StringIO()
        on_end = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queue, "POLL_S", 0)  # a short poll of the emulator misses nothing
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
        """Run a command in a process of its own, after the Python `before`; it is killed if it outlives the block."""
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
    """Wait for a process, telling it something on its standard input, and return how it ended."""
    out, err = process.communicate(says, timeout=60)
    return Ended(process.returncode, out, err)


@pytest.fixture(scope="session")
def built(emulator: LocalStack) -> Path:
    """Run the real `sam build`, once."""
    return emulator.build()


@pytest.fixture(scope="session")
def relay(emulator: LocalStack, built: Path) -> Iterator[DeployedRelay]:
    """Deploy the relay with events routed to the queue."""
    yield from _deployed(emulator, built, "relay", {"EventRoute": "queue"})


@pytest.fixture(scope="session")
def function_route(emulator: LocalStack, built: Path) -> Iterator[DeployedRelay]:
    """Deploy the relay with events routed to the function, and without a ledger."""
    yield from _deployed(emulator, built, "function-route", {"EventRoute": "function", "Deduplication": "false"})


@pytest.fixture(scope="session")
def without_credentials(emulator: LocalStack, built: Path) -> Iterator[DeployedRelay]:
    """Deploy the relay with an empty secret, as after a first `sam deploy`."""
    yield from _deployed(emulator, built, "without-credentials", {"EventRoute": "none"}, fill_secret=False)


@pytest.fixture(scope="session")
def permitted(emulator: LocalStack, built: Path) -> Iterator[DeployedRelay]:
    """Deploy the relay with all permissions that its role can have, and with its event source mapping disabled."""
    key = "arn:aws:kms:eu-central-1:000000000000:key/0b5d4a9e-7d2c-4c5e-9d0f-5b1f0a3c6e11"
    for relay in _deployed(emulator, built, "permitted", {"EventRoute": "none", "CredentialsKmsKeyArn": key}):
        relay.poll(on=False)
        yield relay


@pytest.fixture
def swept(relay: DeployedRelay) -> Iterator[DeployedRelay]:
    """Return the relay with empty queues, and empty them after the test."""
    relay.settled()
    relay.sweep()
    yield relay
    relay.settled()
    relay.sweep()


@pytest.fixture(scope="session")
def operator(emulator: LocalStack) -> Operator:
    """Return somebody who may do everything."""
    return Operator(emulator)


def _deployed(
    emulator: LocalStack, built: Path, name: str, parameters: dict[str, str], *, fill_secret: bool = True
) -> Iterator[DeployedRelay]:
    api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
    with StandIn(api_key=api_key, user_id=user_id) as endpoint:
        places = {"WebhookUrl": endpoint.url, "EventSource": f"tests.{name}"}
        deployment = emulator.deploy(name, built, {**SHORT, **places, **parameters})
        # So that a message of a killed function comes back before a test's time-out.
        deployment.shorten_visibility(30)
        if fill_secret:
            deployment.fill_secret(api_key, user_id)
        yield DeployedRelay(deployment, endpoint, api_key, user_id)


@pytest.fixture(autouse=True)
def _behaving(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("relay", "function_route"):
        if name in request.fixturenames:
            request.getfixturevalue(name).endpoint.heal()
