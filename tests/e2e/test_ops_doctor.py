"""`doctor`, `pause` and `resume` on the deployed stack."""

import re

import pytest

from tests.support.deployed import VISIBILITY_S, DeployedRelay, wait_for
from tests.support.operator import Operator
from tests.support.payloads import pairs, payload, result


def findings(operator: Operator, stack: str, *options: str) -> dict[str, str]:
    """Return what each check of `doctor` says, after its level; no check is wrong."""
    found = operator("--stack", stack, "doctor", *options)
    assert (found.status, found.err) == (0, "")
    lines = [line.split(maxsplit=1) for line in found.out.splitlines() if not line.startswith(" ")]
    return {said.partition(":")[0]: f"{level}{said.partition(':')[2]}" for level, said in lines}


def test_a_good_stack_is_ok(swept: DeployedRelay, operator: Operator) -> None:
    """`doctor` would report failures of a stack that works, or show the credentials."""
    found = findings(operator, "relay", "--probe")
    # Those of the emulator, of other tests, and of a stack that gives up soon.
    others = {name: found.pop(name) for name in ("alarms", "deferred", "function")}
    checks = ("stack", "intake", "events", "credentials", "result queue", "parked queue")
    assert set(found) == {*checks, "dead-letter queue", "probe"}
    assert {said.split()[0] for said in found.values()} == {"ok"}
    assert not any(one in str({**found, **others}) for one in swept.endpoint.credentials)
    probe = swept.endpoint.requests[-1]
    assert re.search(rf" {probe.uuid} \(HTTP 404: ", found["probe"])
    (line,) = [line for line in swept.deployment.log() if line.get("probe") == probe.uuid]
    assert line["answer"]["http_status"] == probe.answer == 404, "the function sent it, and not this machine"


def target(relay: DeployedRelay) -> str:
    """Return the ARN that the rule sends events to."""
    bus = relay.deployment.client("events")
    (rule,) = bus.list_rules(NamePrefix=f"{relay.deployment.name}-")["Rules"]
    (one,) = bus.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    return str(one["Arn"])


@pytest.mark.parametrize("route", ["relay", "function_route"])
def test_a_paused_relay_receives_no_result_and_loses_none(
    operator: Operator, request: pytest.FixtureRequest, route: str
) -> None:
    """A pause would use up receives, drop events, or not stop the relay."""
    relay: DeployedRelay = request.getfixturevalue(route)
    name = relay.deployment.name
    relay.settled()
    results = [result() for _ in range(8)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    before = target(relay)
    try:
        for waiting in (0, 8):  # the second pause changes nothing
            paused = operator("--stack", name, "pause")
            says = f"{name} is paused; {waiting} results waiting. The queue keeps each result for 10 d."
            assert (paused.status, paused.err, says in paused.out) == (0, "", True)
            assert target(relay) == relay.deployment.outputs["ResultQueueArn"]
            relay.send(*results[waiting:4])
            relay.put_events(*results[4 + waiting :])
            wait_for(lambda: relay.visible("ResultQueueUrl") == len(results), "results and events on the queue")
        assert findings(operator, name)["intake"].startswith("note the relay is paused since 20")
    finally:
        resumed = operator("--stack", name, "resume")
    assert (resumed.status, resumed.err) == (0, "")
    assert relay.accepted(*results) == pairs(*results)
    assert {relay.story(one["uuid"], 1)[-1]["receive_count"] for one in results} == {1}
    again = operator("--stack", name, "resume")
    assert (again.status, again.out) == (0, f"{name} is relaying.\n")
    assert target(relay) == before
    assert findings(operator, name)["intake"].startswith("ok")


def test_results_wait_for_the_next_version_if_one_does_not_start(relay: DeployedRelay, operator: Operator) -> None:
    """A bad deployment would lose results, or the operator's one result would not show it during a pause."""
    relay.settled()
    waiting, one = result(), result()
    relay.endpoint.issue(waiting["uuid"], one["uuid"])
    event = {**payload("eventbridge"), "detail": one}
    client, function = relay.deployment.emulator.client("lambda"), relay.deployment.outputs["FunctionName"]
    handler = client.get_function_configuration(FunctionName=function)["Handler"]
    relay.deployment.shorten_visibility(3)
    try:
        operator("--stack", "relay", "pause")
        relay.send(waiting)
        client.update_function_configuration(FunctionName=function, Handler="flash_call_relay.missing.lambda_handler")
        assert relay.invoke(event)["FunctionError"]
        assert relay.visible("ResultQueueUrl") == 1
        operator("--stack", "relay", "resume")
        wait_for(lambda: relay.visible("ResultQueueUrl") == 0, "the bad version to receive the result")
        relay.deployment.shorten_visibility(VISIBILITY_S)
        client.update_function_configuration(FunctionName=function, Handler=handler)
        assert relay.accepted(waiting) == pairs(waiting)
        relay.settled()
        assert relay.invoke(event) == {"Payload": {"batchItemFailures": []}, "FunctionError": None}
        assert relay.accepted(one) == pairs(one)
        assert int(str(relay.story(waiting["uuid"], 1)[-1]["receive_count"])) > 1
    finally:
        client.update_function_configuration(FunctionName=function, Handler=handler)
        operator("--stack", "relay", "resume")
        relay.deployment.shorten_visibility(VISIBILITY_S)
