"""Read the environment variables into a frozen `Settings`, and check them."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

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
    connections_per_function: Annotated[int, range(1, 101)]
    request_timeout_seconds: Annotated[int, range(1, 21)]
    retry_base_seconds: Annotated[int, range(1, 901)]
    retry_cap_seconds: Annotated[int, range(1, 3601)]
    fresh_seconds: Annotated[int, range(86_401)]  # 0: never fresh
    fresh_retry_cap_seconds: Annotated[int, range(1, 3601)]
    retry_horizon_seconds: Annotated[int, range(1, 777_601)]
    ledger_table_name: str  # empty: no deduplication
    unknown_call_grace_seconds: Annotated[int, range(86_401)]
    outcome_bus_name: str  # empty: no events
    rate_limit_per_second: Annotated[int, range(10_001)]  # of POSTs; 0: no limit
    maximum_concurrency: Annotated[int, range(1001)]  # of environments; 0: any number

    @property
    def post_interval_s(self) -> float:
        """The least time between two POSTs of this environment, which takes its share of the limit; 0 without one."""
        return max(1, self.maximum_concurrency) / self.rate_limit_per_second if self.rate_limit_per_second else 0.0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read and check the settings.

        Raises:
            SettingsError: names the variable and the values it may have.
        """
        values: dict[str, Any] = {}
        for name, kind in get_type_hints(cls, include_extras=True).items():
            text = environ.get(name.upper(), "")
            if not text and name not in _OPTIONAL:
                raise SettingsError(f"{name.upper()} must be set")
            values[name] = text if kind is str else _whole_number(name, text, *kind.__metadata__)
        if values["confirmation"] not in ("reply", "http-status"):
            raise SettingsError(f"CONFIRMATION must be reply or http-status, got {values['confirmation'][:40]!r}")
        if not _may_receive_credentials(values["webhook_url"]):  # no value in this message: it may hold a password
            raise SettingsError(
                "WEBHOOK_URL must be an https URL without user info or fragment (http for loopback addresses only)"
            )
        return cls(**values)


def _whole_number(name: str, text: str, allowed: range) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if number not in allowed:
        expected = f"a whole number from {allowed[0]} to {allowed[-1]}"
        raise SettingsError(f"{name.upper()} must be {expected}, got {text[:40]!r}")
    return number


def _may_receive_credentials(url: str) -> bool:
    try:
        scheme, auth, host, *_, fragment = parse_url(url)
        if not host or auth is not None or fragment is not None:
            return False
        host.encode("idna")  # or the name could not be looked up
        if scheme == "https":
            return True
        return scheme == "http" and (host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback)
    except (LocationParseError, ValueError):
        return False
