"""Fetch the credentials from Secrets Manager, once for all threads, and keep the last good ones."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay.budget import wall_clock
from flash_call_relay.text import InvalidJSONError, decode_json, error_code

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

MAX_AGE_S = 300.0  # Powertools' default for parameters
FETCH_INTERVAL_S = 30.0  # the secret is not read more often, even if reading fails or the endpoint refuses it
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
    """The current credentials, for many threads: one of them fetches, the others wait for it."""

    def __init__(
        self, client: "SecretsManagerClient", secret_id: str, *, clock: Callable[[], float] = wall_clock
    ) -> None:
        self._client, self._secret_id, self._clock = client, secret_id, clock
        self._lock = threading.Lock()
        self._good: Credentials | None = None
        self._fault = ""
        self._fetched_at = self._stale_at = -math.inf

    @property
    def known(self) -> Credentials | None:
        """The last good credentials, without a call to Secrets Manager; None before the first."""
        return self._good

    def fresh(self) -> "CredentialsStore":
        """Return a store of the same secret that has not read it yet."""
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
        """Return the secret's credentials if they differ from the refused ones, after another fetch if one is due."""
        with self._lock:
            if self._good == refused:
                self._fetch()
            return None if self._good == refused else self._good

    def _fetch(self) -> None:
        now = self._clock()
        if now < self._fetched_at + FETCH_INTERVAL_S:
            return
        self._fetched_at = now
        try:
            self._good = parse(self._client.get_secret_value(SecretId=self._secret_id).get("SecretString"))
            self._stale_at = now + MAX_AGE_S
        except ClientError as error:
            self._fault = f"Secrets Manager answers {error_code(error)}"
        except BotoCoreError as error:
            self._fault = f"Secrets Manager cannot be reached: {type(error).__name__}"
        except CredentialsUnavailableError as error:
            self._fault = str(error)


def parse(text: str | None) -> Credentials:
    """Read the secret's text.

    Raises:
        CredentialsUnavailableError: if the text is not as expected. The message does not show it.
    """
    try:
        document = decode_json(text or "")
    except InvalidJSONError:
        raise CredentialsUnavailableError(f"the secret is empty or holds no JSON; {EXPECTED}") from None
    for key in ("api_key", "user_id"):
        value = document.get(key) if isinstance(document, dict) else None
        if not isinstance(value, str) or not value:
            raise CredentialsUnavailableError(f"the secret has no {key}; {EXPECTED}")
        if value != value.strip() or not all(" " <= character <= "~" for character in value):
            raise CredentialsUnavailableError(f"the secret's {key} must be printable ASCII without spaces around it")
    return Credentials(document["api_key"], document["user_id"])
