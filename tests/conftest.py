"""What the tests share: the payloads of `events/`, and one emulator for the whole run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local import ROOT
from local.emulator.emulator import Emulator
from local.processes import free_port


def payload(name: str) -> Any:
    """Return a payload from `events/`."""
    return json.loads((ROOT / "events" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """Run AWS's emulator on a loopback port of its own."""
    state: Path = tmp_path_factory.mktemp("emulator")
    with Emulator(state, free_port()) as stack:
        yield stack
