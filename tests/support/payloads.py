"""The messages and events that producers send."""

import json
import uuid as uuids
from typing import Any

from local import ROOT


def payload(name: str) -> Any:
    """Return a payload from `events/`."""
    return json.loads((ROOT / "events" / f"{name}.json").read_text())


def result(uuid: str = "", status: str = "Success") -> dict[str, str]:
    """Return a result as producers send it; without a uuid, the result of a new call."""
    return {"uuid": uuid or uuids.uuid4().hex, "status": status}


def pairs(*results: dict[str, str]) -> list[tuple[str, str]]:
    """Return results as the stand-in lists the accepted ones, sorted."""
    return sorted((one["uuid"], one["status"]) for one in results)
