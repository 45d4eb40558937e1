"""`make demo` shows the relay at work against an endpoint that misbehaves; `make up` runs it to try by hand."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from local.emulator.deployment import Deployment, sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import WEBHOOK_PATH, StandIn


@contextlib.contextmanager
def running(
    name: str, parameters: Mapping[str, str | int], say: Callable[[str], None]
) -> Iterator[tuple[Deployment, StandIn]]:
    """Run an endpoint, and the relay that reports to it in an emulator, with made-up credentials."""
    with tempfile.TemporaryDirectory(prefix="flash-call-relay-") as state, StandIn() as endpoint:
        say(f"the stand-in endpoint listens on {endpoint.url.removesuffix(WEBHOOK_PATH)}")
        with Emulator(Path(state), say) as emulator:
            deployment = sam_deploy(emulator, name, sam_build(emulator), {"WebhookUrl": endpoint.url, **parameters})
            say("filling the secret with made-up credentials")
            deployment.fill_secret(*endpoint.credentials)
            yield deployment, endpoint
            say("ending the emulator and the endpoint")
