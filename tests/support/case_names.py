"""Readable names for the values that tests are parametrized with."""

import json

from flash_call_relay.models import Judgement, Reply
from local.endpoint.behaviour import Behaviour

LIMIT = 60  # characters


def case_name(value: object) -> str | None:
    """Return a name for a value in a test's id; None if pytest's own name is readable."""
    if isinstance(value, Behaviour):
        return value.name
    if isinstance(value, Reply):
        return f"HTTP {value.http_status}, {'no object' if value.json_object is None else 'object'}"
    if isinstance(value, Judgement):
        return f"{type(value).__name__} {value.reason}"
    is_long = isinstance(value, str | bytes) and len(value) > LIMIT
    return _shortened(value) if is_long or isinstance(value, dict | list) else None


def _shortened(value: object) -> str:
    text = str(value) if isinstance(value, str | bytes) else json.dumps(value, default=str)
    return text if len(text) <= LIMIT else f"{text[:LIMIT]}..."
