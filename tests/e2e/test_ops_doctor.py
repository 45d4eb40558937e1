"""`doctor`, `watch`, `pause` and `resume` on the deployed stack."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from local.endpoint.behaviour import error
from tests.support.deployed import VISIBILITY_S, DeployedRelay, wait_for
from tests.support.operator import Operator, ended
from tests.support.payloads import pairs, payload, result


def findings(out: str) -> dict[str, str]:
    """Return the level of each check of `doctor`, the worst if a check has several findings."""
    levels: dict[str, str] = {}
    for line in out.splitlines():
        if not line.startswith(" "):
            level, name = line.split(":")[0].split(maxsplit=1)
            levels[name] = max(levels.get(name, level), level, key=("ok", "note", "WRONG").index)
    return levels


def test_a_good_stack_is_ok(swept: DeployedRelay, operator: Operator) -> None:
    """`doctor` would report failures of a stack that works, or show the credentials."""
    found = operator("--stack", "relay", "doctor", "--probe")
    assert (found.status, found.err) == (0, "")
    levels = findings(found.out)
    levels.pop("alarms")  # the emulator has no alarms
    levels.pop("deferred")  # other tests defer results
    assert levels == dict.fromkeys(
        [
            *("stack", "function", "intake", "events", "credentials"),
            *("result queue", "parked queue", "dead-letter queue", "probe"),
        ],
        "ok",
    )
    assert not [one for one in swept.endpoint.credentials if one in found.out]
    probe = swept.endpoint.requests[-1]
    assert (probe.uuid or "").startswith("probe-")
    assert (probe.uuid or "") in found.out
    assert probe.answer == 404
    (line,) = [line for line in swept.deployment.log() if line.get("probe") == probe.uuid]
    assert line["answer"]["http_status"] == 404, "the function sent it, and not this machine"


def test_a_view_shows_the_queues_and_the_outcomes(swept: DeployedRelay, operator: Operator) -> None:
    """During an outage the first command of the runbook would find nothing wrong, or POST, or `watch` show zeros."""
    delivered, waiting = result(), result()
    swept.endpoint.issue(delivered["uuid"], waiting["uuid"])
    swept.endpoint.always(waiting["uuid"], error(503))
    swept.send(delivered, waiting)
    swept.accepted(delivered)
    wait_for(lambda: any(line["age_s"] for line in swept.story(waiting["uuid"])), "a deferral at a later age")
    swept.put("ParkedQueueUrl", ("no JSON", {"reason": "invalid_event"}))
    swept.put("DeadLetterQueueUrl", ("{}", {}), ("{}", {}))
    posted = len(swept.endpoint.requests)
    looked = operator("--stack", "relay", "doctor")
    assert {one.uuid for one in swept.endpoint.requests[posted:]} <= {waiting["uuid"]}, "it POSTs nothing itself"
    assert findings(looked.out)["deferred"] == "note"
    assert re.search(r"deferred: in the last 15 minutes: .*endpoint_error \d+ \(the latest \d+ s ago\)", looked.out)
    found = operator("--stack", "relay", "watch", "--count", "1", "--json")
    assert (found.status, found.err) == (0, "")
    (line,) = [json.loads(line) for line in found.out.splitlines()]
    queues, recent = line["queues"], line["recent"]
    assert (queues["parked"], queues["dead_lettered"], queues["waiting"] + queues["in_flight"]) == (1, 2, 1)
    assert recent["delivered"] >= 1
    assert recent["deferred"] >= recent["deferred_by_reason"]["endpoint_error"] >= 1
    assert recent["oldest_s"] > 0

    with operator.start("--stack", "relay", "watch", "--every", "1") as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        stopped = ended(process)
    assert (stopped.status, stopped.err) == (0, "")
    for text in (first, second):
        assert re.search(r"parked 1, dead-lettered 2; in 15 min delivered \d.*endpoint_error", text)
        assert "\x1b" not in text
    swept.endpoint.heal()
    assert operator("--stack", "relay", "watch", "--every", "1", "--until-empty", "--count", "60").status == 0


@contextmanager
def refused_credentials(relay: DeployedRelay) -> Iterator[None]:
    """Let the endpoint refuse the credentials."""
    credentials = relay.endpoint.credentials
    relay.endpoint.rotate()
    try:
        yield
    finally:
        relay.endpoint.rotate(*credentials)


@contextmanager
def unreadable_secret(relay: DeployedRelay) -> Iterator[None]:
    """Take the permission to read the secret from the function's role; the operator still has it."""
    policy = relay.role_policy()
    less = [statement for statement in policy["Statement"] if statement["Sid"] != "ReadCredentials"]
    with relay.with_role_policy("relay", {**policy, "Statement": less}):
        yield


@contextmanager
def disabled_rule(relay: DeployedRelay) -> Iterator[None]:
    """Disable the rule."""
    bus = relay.deployment.client("events")
    (rule,) = bus.list_rules(NamePrefix=f"{relay.deployment.name}-")["Rules"]
    bus.disable_rule(Name=rule["Name"])
    try:
        yield
    finally:
        bus.enable_rule(Name=rule["Name"])


@pytest.mark.parametrize(
    ("failure", "wrong", "says"),
    [
        (refused_credentials, {"probe"}, "refuses the credentials (HTTP 401"),
        (unreadable_secret, {"probe"}, "no answer to the function: credentials_unavailable, Secrets Manager answers"),
        (lambda relay: relay.concurrency(0), {"function", "probe"}, "aws lambda delete-function-concurrency"),
        (disabled_rule, {"events"}, "aws events enable-rule"),
    ],
)
def test_a_failure_is_found(
    swept: DeployedRelay, operator: Operator, failure: Callable[[DeployedRelay], Any], wrong: set[str], says: str
) -> None:
    """An operator would search for the failure for hours."""
    with ExitStack() as stack:
        stack.enter_context(failure(swept))
        found = operator("--stack", "relay", "doctor", "--probe")
    assert (found.status, found.err) == (1, "")
    assert {name for name, level in findings(found.out).items() if level == "WRONG"} == wrong
    assert says in found.out
    assert not [one for one in swept.endpoint.credentials if one in found.out]


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
    assert findings(operator("--stack", name, "doctor").out)["intake"] == "ok"
    before = target(relay)
    try:
        paused = operator("--stack", name, "pause")
        assert (paused.status, paused.err) == (0, "")
        assert f"{name} is paused; 0 results waiting. The queue keeps each result for 10 d." in paused.out
        relay.send(*results[:4])
        relay.put_events(*results[4:])
        wait_for(lambda: relay.deployment.depth("ResultQueueUrl") == len(results), "results and events on the queue")
        assert target(relay) == relay.deployment.outputs["ResultQueueArn"]
        again = operator("--stack", name, "pause")
        assert (again.status, f"{len(results)} results waiting" in again.out) == (0, True)
        found = operator("--stack", name, "doctor")
        assert (found.status, findings(found.out)["intake"]) == (0, "note")
        assert re.search(r"intake: the relay is paused since 20\S+Z: results wait", found.out)
        assert f"-> flash-call-relay --stack {name} resume" in found.out
        assert relay.visible("ResultQueueUrl") == len(results)
    finally:
        resumed = operator("--stack", name, "resume")
    assert (resumed.status, resumed.err) == (0, "")
    assert target(relay) == before
    assert relay.accepted(*results) == pairs(*results)
    assert {relay.story(one["uuid"], 1)[-1]["receive_count"] for one in results} == {1}
    again = operator("--stack", name, "resume")
    assert (again.status, again.out) == (0, f"{name} is relaying.\n")
    assert target(relay) == before
    assert operator("--stack", name, "doctor").status == 0
    after = result()
    relay.endpoint.issue(after["uuid"])
    relay.put_events(after)
    assert relay.accepted(after) == pairs(after)


@contextmanager
def a_version_that_does_not_start(relay: DeployedRelay) -> Iterator[None]:
    """Run a version of the function that fails to import, in new execution environments."""
    client, function = relay.deployment.emulator.client("lambda"), relay.deployment.outputs["FunctionName"]
    handler = client.get_function_configuration(FunctionName=function)["Handler"]
    client.update_function_configuration(FunctionName=function, Handler="flash_call_relay.missing.lambda_handler")
    try:
        yield
    finally:
        client.update_function_configuration(FunctionName=function, Handler=handler)


def test_results_wait_for_the_next_version_if_one_does_not_start(relay: DeployedRelay, operator: Operator) -> None:
    """A bad deployment would lose results, or the operator's one result would not show it during a pause."""
    relay.settled()
    waiting, one = result(), result()
    relay.endpoint.issue(waiting["uuid"], one["uuid"])
    event = {**payload("eventbridge"), "detail": one}
    relay.deployment.shorten_visibility(3)
    try:
        operator("--stack", "relay", "pause")
        relay.send(waiting)
        with a_version_that_does_not_start(relay):
            assert relay.invoke(event)["FunctionError"]
            assert relay.visible("ResultQueueUrl") == 1
            operator("--stack", "relay", "resume")
            wait_for(lambda: relay.visible("ResultQueueUrl") == 0, "the bad version to receive the result")
            relay.deployment.shorten_visibility(VISIBILITY_S)
        assert relay.accepted(waiting) == pairs(waiting)
        relay.settled()
        assert relay.invoke(event) == {"Payload": {"batchItemFailures": []}, "FunctionError": None}
        assert relay.accepted(one) == pairs(one)
        assert int(str(relay.story(waiting["uuid"], 1)[-1]["receive_count"])) > 1
    finally:
        operator("--stack", "relay", "resume")
        relay.deployment.shorten_visibility(VISIBILITY_S)


def target(relay: DeployedRelay) -> str:
    """Return the ARN that the rule sends events to."""
    bus = relay.deployment.client("events")
    (rule,) = bus.list_rules(NamePrefix=f"{relay.deployment.name}-")["Rules"]
    (one,) = bus.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    arn: str = one["Arn"]
    return arn
