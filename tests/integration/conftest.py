"""A relay or a stand-in for each test, on the emulator that all tests share."""

import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.emulator.emulator import Emulator
from local.endpoint.standin import StandIn
from tests.support.relay import KEY, USER, UUID, InProcessRelay, relaying, server_tls, trusted_authority


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's AWS profile, endpoints and proxies."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)


@pytest.fixture
def relay(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessRelay]:
    """Run the relay in this process, with queues, a secret and an endpoint that no other test uses."""
    with relaying(emulator, monkeypatch) as one:
        yield one


@pytest.fixture(params=["http", "https"])
def standin(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Run a stand-in that knows one call, over http, and over https with a trusted authority."""
    tls = server_tls(trusted_authority(tmp_path, monkeypatch)) if request.param == "https" else None
    with StandIn(api_key=KEY, user_id=USER, tls=tls) as one:
        one.issue(UUID)
        yield one


@pytest.fixture
def heard(
    relay: InProcessRelay,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], str]:
    """Return a function that returns everything written anywhere, with all of Python's loggers at DEBUG."""
    root, stream = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [*root.handlers, logging.StreamHandler(stream)])
    for name in ("", "boto3", "botocore", "botocore.parsers", "urllib3.connectionpool"):
        caplog.set_level(logging.DEBUG, name)
    logging.getLogger("some.library").debug("this is heard")
    return lambda: "".join([relay.log.getvalue(), relay.printed.getvalue(), stream.getvalue(), *capfd.readouterr()])
