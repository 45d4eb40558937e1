"""Fetch the credentials from Secrets Manager, once for all threads, and keep the last good ones."""

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay.budget import wall_clock
from flash_call_relay.text import InvalidJSONError, decode_json, error_code, kind

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

MAX_AGE_S = 300.0  # Powertools' default for parameters
FETCH_INTERVAL_S = 30.0  # between two reads after faults, and between two after refusals
EXPECTED = 'expected a JSON object {"api_key": "...", "user_id": "..."}'


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The values of the headers `x-api-key` and `x-user-id`."""

    api_key: str
    user_id: str

    def __repr__(self) -> str:
        return "Credentials(***)"


class CredentialsUnavailableError(Exception):
    """There are no credentials. The message says why and shows nothing of the secret."""


class CredentialsStore:
    """The current credentials: one thread fetches, the others wait for it. `report` hears of an unreadable secret."""

    def __init__(
        self, client: "SecretsManagerClient", secret_id: str, report: Any = None, *, clock: Any = wall_clock
    ) -> None:
        self._client, self._secret_id, self._report, self._clock = client, secret_id, report, clock
        self._lock = threading.Lock()
        self._good: Credentials | None = None
        self._fault = ""
        self._stale_at = self._refetched_at = -math.inf

    def fresh(self) -> "CredentialsStore":
        """Return a store of the same secret that has not read it yet. It reports nothing."""
        return CredentialsStore(self._client, self._secret_id, clock=self._clock)

    def current(self) -> Credentials:
        """Return the credentials: at most five minutes old, or the last good ones while Secrets Manager fails.

        Raises:
            CredentialsUnavailableError: if there were never any good ones.
        """
        # A thread that has good credentials does not wait for the fetch of another thread.
        if self._lock.acquire(blocking=self._good is None):
            try:
                if self._clock() >= self._stale_at:
                    self._fetch()
            finally:
                self._lock.release()
        if self._good is None:
            raise CredentialsUnavailableError(self._fault)
        return self._good

    def other_than(self, refused: Credentials) -> Credentials | None:
        """Return the secret's credentials if they differ from the refused ones.

        Fetches the secret again, unless a refusal has done so in the last 30 s. An older copy may be out of date.
        """
        with self._lock:
            if self._good == refused and self._clock() >= self._refetched_at + FETCH_INTERVAL_S:
                self._refetched_at = self._clock()
                self._fetch()
            return None if self._good == refused else self._good

    def _fetch(self) -> None:
        now, fault = self._clock(), ""
        try:
            secret = self._client.get_secret_value(SecretId=self._secret_id)
            self._good = parse(secret.get("SecretString") or secret.get("SecretBinary"))
        except ClientError as error:
            fault = f"Secrets Manager answers {error_code(error)}"
        except BotoCoreError as error:
            fault = f"Secrets Manager cannot be reached: {type(error).__name__}"
        except CredentialsUnavailableError as error:
            fault = str(error)
        self._stale_at = now + (FETCH_INTERVAL_S if fault else MAX_AGE_S)
        if fault and fault != self._fault and self._report:
            self._report("credentials.unreadable", detail=fault)
        self._fault = fault


def parse(secret: str | bytes | None) -> Credentials:
    """Read the secret: text, or the bytes of text in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        CredentialsUnavailableError: if the secret is not as expected. The message does not show it.
    """
    try:
        document = decode_json(secret.removeprefix("\ufeff") if isinstance(secret, str) else secret or "")
    except InvalidJSONError:
        raise CredentialsUnavailableError(f"the secret is empty or holds no JSON; {EXPECTED}") from None
    for key in ("api_key", "user_id"):
        value = document.get(key, "") if isinstance(document, dict) else ""
        if value == "":
            raise CredentialsUnavailableError(f"the secret has no {key}; {EXPECTED}")
        if not isinstance(value, str):
            raise CredentialsUnavailableError(f"the secret's {key} must be a string, got {kind(value)}; {EXPECTED}")
        if value != value.strip() or not all(" " <= character <= "~" for character in value):
            raise CredentialsUnavailableError(f"the secret's {key} must be printable ASCII without spaces around it")
    return Credentials(document["api_key"], document["user_id"])
