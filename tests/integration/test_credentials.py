"""The secret: fetched once, bad ones cost a delay and never a result, and no part of it is ever shown."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flash_call_relay import credentials
from flash_call_relay.credentials import Credentials
from local.emulator.stack import free_port
from local.endpoint.behaviour import answer
from tests.support.payloads import result
from tests.support.relay import GOOD_SECRET, KEY, USER, InProcessRelay

Heard = Callable[[], str]
MARK = "hunter2"  # is in every value that must not be shown
CALLS = ["call-0", "call-1"]


@pytest.fixture
def heard(relay: InProcessRelay, capfd: pytest.CaptureFixture[str]) -> Iterator[Heard]:
    """Everything that is written anywhere, with all of Python's loggers as talkative as Lambda can make them."""
    root, stream = logging.getLogger(), io.StringIO()
    listener = logging.StreamHandler(stream)
    listener.setLevel(logging.DEBUG)
    root.addHandler(listener)
    levels = {name: logging.getLogger(name).level for name in (None, "botocore.parsers", "urllib3.connectionpool")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger("test").debug("this is heard")
    yield lambda: relay.log.getvalue() + stream.getvalue() + "".join(capfd.readouterr())
    root.removeHandler(listener)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_good_credentials_appear_in_no_output(relay: InProcessRelay, heard: Heard) -> None:
    """A look at the log, at any level, would be enough to send results in the customer's name."""
    relay.endpoint.issue(*CALLS)
    relay.endpoint.misbehave(CALLS[0], answer(400, {"message": f"{KEY.upper()} {USER}"}))
    assert relay.invoke_with(relay.send(*map(result, CALLS))) == []
    (parked,) = relay.parked(1)
    assert parked["given"]["detail"] == "HTTP 400 *** ***"
    said = heard()
    assert "this is heard" in said
    assert "result.delivered" in said
    assert MARK not in said.lower()


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (" ", "no JSON"),
        ("{}", "no api_key"),
        (MARK, "no JSON"),
        (GOOD_SECRET + MARK, "no JSON"),
        ("[" * 20_000, "no JSON"),
        (json.dumps(GOOD_SECRET), "no api_key"),
        (json.dumps([KEY, USER]), "no api_key"),
        (json.dumps({"x-api-key": KEY, "user_id": USER}), "no api_key"),
        (json.dumps({"api_key": KEY}), "no user_id"),
        (json.dumps({"api_key": KEY, "user_id": ""}), "no user_id"),
        (json.dumps({"api_key": {"is": KEY}, "user_id": USER}), "no api_key"),
        (json.dumps({"api_key": KEY, "user_id": USER + "\n"}), "user_id must be printable ASCII"),
        (json.dumps({"api_key": KEY + "\r\nx-other: 1", "user_id": USER}), "api_key must be printable ASCII"),
        (json.dumps({"api_key": f" {KEY}", "user_id": USER}), "api_key must be printable ASCII"),
        (json.dumps({"api_key": KEY, "user_id": USER + "\xe9"}), "user_id must be printable ASCII"),
        (b"\xffhunter2", "no JSON"),
        (None, "no JSON"),  # made, but never filled in
    ],
)
def test_a_malformed_secret_defers_results_and_appears_in_no_output(
    relay: InProcessRelay, heard: Heard, secret: str | bytes | None, words: str
) -> None:
    """A typing error in the secret would lose results, be hard to find, or put the secret into the log."""
    if secret is None:
        relay.configure(CREDENTIALS_SECRET_ARN=relay.secrets.create_secret(Name=f"{relay.name}-none")["ARN"])
    elif isinstance(secret, bytes):
        relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretBinary=secret)
    else:
        relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString=secret)
    relay.endpoint.issue(*CALLS)
    records = relay.send(*map(result, CALLS))
    assert sorted(relay.invoke_with(records)) == sorted(record["messageId"] for record in records)
    assert relay.endpoint.connections == 0
    assert len(relay.calls_of("GetSecretValue")) == 1
    lines = relay.lines("result.")
    assert [(line["outcome"], line["reason"]) for line in lines] == [("deferred", "credentials_unavailable")] * 2
    assert words in lines[0]["detail"]
    assert lines[0]["retry_in_s"] > 0
    said = heard()
    assert "this is heard" in said
    assert MARK not in said.lower()


@pytest.mark.parametrize("how", ["unreachable", "deleted"])
def test_results_are_deferred_while_the_secret_cannot_be_read(relay: InProcessRelay, how: str) -> None:
    """An outage of Secrets Manager, or a deleted secret, would lose results or look like an outage of BetaTel."""
    if how == "unreachable":
        relay.configure(AWS_ENDPOINT_URL_SECRETS_MANAGER=f"https://localhost:{free_port()}")
    else:
        relay.secrets.delete_secret(SecretId=relay.secret_id, ForceDeleteWithoutRecovery=True)
    records = relay.send(*map(result, CALLS))
    assert sorted(relay.invoke_with(records)) == sorted(record["messageId"] for record in records)
    assert {line["reason"] for line in relay.lines("result.")} == {"credentials_unavailable"}
    assert relay.endpoint.connections == 0


def test_a_batch_fetches_the_secret_once(relay: InProcessRelay) -> None:
    """Each result, or each thread, would pay for a call of Secrets Manager and wait for it."""
    calls = [f"call-{number}" for number in range(10)]
    relay.endpoint.issue(*calls)
    for _ in range(3):
        assert relay.invoke_with(relay.send(*map(result, calls))) == []
        # Not looked at again, or this would be sent and refused.
        relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString=json.dumps({"api_key": "x"}))
        calls = [f"{call}-next" for call in calls]
        relay.endpoint.issue(*calls)
    assert len(relay.calls_of("GetSecretValue")) == 1
    assert len(relay.endpoint.accepted) == 30


def test_the_last_good_credentials_are_used_while_secrets_manager_fails(
    relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of Secrets Manager, or a slip in editing the secret, would stop all deliveries within minutes."""
    monkeypatch.setattr(credentials, "MAX_AGE_S", 0.0)  # as if the time had passed
    monkeypatch.setattr(credentials, "FETCH_INTERVAL_S", 0.0)
    relay.endpoint.issue("before", "during", "after")
    assert relay.invoke_with(relay.send(result("before"))) == []
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString="{")
    assert relay.invoke_with(relay.send(result("during"))) == []
    relay.secrets.delete_secret(SecretId=relay.secret_id, ForceDeleteWithoutRecovery=True)
    assert relay.invoke_with(relay.send(result("after"))) == []
    assert len(relay.endpoint.accepted) == 3
    assert len(relay.calls_of("GetSecretValue")) == 3


def test_a_corrected_secret_is_used_after_30_seconds(relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    """After filling the secret in, one would have to deploy again for it to be seen."""
    monkeypatch.setattr(credentials, "FETCH_INTERVAL_S", 0.0)  # as if the time had passed
    relay.endpoint.issue("call")
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString="{}")
    records = relay.send(result("call"))
    assert len(relay.invoke_with(records)) == 1
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString=GOOD_SECRET)
    assert relay.invoke_with(records) == []
    assert relay.endpoint.accepted == [("call", "Success")]


def test_the_repr_of_credentials_is_masked() -> None:
    """A traceback, a debugger's line or a careless log line would hold the key."""
    known = Credentials(KEY, USER)
    for shown in (repr(known), str(known), f"{known}", repr([known]), repr({"credentials": known})):
        assert MARK not in shown
    assert (known.api_key, known.user_id) == (KEY, USER)


class Slow:
    """Secrets Manager as it is in an outage: it answers once, and then not before it is told to."""

    def __init__(self) -> None:
        self.calls, self.go_on = 0, threading.Event()

    def get_secret_value(self, SecretId: str) -> dict[str, str]:  # noqa: ARG002, N803 - boto3's
        """Answer the first call at once."""
        self.calls += 1
        if self.calls > 1:
            self.go_on.wait(30)
        return {"SecretString": GOOD_SECRET}


def test_good_credentials_are_returned_while_another_thread_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of Secrets Manager would hold up every result, although the key at hand is good."""
    monkeypatch.setattr(credentials, "MAX_AGE_S", 0.0)  # as if the time had passed
    monkeypatch.setattr(credentials, "FETCH_INTERVAL_S", 0.0)
    secrets: Any = Slow()
    store = credentials.CredentialsStore(secrets, "secret")
    assert store.current() == Credentials(KEY, USER)
    fetching = threading.Thread(target=store.current)
    fetching.start()
    while secrets.calls < 2:
        fetching.join(0.01)
    assert store.current() == Credentials(KEY, USER)
    secrets.go_on.set()
    fetching.join()
