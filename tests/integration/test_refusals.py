"""Refused credentials and a failing endpoint cost no result, cause few POSTs, and few calls to AWS."""

import json
from collections import Counter

import pytest

from flash_call_relay import credentials
from local.endpoint.behaviour import error
from tests.support.payloads import result
from tests.support.relay import InProcessRelay

ROTATED = {"api_key": "key-rotated-hunter2", "user_id": "user-rotated-hunter2"}


def rotate(relay: InProcessRelay) -> None:
    """Give the secret, and the endpoint, another pair."""
    relay.endpoint.rotate(**ROTATED)
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString=json.dumps(ROTATED))


def test_a_wrong_key_is_tried_once_per_connection_at_most_in_30_s(relay: InProcessRelay) -> None:
    """The relay would try a wrong key with each result, and BetaTel might lock the account."""
    relay.add_ledger()
    relay.endpoint.rotate(**ROTATED)
    records = relay.send(*map(result, relay.issue_calls(60)))
    assert len(relay.invoke_with(records)) == 60
    assert 1 <= (asked := len(relay.endpoint.requests)) <= 10
    assert len(relay.calls_of("GetSecretValue")) == 2, "the first, and one for a refusal every 30 s"
    relay.aws_calls.clear()
    assert len(relay.invoke_with(records[:10])) == 10
    assert [operation for operation, _ in relay.aws_calls] == ["BatchGetItem", "ChangeMessageVisibilityBatch"]
    assert len(relay.endpoint.requests) == asked
    assert set(relay.outcomes()) == {("deferred", "credentials_rejected")}
    assert len(relay.lines("credentials.rejected")) == 1
    assert relay.counted("CredentialsRejected") == [60, 10]


def test_a_rotated_key_is_used_in_the_same_invocation(relay: InProcessRelay) -> None:
    """Each rotation would delay results, send some twice, or fetch the secret for each of them."""
    relay.endpoint.issue("before")
    assert relay.invoke_with(relay.send(result("before"))) == []
    rotate(relay)
    uuids = relay.issue_calls(40)
    assert relay.invoke_with(relay.send(*map(result, uuids))) == []
    assert sorted(relay.endpoint.accepted[1:]) == sorted((uuid, "Success") for uuid in uuids)
    assert len(relay.calls_of("GetSecretValue")) == 2, "one fetch for all threads"
    assert [request.answer for request in relay.endpoint.requests].count(401) <= 10


def test_a_firewalls_403_fetches_the_secret_too(relay: InProcessRelay) -> None:
    """A gateway that checks the key before the API would refuse a rotated one for minutes."""
    relay.endpoint.issue("before", "after")
    assert relay.invoke_with(relay.send(result("before"))) == []
    relay.endpoint.misbehave("after", error(403, html=True))
    rotate(relay)
    assert relay.invoke_with(relay.send(result("after"))) == []


def test_a_rotation_to_another_wrong_key_ends_in_a_deferral(
    relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay would try a wrong key for ever."""
    monkeypatch.setattr(credentials, "FETCH_INTERVAL_S", 0.0)
    relay.endpoint.issue("before", "after")
    assert relay.invoke_with(relay.send(result("before"))) == []
    rotate(relay)
    relay.endpoint.rotate("a third", "pair")
    assert len(relay.invoke_with(relay.send(result("after")))) == 1
    assert [request.answer for request in relay.endpoint.requests] == [200, 401, 401]


def test_a_batch_behind_a_failing_endpoint_costs_two_calls_to_aws(relay: InProcessRelay) -> None:
    """In an outage the relay would ask the endpoint for each waiting result, and AWS for each of them."""
    relay.add_ledger(CONNECTIONS_PER_FUNCTION="1")
    relay.endpoint.issue("confirmed")
    relay.invoke_with(relay.send(result("confirmed")))
    relay.endpoint.override(error(503))
    relay.invoke_with(relay.send(*map(result, relay.issue_calls(5))))
    records = relay.send(result("confirmed"), *(result(f"held-{number}") for number in range(9)))
    relay.aws_calls.clear()
    asked = len(relay.endpoint.requests)
    assert len(relay.invoke_with(records)) == 9
    assert [operation for operation, _ in relay.aws_calls] == ["BatchGetItem", "ChangeMessageVisibilityBatch"]
    assert len(relay.endpoint.requests) == asked
    assert set(relay.outcomes()[6:]) == {("duplicate", None), ("deferred", "endpoint_failing")}


def test_copies_in_a_batch_share_one_post(relay: InProcessRelay) -> None:
    """BetaTel would get each copy of a message that a producer sent twice."""
    relay.endpoint.issue("copied", "failing", "contradicted")
    relay.endpoint.misbehave("failing", error(500, retry_after=300))
    bodies = [result("copied")] * 3 + [result("failing")] * 2 + [result("failing", "Failed")]
    records = relay.send(*bodies, result("contradicted"), result("contradicted", "Failed"))
    kept = relay.invoke_with([*records, records[0]])  # SQS may return a message twice
    assert sorted(kept) == sorted(record["messageId"] for record in records[3:6])
    assert sorted(request.uuid or "" for request in relay.endpoint.requests) == ["contradicted", "copied", "failing"]
    outcomes = Counter((line["uuid"], line["outcome"], line.get("reason")) for line in relay.lines("result."))
    assert outcomes == {
        ("copied", "delivered", None): 1,
        ("copied", "duplicate", None): 3,
        ("failing", "deferred", "endpoint_error"): 3,
        ("contradicted", "delivered", None): 1,
        ("contradicted", "parked", "conflicting_status"): 1,
    }
    assert all(line["retry_in_s"] >= 300 for line in relay.lines("result.deferred"))
    (parked,) = relay.parked(1)
    assert "Success was confirmed at" in parked["given"]["detail"]


def test_a_request_to_wait_costs_one_post_per_connection(relay: InProcessRelay) -> None:
    """The relay would send forty results in the time in which the endpoint asked for none, and get a longer ban."""
    relay.endpoint.override(error(429, retry_after=120))
    for batch in range(4):
        records = relay.send(*(result(f"call-{batch}-{number}") for number in range(10)))
        assert len(relay.invoke_with(records)) == 10
    assert len(relay.endpoint.requests) <= 10
    hides = [entry for one in relay.calls_of("ChangeMessageVisibilityBatch") for entry in one["Entries"]]
    assert min(entry["VisibilityTimeout"] for entry in hides) >= 110
    assert len({entry["VisibilityTimeout"] for entry in hides}) > 10, "not all at the same moment"
    assert (relay.counted("Throttled"), relay.counted("EndpointFailing")) == ([1] * 4, [0] * 4)
    assert [line["level"] for line in relay.lines("endpoint.throttling")] == ["WARNING"]


def test_a_rate_limit_is_kept(relay: InProcessRelay) -> None:
    """The relay would exceed the rate that a customer has agreed with BetaTel."""
    relay.configure(RATE_LIMIT_PER_SECOND="100", MAXIMUM_CONCURRENCY="5")
    assert relay.invoke_with(relay.send(*map(result, relay.issue_calls(20)))) == []
    starts = sorted(request.at for request in relay.endpoint.requests)
    assert starts[-1] - starts[0] >= 18 * 0.05  # a POST may take longer to arrive than the next one
