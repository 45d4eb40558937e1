"""The outcome bus: a backend learns which results were confirmed or parked, and a failing bus changes no outcome."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from local.endpoint.behaviour import answer, error, in_turn
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from tests.support.payloads import result
from tests.support.relay import KEY, USER, InProcessRelay, failing_service
from tests.support.template import template


@pytest.fixture
def bus(relay: InProcessRelay) -> Iterator[InProcessRelay]:
    """Run the relay with a bus of its own, which sends all events to a queue, `heard`."""
    events = relay.emulator.client("events")
    events.create_event_bus(Name=relay.name)
    _listen(relay, "heard", {"source": [{"prefix": ""}]})
    relay.configure(OUTCOME_BUS_NAME=relay.name)
    relay.endpoint.issue("call", "other")
    yield relay
    for rule in events.list_rules(EventBusName=relay.name)["Rules"]:
        events.remove_targets(Rule=rule["Name"], EventBusName=relay.name, Ids=["queue"])
        events.delete_rule(Name=rule["Name"], EventBusName=relay.name)
    events.delete_event_bus(Name=relay.name)


def _listen(relay: InProcessRelay, name: str, pattern: dict[str, Any]) -> str:
    url = relay.queue(name)
    arn = relay.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events = relay.emulator.client("events")
    events.put_rule(Name=f"{relay.name}-{name}", EventBusName=relay.name, EventPattern=json.dumps(pattern))
    target = {"Id": "queue", "Arn": arn}
    events.put_targets(Rule=f"{relay.name}-{name}", EventBusName=relay.name, Targets=[target])
    return url


def _heard(relay: InProcessRelay, count: int) -> list[dict[str, Any]]:
    url = relay.sqs.get_queue_url(QueueName=f"{relay.name}-heard")["QueueUrl"]
    return [json.loads(record["body"]) for record in relay.receive(url, count)]


def test_the_bus_gets_an_event_for_each_confirmed_and_each_parked_result(bus: InProcessRelay) -> None:
    """A backend could not close a verification or open a ticket without reading queues."""
    bus.endpoint.issue("deferred")
    bus.endpoint.misbehave("deferred", error(500))
    bus.endpoint.misbehave("other", error(422))
    confirmed, copy, other, deferred, malformed = bus.send(
        result("call"), result("call"), result("other", "Failed"), result("deferred"), "no result"
    )
    bus.invoke_with([confirmed, copy, other, deferred, malformed])
    events = _heard(bus, 3)
    assert bus.calls_of("PutEvents")[0]["Entries"][0]["EventBusName"] == bus.name
    assert {event["source"] for event in events} == {"flash-call-relay"}
    told = {(event["detail"]["message_id"], event["detail-type"]): event["detail"] for event in events}
    assert told.keys() == {
        (confirmed["messageId"], "Flash Call Result Confirmed"),
        (other["messageId"], "Flash Call Result Parked"),
        (malformed["messageId"], "Flash Call Result Parked"),
    }
    details = {detail["message_id"]: detail for detail in told.values()}
    lines = {line["message_id"]: line for line in bus.lines("result.")}
    for message_id, detail in details.items():
        assert detail.pop("relay") == "flash-call-relay"
        assert detail.items() <= lines[message_id].items(), "the fields of the outcome's log line"
    assert {"uuid", "status", "outcome", "age_s"} <= details[confirmed["messageId"]].keys()
    assert details[other["messageId"]]["reason"] == "rejected"
    assert details[malformed["messageId"]].keys() >= {"outcome", "reason", "detail", "age_s"}
    assert bus.counted("OutcomeEventsFailed") == [0]


def test_the_relays_own_rule_does_not_match_its_events(bus: InProcessRelay) -> None:
    """With one bus for both, the relay would take its own events for results, and each would make another one."""
    pattern = template()["Resources"]["ResultRule"]["Properties"]["EventPattern"] | {"source": ["flash-call-relay"]}
    own = _listen(bus, "own", pattern)
    bus.invoke_with(bus.send(result("call"), "no result"))
    assert len(_heard(bus, 2)) == 2
    last = {"Source": "flash-call-relay", "DetailType": "Flash Call Result", "Detail": "{}", "EventBusName": bus.name}
    bus.emulator.client("events").put_events(Entries=[last])
    assert [json.loads(record["body"])["detail"] for record in bus.receive(own, 1)] == [{}], "the rule works"
    assert sum(bus.depths(own).values()) == 1


def test_one_call_publishes_ten_events(bus: InProcessRelay) -> None:
    """A batch of 1,000 would spend its time on 1,000 calls."""
    calls = bus.issue_calls(35)
    assert bus.invoke_with(bus.send(*map(result, calls))) == []
    assert sorted(len(call["Entries"]) for call in bus.calls_of("PutEvents")) == [5, 10, 10, 10]
    assert {event["detail"]["uuid"] for event in _heard(bus, 35)} == set(calls)


def test_a_result_that_sqs_did_not_park_has_no_event(bus: InProcessRelay) -> None:
    """A backend would open a ticket for a result that the relay tries again."""
    bus.configure(PARKED_QUEUE_URL=f"{bus.parked_url}-gone")
    (malformed,) = bus.send("no result")
    assert bus.invoke_with([malformed]) == [malformed["messageId"]]
    assert bus.calls_of("PutEvents") == []


def test_there_are_no_events_without_a_bus(relay: InProcessRelay) -> None:
    """A customer without an outcome bus would pay for events, or need a permission for them."""
    relay.endpoint.issue("call")
    relay.invoke_with(relay.send(result("call"), "no result"))
    assert relay.calls_of("PutEvents") == []
    assert relay.counted("OutcomeEventsFailed") == [0]


@pytest.fixture(params=["throttled", "unreachable", "silent"])
def without_bus(request: pytest.FixtureRequest, relay: InProcessRelay) -> Iterator[InProcessRelay]:
    """Run the relay with an outcome bus that fails."""
    relay.endpoint.issue("call")
    relay.keep_real_limits("EVENTS_CALL", "EVENTS_S")
    relay.configure(OUTCOME_BUS_NAME="default")
    with failing_service(request.param) as url:
        relay.configure(AWS_ENDPOINT_URL_EVENTBRIDGE=url)
        yield relay


def test_results_are_settled_while_the_bus_fails(without_bus: InProcessRelay) -> None:
    """An outage of EventBridge would lose results, or deliver them twice."""
    relay = without_bus
    good, malformed = relay.send(result("call"), "no result")
    assert relay.invoke_with([good, malformed]) == []
    assert relay.endpoint.accepted == [("call", "Success")]
    assert [message["body"] for message in relay.parked(1)] == ["no result"]
    failed = {line["message_id"]: line for line in relay.lines("outcome_event.failed")}
    assert {message_id: line["event"] for message_id, line in failed.items()} == {
        good["messageId"]: "delivered",
        malformed["messageId"]: "parked",
    }
    assert failed[good["messageId"]]["uuid"] == "call"
    assert all(line["detail"].startswith("PutEvents: ") for line in failed.values())
    assert not any("outcome" in line or "duration_ms" in line for line in failed.values()), "queries count by these"
    assert relay.counted("OutcomeEventsFailed") == [2]


def test_an_event_that_eventbridge_refuses_is_tried_once_more_and_logged(relay: InProcessRelay) -> None:
    """A throttled moment would cost events, and nobody would know which."""
    relay.endpoint.issue("call")
    refusal = {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"}
    with StandIn(api_key=KEY, user_id=USER) as eventbridge:
        eventbridge.override(answer(200, {"FailedEntryCount": 1, "Entries": [refusal]}))
        place = eventbridge.url.removesuffix(WEBHOOK_PATH)
        relay.configure(OUTCOME_BUS_NAME="default", AWS_ENDPOINT_URL_EVENTBRIDGE=place)
        assert relay.invoke_with(relay.send(result("call"))) == []
    first, again = relay.calls_of("PutEvents")
    assert first == again
    (line,) = relay.lines("outcome_event.failed")
    assert line["detail"] == "PutEvents: ThrottlingException"
    assert relay.counted("OutcomeEventsFailed") == [1]


def test_an_event_that_eventbridge_took_is_not_logged_as_failed(relay: InProcessRelay) -> None:
    """A failure to repeat one refused event would report events that the backend has."""
    relay.endpoint.issue("call", "other")
    refusal = {"ErrorCode": "InternalFailure", "ErrorMessage": "once more"}
    half = answer(200, {"FailedEntryCount": 1, "Entries": [{"EventId": "taken"}, refusal]})
    with StandIn(api_key=KEY, user_id=USER) as eventbridge:
        eventbridge.override(in_turn(half, answer(400, {"__type": "ThrottlingException", "message": "slow down"})))
        place = eventbridge.url.removesuffix(WEBHOOK_PATH)
        relay.configure(OUTCOME_BUS_NAME="default", AWS_ENDPOINT_URL_EVENTBRIDGE=place)
        assert relay.invoke_with(relay.send(result("call"), result("other"))) == []
    (line,) = relay.lines("outcome_event.failed")
    assert json.loads(relay.calls_of("PutEvents")[-1]["Entries"][0]["Detail"])["uuid"] == line["uuid"]
    assert line["detail"] == "PutEvents: ThrottlingException"
    assert relay.counted("OutcomeEventsFailed") == [1]
