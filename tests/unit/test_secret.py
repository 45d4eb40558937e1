"""Credentials: a malformed secret is refused with a reason, and nothing shows any part of it."""

import itertools
import json
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from flash_call_relay.credentials import MAX_AGE_S, Credentials, CredentialsStore, CredentialsUnavailableError, parse
from tests.support.relay import GOOD_SECRET, KEY, PATIENCE_S, USER

MARK = "hunter2"  # in every secret value


def secret(**values: object) -> str:
    """Return the good secret with other values; None leaves one out."""
    document = {"api_key": KEY, "user_id": USER, **values}
    return json.dumps({key: value for key, value in document.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *(
            (text, "no JSON")
            for text in ("", None, " ", MARK, GOOD_SECRET + MARK, "[" * 20_000, b"\xff" + MARK.encode())
        ),
        *((text, "no api_key") for text in ("{}", json.dumps(GOOD_SECRET), json.dumps([KEY, USER]))),
        *((secret(user_id=None), "no user_id"), (secret(user_id=""), "no user_id")),
        (secret(api_key={"is": KEY}), "api_key must be a string, got an object"),
        (secret(user_id=4711), "user_id must be a string, got a number"),
        *((secret(user_id=USER + end), "user_id must be printable ASCII") for end in ("\n", "\xe9")),
        *((secret(api_key=key), "api_key must be printable ASCII") for key in (f" {KEY}", KEY + "\r\nx-other: 1")),
    ],
)
def test_a_malformed_secret_has_a_reason_that_does_not_show_it(text: str | bytes | None, words: str) -> None:
    """An engineer could not find a typing error in the secret, or the log would show the secret."""
    with pytest.raises(CredentialsUnavailableError, match=words) as error:
        parse(text)
    assert MARK not in "".join(traceback.format_exception(error.value)).lower()


@pytest.mark.parametrize(
    "text",
    ["\ufeff" + GOOD_SECRET, *(GOOD_SECRET.encode(coding) for coding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"))],
    ids=["text with a mark", "UTF-8", "UTF-8 with a mark", "UTF-16", "UTF-16 without a mark"],
)
def test_a_secret_is_read_however_an_editor_has_saved_it(text: str | bytes) -> None:
    """An engineer on Windows would upload a good secret again and again."""
    assert parse(text) == Credentials(KEY, USER)


def test_the_repr_of_credentials_is_masked() -> None:
    """A traceback, a debugger or a careless log line would show the key."""
    known = Credentials(KEY, USER)
    assert MARK not in f"{known} {[known]!r}"


def test_good_credentials_are_returned_while_another_thread_fetches() -> None:
    """An outage of Secrets Manager would hold up every result although the relay has a good key."""
    calls, hangs, go_on = itertools.count(), threading.Event(), threading.Event()

    def get_secret_value(**_: str) -> dict[str, str]:
        if next(calls):  # the first call ends at once
            hangs.set()
            go_on.wait(PATIENCE_S)
        return {"SecretString": GOOD_SECRET}

    secrets: Any = SimpleNamespace(get_secret_value=get_secret_value)
    store = CredentialsStore(secrets, "secret", clock=itertools.count(0, MAX_AGE_S).__next__)
    assert store.current() == Credentials(KEY, USER)
    with ThreadPoolExecutor(1) as lane:
        other = lane.submit(store.current)
        assert hangs.wait(PATIENCE_S)
        assert store.current() == Credentials(KEY, USER)
        assert not other.done()
        go_on.set()
    assert other.result() == Credentials(KEY, USER)
