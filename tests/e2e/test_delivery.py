"""Results through the deployed stack, one way in after the other."""

import json
import uuid as uuids
from typing import Any

import pytest

from local.endpoint.behaviour import error, hang
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.payloads import pairs, payload, result


def test_a_queued_result_becomes_the_documented_request(relay: DeployedRelay) -> None:
    """BetaTel would refuse, or misread, what the relay sends."""
    one = result()
    relay.endpoint.issue(one["uuid"])
    relay.send({**one, "note": "not for BetaTel"})
    assert relay.accepted(one) == pairs(one)
    request = next(request for request in relay.endpoint.requests if request.uuid == one["uuid"])
    headers = {name.lower(): value for name, value in request.headers}
    assert (request.method, request.path) == ("POST", "/api/v1/connect-hub/call/flash/webhook")
    assert headers["content-type"] == "application/json"
    assert headers["x-api-key"] == relay.api_key
    assert headers["x-user-id"] == relay.user_id
    assert headers["user-agent"].startswith("flash-call-relay/")
    assert json.loads(request.body) == one


def test_an_event_on_the_bus_is_delivered(relay: DeployedRelay) -> None:
    """Backends that use EventBridge would report nothing."""
    events = [result(status="Failed"), result()]
    relay.endpoint.issue(*(one["uuid"] for one in events))
    relay.put_events(*events)
    assert relay.accepted(*events) == pairs(*events)


def test_a_mixed_batch_ends_as_each_record_deserves(relay: DeployedRelay) -> None:
    """One bad record would hold up, lose or repeat its neighbours."""
    good, failing, silent, unknown = [result() for _ in range(6)], result(), result(), result(status="Failed")
    relay.endpoint.issue(*(one["uuid"] for one in [*good, failing, silent]))
    relay.endpoint.misbehave(failing["uuid"], error(500))
    relay.endpoint.misbehave(silent["uuid"], hang())
    malformed = json.dumps({"uuid": uuids.uuid4().hex, "status": "ok"})
    ids = relay.send(*good, malformed, unknown, failing, silent)

    assert relay.accepted(*good, failing, silent) == pairs(*good, failing, silent)
    parked = relay.parked(2)
    assert parked.keys() == {ids[6], ids[7]}
    assert parked[ids[6]]["Body"] == malformed
    assert parked[ids[6]]["Reasons"]["reason"] == "invalid_event"
    assert "status must be exactly" in parked[ids[6]]["Reasons"]["detail"]
    assert json.loads(parked[ids[7]]["Body"]) == unknown
    assert parked[ids[7]]["Reasons"]["reason"] == "unknown_call"
    assert parked[ids[7]]["Reasons"]["http_status"] == "404"
    wait_for(lambda: relay.deployment.depth("ResultQueueUrl") == 0, "an empty result queue")
    assert relay.deployment.depth("DeadLetterQueueUrl") == 0

    for one, reason in ((failing, "endpoint_error"), (silent, "timeout")):
        first, last = relay.story(one["uuid"])
        assert (first["message"], first["reason"]) == ("result.deferred", reason)
        assert first["retry_in_s"] in (1, 2)
        assert (last["message"], last["receive_count"]) == ("result.delivered", 2)
    *deferrals, final = relay.story(unknown["uuid"])
    assert {line["reason"] for line in deferrals} == {"unknown_call"}
    assert all(float(str(line["age_s"])) < 8 for line in deferrals)
    assert float(str(final["age_s"])) >= 8


def test_an_event_goes_straight_to_the_function(function_route: DeployedRelay) -> None:
    """EventRoute: function would deliver nothing, or lose what can't be delivered at once."""
    prompt, late = result(), result(status="Failed")
    function_route.endpoint.issue(prompt["uuid"], late["uuid"])
    function_route.endpoint.misbehave(late["uuid"], error(500))
    function_route.put_events(prompt, late)
    assert function_route.accepted(prompt, late) == pairs(prompt, late)
    assert [line["receive_count"] for line in function_route.story(prompt["uuid"])] == [1]
    deferred, delivered = function_route.story(late["uuid"])
    assert deferred["reason"] == "endpoint_error"
    assert delivered["message_id"] != deferred["message_id"], "the retry comes from the result queue"
    function_route.put_events({"uuid": "", "status": "Success"})
    (parked,) = function_route.parked(1).values()
    assert parked["Reasons"]["reason"] == "invalid_event"
    assert json.loads(parked["Body"])["detail"] == {"uuid": "", "status": "Success"}


@pytest.mark.parametrize("name", ["sqs-success", "eventbridge"])
def test_the_sample_payloads_reach_the_endpoint(relay: DeployedRelay, name: str) -> None:
    """`sam local invoke` and `sam remote invoke` with the files of events/ would fail."""
    event: Any = payload(name)
    body = event["detail"] if "detail" in event else json.loads(event["Records"][0]["body"])
    relay.endpoint.issue(body["uuid"])
    reply = relay.deployment.invoke(event)
    assert reply == {"Payload": {"batchItemFailures": []}, "FunctionError": None}
    assert (body["uuid"], body["status"]) in relay.endpoint.accepted


def test_what_is_no_trigger_is_refused(relay: DeployedRelay) -> None:
    """A function wired to the wrong source would swallow its events."""
    reply = relay.deployment.invoke({"Records": [{"eventSource": "aws:s3"}]})
    assert reply["FunctionError"]
    assert "expected an SQS batch" in reply["Payload"]["errorMessage"]


def test_the_log_never_shows_the_credentials(relay: DeployedRelay) -> None:
    """Everyone who may read logs could report calls in the customer's name."""
    one = result()
    relay.endpoint.issue(one["uuid"])
    relay.send(one)
    relay.accepted(one)
    wait_for(lambda: relay.story(one["uuid"]), "a log line")
    log = "\n".join(relay.deployment.raw_log())
    assert relay.api_key not in log
    assert relay.user_id not in log
