"""A probe tells an operator what the function meets on its way to the endpoint, and concerns no result."""

import json

import pytest

from flash_call_relay import budget, handler
from local.endpoint.behaviour import Behaviour, answer, error, hang
from tests.support.payloads import result
from tests.support.relay import PATIENCE_S, Context, InProcessRelay

NEEDED_S = budget.AWS_CALL.worst + 20 + budget.REPORT_S  # the time-out is 20 s
CALL = "probe-5d0f2c7e"
UNKNOWN = {"http_status": 404, "is_json_object": True, "message": "The flash call does not exist"}


def test_a_probe_asks_the_endpoint_and_leaves_no_result(relay: InProcessRelay) -> None:
    """A probe would raise an alarm, count as a result, or leave one on a queue or in the ledger."""
    relay.add_ledger()
    assert relay.probe(CALL) == UNKNOWN
    (request,) = relay.endpoint.requests
    assert (request.uuid, request.status, request.answer) == (CALL, "Failed", 404)
    assert [operation for operation, _ in relay.aws_calls] == ["GetSecretValue"]
    (line,) = relay.lines()
    assert (line["message"], line["level"]) == ("probe.answered", "INFO")
    assert (line["probe"], line["answer"]) == (CALL, UNKNOWN)
    assert not line.keys() & {"uuid", "status", "outcome", "reason", "http_status", "detail"}
    assert relay.blobs() == []


@pytest.mark.parametrize(
    ("behaviour", "found"),
    [
        (error(404, html=True), {"http_status": 404, "is_json_object": False, "message": ""}),
        (
            answer(302, None, {"Location": "/"}),
            {"http_status": 302, "is_json_object": False, "message": ""},
        ),
        (hang(), {"reason": "timeout", "detail": "no whole answer in time (TimeoutError)"}),
    ],
)
def test_a_probe_returns_what_it_met(relay: InProcessRelay, behaviour: Behaviour, found: dict[str, object]) -> None:
    """An operator would read an error of Lambda instead of the endpoint's answer."""
    relay.endpoint.always(CALL, behaviour)
    if "reason" in found:
        relay.configure(REQUEST_TIMEOUT_SECONDS="1")
    assert relay.probe(CALL) == found


def test_a_probe_takes_a_new_connection_and_reads_the_secret_again(relay: InProcessRelay) -> None:
    """After a change of routes or a rotation, a probe would still find the old ones, and all would look well."""
    relay.endpoint.issue("before")
    assert relay.invoke_with(relay.send(result("before"))) == []
    rotated = {"api_key": "key-rotated", "user_id": "user-rotated"}
    relay.secrets.put_secret_value(SecretId=relay.secret_id, SecretString=json.dumps(rotated))
    relay.endpoint.rotate(**rotated)
    assert relay.probe(CALL) == UNKNOWN
    assert relay.endpoint.connections == 2


def test_a_failing_endpoint_is_probed_and_the_gate_learns_nothing(relay: InProcessRelay) -> None:
    """During an outage a probe would not ask, or would let all waiting results through; or probes would cause one."""
    relay.endpoint.issue("good")
    relay.endpoint.always(CALL, error(503))
    for _ in range(6):
        assert relay.probe(CALL)["http_status"] == 503
    assert not handler.wire().gate.failing
    assert relay.invoke_with(relay.send(result("good"))) == []
    relay.endpoint.override(error(503))
    relay.invoke_with(relay.send(*(result(f"fails-{number}") for number in range(5))))
    relay.endpoint.heal()
    assert relay.probe(CALL) == UNKNOWN
    assert handler.wire().gate.failing
    assert relay.lines("endpoint.recovered") == []


def test_a_probe_that_may_not_end_in_time_is_not_begun(relay: InProcessRelay) -> None:
    """Lambda would cut the function off, and an operator would learn nothing."""
    assert relay.probe(CALL, Context(int(NEEDED_S * 1000) - 1))["reason"] == "out_of_time"
    assert (relay.aws_calls, relay.endpoint.connections) == ([], 0)
    assert relay.probe(CALL, Context(int((NEEDED_S + PATIENCE_S) * 1000))) == UNKNOWN
