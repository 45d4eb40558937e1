"""Credentials: a malformed secret is refused with a reason, and nothing shows any part of it."""

import itertools
import json
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flash_call_relay.credentials import MAX_AGE_S, Credentials, CredentialsStore, CredentialsUnavailableError, parse
from tests.support.relay import GOOD_SECRET, KEY, USER

PATIENCE_S = 60  # only a failing test waits this long
MARK = "hunter2"  # in every secret value
MALFORMED = {
    "blank": (" ", "no JSON"),
    "empty object": ("{}", "no api_key"),
    "text": (MARK, "no JSON"),
    "text after the object": (GOOD_SECRET + MARK, "no JSON"),
    "deep nesting": ("[" * 20_000, "no JSON"),
    "encoded twice": (json.dumps(GOOD_SECRET), "no api_key"),
    "list": (json.dumps([KEY, USER]), "no api_key"),
    "misnamed key": (json.dumps({"x-api-key": KEY, "user_id": USER}), "no api_key"),
    "no user_id": (json.dumps({"api_key": KEY}), "no user_id"),
    "empty user_id": (json.dumps({"api_key": KEY, "user_id": ""}), "no user_id"),
    "object as api_key": (
        json.dumps({"api_key": {"is": KEY}, "user_id": USER}),
        "api_key must be a string, got an object",
    ),
    "number as user_id": (json.dumps({"api_key": KEY, "user_id": 4711}), "user_id must be a string, got a number"),
    "null as user_id": (json.dumps({"api_key": KEY, "user_id": None}), "user_id must be a string, got null"),
    "line feed in user_id": (json.dumps({"api_key": KEY, "user_id": USER + "\n"}), "user_id must be printable ASCII"),
    "header in api_key": (
        json.dumps({"api_key": KEY + "\r\nx-other: 1", "user_id": USER}),
        "api_key must be printable ASCII",
    ),
    "space before api_key": (json.dumps({"api_key": f" {KEY}", "user_id": USER}), "api_key must be printable ASCII"),
    "not ASCII": (json.dumps({"api_key": KEY, "user_id": USER + "\xe9"}), "user_id must be printable ASCII"),
    "empty": ("", "no JSON"),
    "no value": (None, "no JSON"),
    "not Unicode": (b"\xff" + MARK.encode(), "no JSON"),
}


@pytest.mark.parametrize(("secret", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_secret_has_a_reason_that_does_not_show_it(secret: str | bytes | None, words: str) -> None:
    """An engineer could not find a typing error in the secret, or the log would show the secret."""
    with pytest.raises(CredentialsUnavailableError, match=words) as error:
        parse(secret)
    assert MARK not in "".join(traceback.format_exception(error.value)).lower()


@pytest.mark.parametrize(
    "secret",
    ["\ufeff" + GOOD_SECRET, *(GOOD_SECRET.encode(coding) for coding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"))],
    ids=["text with a mark", "UTF-8", "UTF-8 with a mark", "UTF-16", "UTF-16 without a mark"],
)
def test_a_secret_is_read_however_an_editor_has_saved_it(secret: str | bytes) -> None:
    """An engineer on Windows would upload a good secret again and again."""
    assert parse(secret) == Credentials(KEY, USER)


def test_the_repr_of_credentials_is_masked() -> None:
    """A traceback, a debugger or a careless log line would show the key."""
    known = Credentials(KEY, USER)
    for shown in (repr(known), str(known), f"{known}", repr([known]), repr({"credentials": known})):
        assert MARK not in shown
    assert (known.api_key, known.user_id) == (KEY, USER)


class HangingSecrets:
    """Secrets Manager in an outage: it answers the first call, and the second only when told to."""

    def __init__(self) -> None:
        self.calls, self.hangs, self.go_on = 0, threading.Event(), threading.Event()

    def get_secret_value(self, SecretId: str) -> dict[str, str]:  # noqa: ARG002, N803 - boto3's
        """Answer the first call immediately."""
        self.calls += 1
        if self.calls > 1:
            self.hangs.set()
            self.go_on.wait(PATIENCE_S)
        return {"SecretString": GOOD_SECRET}


def test_good_credentials_are_returned_while_another_thread_fetches() -> None:
    """An outage of Secrets Manager would hold up every result although the relay has a good key."""
    secrets: Any = HangingSecrets()
    always_later = itertools.count(0, MAX_AGE_S).__next__
    store = CredentialsStore(secrets, "secret", clock=always_later)
    assert store.current() == Credentials(KEY, USER)
    with ThreadPoolExecutor(1) as lane:
        other = lane.submit(store.current)
        assert secrets.hangs.wait(PATIENCE_S)
        assert store.current() == Credentials(KEY, USER)
        assert not other.done()
        secrets.go_on.set()
    assert other.result() == Credentials(KEY, USER)
