"""What all tests share: the same conditions on every machine, the emulator, and readable names of cases."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from flash_call_relay import telemetry
from flash_call_relay.models import Judgement, Reply
from local import ROOT
from local.emulator.emulator import Emulator
from local.endpoint.behaviour import Behaviour

# These files take a minute or longer, so they start first and the workers end together.
LONGEST = ("test_soak", "test_prove", "test_broken_relays", "test_delivery")

MAX_NAME = 60  # characters of a case

# The configuration of the machine must not decide what a test finds.
for _name in [name for name in os.environ if name.startswith(("AWS_", "FLASH_CALL_RELAY_", "POWERTOOLS_"))]:
    del os.environ[_name]
os.environ |= dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)

settings.load_profile("ci")  # no deadline, no saved examples, and the same random inputs in each run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, then those that hold docs/delivery.md, in its order."""
    page = (ROOT / "docs" / "delivery.md").read_text()
    order = [*LONGEST, *re.findall(r"^\[\w+\]: \.\./tests/\w+/(\w+)\.py", page, re.MULTILINE)]
    items.sort(key=lambda item: order.index(item.path.stem) if item.path.stem in order else len(order))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a case by its value; None if pytest's own name is readable."""
    if isinstance(val, Behaviour):
        return str(val.name)
    if isinstance(val, Reply):
        return f"HTTP {val.http_status}, {'no object' if val.json_object is None else 'object'}"
    if isinstance(val, Judgement):
        return f"Judgement {val.reason}"
    is_long = isinstance(val, str | bytes) and len(val) > MAX_NAME
    if not is_long and not isinstance(val, dict | list):
        return None
    text = json.dumps(val, default=str) if isinstance(val, dict | list) else str(val)
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}..."


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the events that the runtime reports, each with the values of its fields."""
    events: list[str] = []
    monkeypatch.setattr(
        telemetry, "report", lambda event, /, **fields: events.append(" ".join([event, *fields.values()]))
    )
    return events


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """Run the AWS emulator on a free loopback port."""
    state: Path = tmp_path_factory.mktemp("emulator")
    with Emulator(state) as stack:
        yield stack
