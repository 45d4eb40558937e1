"""Read the environment variables into a frozen `Settings`, and check them."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

_RANGES = {
    "connections_per_function": range(1, 101),
    "request_timeout_seconds": range(1, 21),
    "retry_base_seconds": range(1, 901),
    "retry_cap_seconds": range(1, 3601),
    "fresh_seconds": range(86_401),
    "fresh_retry_cap_seconds": range(1, 3601),
    "retry_horizon_seconds": range(1, 777_601),
    "max_receive_count": range(1, 1001),
    "visibility_timeout_seconds": range(43_201),
    "unknown_call_grace_seconds": range(86_401),
}
_OPTIONAL = {"ledger_table_name", "outcome_bus_name"}


class SettingsError(ValueError):
    """An environment variable is missing or has a wrong value."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment variables, each under its own name in lower case. `template.yaml` sets and describes them."""

    webhook_url: str
    credentials_secret_arn: str
    result_queue_url: str
    parked_queue_url: str
    confirmation: str
    connections_per_function: int
    request_timeout_seconds: int
    retry_base_seconds: int
    retry_cap_seconds: int
    fresh_seconds: int  # 0: never fresh
    fresh_retry_cap_seconds: int
    retry_horizon_seconds: int
    max_receive_count: int
    visibility_timeout_seconds: int
    ledger_table_name: str  # empty: no deduplication
    unknown_call_grace_seconds: int
    outcome_bus_name: str  # empty: no events

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read and check the settings.

        Raises:
            SettingsError: names the variable and the values it may have.
        """
        values: dict[str, Any] = {field.name: environ.get(field.name.upper(), "") for field in fields(cls)}
        for name, text in values.items():
            if not text and name not in _OPTIONAL:
                raise SettingsError(f"{name.upper()} must be set")
        for name, allowed in _RANGES.items():
            text = values[name]
            values[name] = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
            if values[name] not in allowed:
                bounds = f"from {allowed[0]} to {allowed[-1]}"
                raise SettingsError(f"{name.upper()} must be a whole number {bounds}, got {text[:40]!r}")
        if values["confirmation"] not in ("reply", "http-status"):
            raise SettingsError(f"CONFIRMATION must be reply or http-status, got {values['confirmation'][:40]!r}")
        if not _may_receive_credentials(values["webhook_url"]):  # no value in this message: it may hold a password
            raise SettingsError(
                "WEBHOOK_URL must be an https URL without user info or fragment (http for loopback addresses only)"
            )
        return cls(**values)


def _may_receive_credentials(url: str) -> bool:
    try:
        scheme, auth, host, *_, fragment = parse_url(url)
        if not host or auth is not None or fragment is not None:
            return False
        if scheme == "https":
            return True
        return scheme == "http" and (host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback)
    except (LocationParseError, ValueError):
        return False
