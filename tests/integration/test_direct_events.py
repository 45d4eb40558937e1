"""A direct EventBridge event is delivered, or joins a queue, or the invocation fails so that Lambda retries it."""

import json
from typing import Any

import pytest

from flash_call_relay.handler import NotSettledError
from flash_call_relay.queues import MAX_MESSAGES
from local.endpoint.behaviour import error
from tests.support.payloads import payload
from tests.support.relay import UUID, InProcessRelay
from tests.support.template import template


@pytest.fixture
def event() -> Any:
    """Return an event as the rule sends it."""
    return payload("eventbridge")


def entry(relay: InProcessRelay) -> Any:
    """Return the one message that the relay sent."""
    (asked,) = relay.calls_of("SendMessageBatch")
    (one,) = asked["Entries"]
    return one


@pytest.mark.parametrize(("asked_s", "delay_s"), [(None, {2, 3}), (900, {900})])
def test_a_deferred_event_is_put_on_the_result_queue_with_its_delay(
    relay: InProcessRelay, event: Any, asked_s: int | None, delay_s: set[int]
) -> None:
    """The relay would retry immediately, or SQS would refuse a longer delay than 900 s, and the event would be lost."""
    relay.configure(RETRY_BASE_SECONDS="2")
    relay.endpoint.misbehave(UUID, error(408, retry_after=asked_s))  # the relay makes what is asked longer
    assert relay.invoke(event) == []  # no message can stay on a queue
    sent = entry(relay)
    assert json.loads(sent["MessageBody"]) == event
    assert sent["DelaySeconds"] in delay_s


@pytest.mark.parametrize(("status", "characters"), [(500, 50_000), (400, 200_000)], ids=["deferred", "parked"])
def test_an_event_that_is_too_large_for_sqs_becomes_its_result(
    relay: InProcessRelay, event: Any, status: int, characters: int
) -> None:
    """SQS would refuse 100 kB of Cyrillic, which JSON writes as 600 kB, and the result would be lost with its event."""
    event["detail"] = {"note": "\N{CYRILLIC SMALL LETTER A}" * characters, **event["detail"]}
    relay.endpoint.misbehave(UUID, error(status))
    assert relay.invoke(event) == []
    sent = entry(relay)
    assert json.loads(sent["MessageBody"]) == {"uuid": UUID, "status": "Success"}
    assert ("the body is cut" in str(sent.get("MessageAttributes"))) == (status == 400)


def test_a_parked_event_is_cut_where_sqs_takes_no_more(relay: InProcessRelay, event: Any) -> None:
    """SQS would refuse a large event that needs a person, and it would be lost, or cut without a word."""
    event["detail"] = {"note": "\N{CYRILLIC SMALL LETTER A}" * 200_000}
    assert relay.invoke(event) == []
    sent = entry(relay)
    body, attributes = sent["MessageBody"], sent["MessageAttributes"]
    assert json.dumps(event).startswith(body)
    assert attributes.keys() == {"reason", "detail", "receive_count", "enqueued_at", "source_message_id"}
    assert attributes["source_message_id"]["StringValue"] == event["id"]
    assert attributes["detail"]["StringValue"].startswith("the body is cut")
    size = len(body) + sum(len(name + "".join(one.values())) for name, one in attributes.items())
    assert 2**20 - 4096 <= size <= 2**20


@pytest.mark.parametrize(
    ("missing", "status", "name"),
    [("RESULT_QUEUE_URL", 500, "requeue"), ("PARKED_QUEUE_URL", 400, "park")],
    ids=["deferred", "parked"],
)
def test_an_event_that_sqs_refuses_raises(
    relay: InProcessRelay, event: Any, missing: str, status: int, name: str
) -> None:
    """A result would be lost in an outage of SQS, because Lambda would not retry the event."""
    relay.configure(**{missing: relay.results_url + "-missing"})
    relay.endpoint.misbehave(UUID, error(status))
    with pytest.raises(NotSettledError, match=rf"{name}: ") as raised:
        relay.invoke(event)
    assert UUID not in str(raised.value)
    assert len(relay.lines("settle.failed")) == 1


def test_the_messages_that_the_relay_sends_in_one_call_fit() -> None:
    """SQS would refuse to park large messages, and the relay would try them for ten days."""
    largest = template()["Resources"]["ResultQueue"]["Properties"]["MaximumMessageSize"]
    assert MAX_MESSAGES * (largest + 1024) <= 1024 * 1024  # the attributes take less than 1 KiB
