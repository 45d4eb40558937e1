"""The outcome bus: a backend learns which results were confirmed or parked, and a failing bus changes no outcome."""

import json
from itertools import chain, repeat
from typing import Any

import pytest

from flash_call_relay.outcome_bus import DETAIL_TYPES
from local.endpoint.behaviour import Behaviour, answer, error
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from tests.support.payloads import result
from tests.support.relay import KEY, USER, InProcessRelay, failing_service
from tests.support.template import template


@pytest.fixture
def bus(relay: InProcessRelay) -> InProcessRelay:
    """Run the relay with a bus of its own."""
    relay.emulator.client("events").create_event_bus(Name=relay.name)
    relay.configure(OUTCOME_BUS_NAME=relay.name)
    relay.endpoint.issue("call", "other")
    return relay


def _told(relay: InProcessRelay) -> list[dict[str, Any]]:
    """Return the events that the relay sent, all of which EventBridge took."""
    assert relay.counted("OutcomeEventsFailed") == [0]
    return [entry for call in relay.calls_of("PutEvents") for entry in call["Entries"]]


def test_the_bus_gets_an_event_for_each_confirmed_and_each_parked_result(bus: InProcessRelay) -> None:
    """A backend could not close a verification or open a ticket without reading queues."""
    bus.endpoint.issue("deferred")
    bus.endpoint.misbehave("deferred", error(500))
    bus.endpoint.misbehave("other", error(422))
    confirmed, copy, other, deferred, malformed = bus.send(
        result("call"), result("call"), result("other", "Failed"), result("deferred"), "no result"
    )
    bus.invoke_with([confirmed, copy, other, deferred, malformed])
    told = _told(bus)
    assert {(event["EventBusName"], event["Source"]) for event in told} == {(bus.name, "flash-call-relay")}
    details = {detail["message_id"]: detail for detail in (json.loads(event["Detail"]) for event in told)}
    assert {message_id: event["DetailType"] for message_id, event in zip(details, told, strict=True)} == {
        confirmed["messageId"]: "Flash Call Result Confirmed",
        other["messageId"]: "Flash Call Result Parked",
        malformed["messageId"]: "Flash Call Result Parked",
    }
    lines = {line["message_id"]: line for line in bus.lines("result.")}
    for message_id, detail in details.items():
        assert detail.pop("relay") == "flash-call-relay"
        assert detail.items() <= lines[message_id].items(), "the fields of the outcome's log line"
    assert details[confirmed["messageId"]].keys() >= {"uuid", "status", "outcome", "age_s"}
    assert details[malformed["messageId"]].keys() >= {"outcome", "reason", "detail", "age_s"}


def test_the_relays_own_rule_does_not_match_its_events() -> None:
    """With one bus for both, the relay would take its own events for results, and each would make another one."""
    pattern = template()["Resources"]["ResultRule"]["Properties"]["EventPattern"]
    assert not set(pattern["detail-type"]) & set(DETAIL_TYPES.values())


def test_one_call_publishes_ten_events(bus: InProcessRelay) -> None:
    """A batch of 1,000 would spend its time on 1,000 calls."""
    calls = bus.issue_calls(35)
    assert bus.invoke_with(bus.send(*map(result, calls))) == []
    assert sorted(len(call["Entries"]) for call in bus.calls_of("PutEvents")) == [5, 10, 10, 10]
    assert {json.loads(event["Detail"])["uuid"] for event in _told(bus)} == set(calls)


def test_a_result_that_sqs_did_not_park_has_no_event(bus: InProcessRelay) -> None:
    """A backend would open a ticket for a result that the relay tries again."""
    bus.configure(PARKED_QUEUE_URL=f"{bus.parked_url}-gone")
    (malformed,) = bus.send("no result")
    assert bus.invoke_with([malformed]) == [malformed["messageId"]]
    assert _told(bus) == []


@pytest.mark.parametrize("failure", ["throttled", "unreachable", "silent"])
def test_results_are_settled_while_the_bus_fails(relay: InProcessRelay, failure: str) -> None:
    """An outage of EventBridge would lose results, or deliver them twice."""
    relay.endpoint.issue("call")
    relay.keep_real_limits("EVENTS_CALL", "EVENTS_S")
    good, malformed = relay.send(result("call"), "no result")
    with failing_service(failure) as url:
        relay.configure(OUTCOME_BUS_NAME="default", AWS_ENDPOINT_URL_EVENTBRIDGE=url)
        assert relay.invoke_with([good, malformed]) == []
    assert relay.endpoint.accepted == [("call", "Success")]
    assert [message["body"] for message in relay.parked(1)] == ["no result"]
    failed = relay.lines("outcome_event.failed")
    told = [(line["message_id"], line["event"], line.get("uuid")) for line in failed]
    assert told == [(malformed["messageId"], "parked", None), (good["messageId"], "delivered", "call")]
    assert all(line["detail"].startswith("PutEvents: ") for line in failed)
    assert not any("outcome" in line or "duration_ms" in line for line in failed), "queries count by these"
    assert relay.counted("OutcomeEventsFailed") == [2]


def test_only_an_event_that_eventbridge_refuses_twice_is_logged_as_failed(relay: InProcessRelay) -> None:
    """A throttled moment would cost events, or the log would report events that the backend has."""
    relay.endpoint.issue("call", "other")
    refusal = {"ErrorCode": "InternalFailure", "ErrorMessage": "once more"}
    half = answer(200, {"FailedEntryCount": 1, "Entries": [{"EventId": "taken"}, refusal]})
    with StandIn(api_key=KEY, user_id=USER) as eventbridge:
        throttled = answer(400, {"__type": "ThrottlingException", "message": "slow down"})
        ways = chain([half], repeat(throttled))
        eventbridge.override(Behaviour("in turn", lambda *given: next(ways).script(*given)))
        place = eventbridge.url.removesuffix(WEBHOOK_PATH)
        relay.configure(OUTCOME_BUS_NAME="default", AWS_ENDPOINT_URL_EVENTBRIDGE=place)
        assert relay.invoke_with(relay.send(result("call"), result("other"))) == []
    (line,) = relay.lines("outcome_event.failed")
    assert json.loads(relay.calls_of("PutEvents")[-1]["Entries"][0]["Detail"])["uuid"] == line["uuid"]
    assert line["detail"] == "PutEvents: ThrottlingException"
    assert relay.counted("OutcomeEventsFailed") == [1]


def test_an_answer_that_leaves_events_out_changes_no_outcome(relay: InProcessRelay) -> None:
    """A settled batch would come back, and the endpoint would get its results again."""
    relay.endpoint.issue("call")
    with StandIn(api_key=KEY, user_id=USER) as eventbridge:
        eventbridge.override(answer(200, {"FailedEntryCount": 0, "Entries": []}))
        place = eventbridge.url.removesuffix(WEBHOOK_PATH)
        relay.configure(OUTCOME_BUS_NAME="default", AWS_ENDPOINT_URL_EVENTBRIDGE=place)
        assert relay.invoke_with(relay.send(result("call"))) == []
    assert relay.counted("OutcomeEventsFailed") == [1]
