"""The secret is fetched once, a bad secret costs a delay and never a result, and no output shows any part of it."""

from collections.abc import Callable

import pytest

from flash_call_relay import credentials
from tests.support.payloads import result
from tests.support.relay import GOOD_SECRET, InProcessRelay, failing_service

MARK = "hunter2"  # in every secret value
CALLS = ["call-0", "call-1"]


@pytest.mark.parametrize("how", ["text", "binary", "deleted", "unreachable"])
def test_results_are_deferred_while_there_are_no_credentials_and_the_secret_appears_nowhere(
    relay: InProcessRelay, heard: Callable[[], str], how: str
) -> None:
    """A typing error or an outage of Secrets Manager would lose results, or put the secret into the log."""
    relay.endpoint.issue(*CALLS)
    records = relay.send(*map(result, CALLS))
    with failing_service("unreachable") as url:
        if how == "text":
            relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString=GOOD_SECRET + MARK)
        elif how == "binary":
            relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretBinary=b"\xff" + MARK.encode())
        elif how == "deleted":
            relay.secrets.delete_secret(SecretId=relay.secret_id, ForceDeleteWithoutRecovery=True)
        else:
            relay.configure(AWS_ENDPOINT_URL_SECRETS_MANAGER=url)
        assert sorted(relay.invoke_with(records)) == sorted(record["messageId"] for record in records)
    assert relay.endpoint.connections == 0
    assert len(relay.calls_of("GetSecretValue")) == 1
    assert relay.outcomes() == [("deferred", "credentials_unavailable")] * 2
    words = {"deleted": "Secrets Manager answers ResourceNotFound", "unreachable": "Secrets Manager cannot be reached"}
    assert words.get(how, "no JSON") in relay.lines("result.")[0]["detail"]
    said = heard()
    assert "this is heard" in said
    assert MARK not in said.lower()


def test_a_corrected_secret_is_used_and_the_last_good_one_while_secrets_manager_fails(
    relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who fills the secret in would have to deploy again, or a slip or an outage would stop all deliveries."""
    monkeypatch.setattr(credentials, "MAX_AGE_S", 0.0)  # as if the time had passed
    monkeypatch.setattr(credentials, "FETCH_INTERVAL_S", 0.0)
    relay.endpoint.issue("first", "during", "still", "after")
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString="{}")
    records = relay.send(result("first"))
    assert len(relay.invoke_with(records)) == 1
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString=GOOD_SECRET)
    assert relay.invoke_with(records) == []
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString="{")
    for call in ("during", "still"):
        assert relay.invoke_with(relay.send(result(call))) == []
    unreadable = [(line["level"], line["detail"]) for line in relay.lines("credentials.unreadable")]
    faults = ("has no api_key", "is empty or holds no JSON")
    assert unreadable == [("ERROR", f"the secret {fault}; {credentials.EXPECTED}") for fault in faults]
    relay.secrets.delete_secret(SecretId=relay.secret_id, ForceDeleteWithoutRecovery=True)
    assert relay.invoke_with(relay.send(result("after"))) == []
    assert len(relay.endpoint.accepted) == 4
    assert len(relay.calls_of("GetSecretValue")) == 5
