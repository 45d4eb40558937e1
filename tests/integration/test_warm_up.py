"""The init phase reads the secret and opens connections, and no failure there stops the function."""

import threading

import pytest

from flash_call_relay import handler
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import reset_on_connect
from local.processes import wait_until
from tests.support.payloads import result
from tests.support.relay import GOOD_SECRET, PATIENCE_S, InProcessRelay, failing_service


def test_the_first_batch_after_a_cold_start_finds_the_secret_and_open_connections(relay: InProcessRelay) -> None:
    """The first results after a cold start would wait for handshakes, at a third of a CPU."""
    relay.add_ledger(CONNECTIONS_PER_FUNCTION="4")
    calls = relay.issue_calls(4)
    handler.warm_up(handler.wire())
    relay.endpoint.wait_until(lambda endpoint: endpoint.connections == 4, PATIENCE_S, "the connections")
    assert relay.endpoint.requests == []
    assert relay.invoke_with(relay.send(*map(result, calls))) == []
    assert relay.endpoint.connections == 4
    assert len(relay.calls_of("GetSecretValue")) == 1


def test_an_endpoint_that_fails_in_the_init_phase_gets_the_first_batch_all_the_same(relay: InProcessRelay) -> None:
    """The function would not start while BetaTel is down, or count the endpoint as failing before it asked."""
    relay.endpoint.issue("call")
    relay.endpoint.override(reset_on_connect())
    handler.warm_up(handler.wire())
    relay.endpoint.wait_until(lambda endpoint: endpoint.connections == 10, PATIENCE_S, "the connections")
    relay.endpoint.heal()
    assert relay.invoke_with(relay.send(result("call"))) == []


def test_an_unreachable_ledger_in_the_init_phase_does_not_stop_the_function(relay: InProcessRelay) -> None:
    """The function would not start while DynamoDB is down."""
    relay.endpoint.issue("call")
    with failing_service("unreachable") as url:
        relay.add_ledger(AWS_ENDPOINT_URL_DYNAMODB=url)
        handler.warm_up(handler.wire())
        assert relay.invoke_with(relay.send(result("call"))) == []


def test_an_empty_secret_in_the_init_phase_only_defers(relay: InProcessRelay) -> None:
    """The function would not start before an engineer has filled the secret in."""
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString="{}")
    handler.warm_up(handler.wire())
    (record,) = relay.send(result("call"))
    assert relay.invoke_with([record]) == [record["messageId"]]
    assert relay.outcomes() == [("deferred", "credentials_unavailable")]


def test_a_secret_that_was_unreadable_in_the_init_phase_is_read_again_by_the_first_batch(relay: InProcessRelay) -> None:
    """A short failure of Secrets Manager during a cold start would hold up all results for 30 seconds."""
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString="{}")
    relay.endpoint.issue("call")
    handler.warm_up(handler.wire())
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString=GOOD_SECRET)
    assert relay.invoke_with(relay.send(result("call"))) == []


@pytest.mark.usefixtures("relay")
def test_the_init_phase_does_not_wait_for_a_slow_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The init phase would take longer than Lambda allows, so that Lambda starts the function again and again."""
    answered, ended = threading.Event(), list[bool]()
    monkeypatch.setattr(Webhook, "connect", lambda _webhook: ended.append(answered.wait(PATIENCE_S)))
    monkeypatch.setattr(handler, "WARM_UP_S", 0.01)
    handler.warm_up(handler.wire())
    assert ended == [], "the connections are still under way"
    answered.set()
    assert wait_until(lambda: len(ended) == 10, PATIENCE_S)
