"""The emulator that all tests share, and readable names for parametrized cases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.emulator.emulator import Emulator
from tests.support.case_names import case_name

# These files take a minute or longer, so they start first and the workers end together.
LONGEST = ("test_outages", "test_soak", "test_broken_relays", "test_runtime")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a case by its value."""
    return case_name(val)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """Run the AWS emulator on a free loopback port."""
    state: Path = tmp_path_factory.mktemp("emulator")
    with Emulator(state) as stack:
        yield stack
