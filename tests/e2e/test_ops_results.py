"""Results on the deployed stack: sent, parked, replayed also after a kill, accounted for, corrected, told."""

import json
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from local.endpoint.behaviour import answer, error
from ops import ledger
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.operator import Operator, process
from tests.support.payloads import pairs, payload, result

PARKED, DEAD = ("--stack", "relay", "parked"), ("--stack", "relay", "dead")
Attributes = Mapping[str, str | int]
REJECTED: Attributes = {"reason": "rejected", "detail": "HTTP 400 why", "http_status": 400, "receive_count": 3}
INVALID: Attributes = {"reason": "invalid_event", "detail": "uuid must be a string", "receive_count": 1}
# The process dies before its first deletion: results are sent, and still on the parked queue.
KILLED_BEFORE_DELETING = """
import os, signal
from ops import queues
queues.HOLD_S = 5
queues.Queue.delete = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def results_of(relay: DeployedRelay, number: int) -> list[dict[str, str]]:
    """Return results of existing calls, of both statuses."""
    results = [result(status="Success" if number % 2 else "Failed") for number in range(number)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    return results


def listed(operator: Operator, command: tuple[str, ...], *options: str) -> list[dict[str, Any]]:
    """Return the lines of a list as JSON."""
    listing = operator(*command, "list", "--json", *options)
    assert (listing.status, listing.err) == (0, "")
    return [json.loads(line) for line in listing.out.splitlines()]


def test_a_killed_replay_can_be_repeated_without_losing_or_repeating_a_result(
    swept: DeployedRelay, operator: Operator, tmp_path: Path
) -> None:
    """A kill between sending and deleting would lose results, or report them twice, or `account` would not see it."""
    results = results_of(swept, 100)
    invalid = [json.dumps({**result(), "uuid": f"not valid {number}"}) for number in range(20)]
    good = [(json.dumps(one), REJECTED) for one in results]
    put = swept.put("ParkedQueueUrl", *good, *((body, INVALID) for body in invalid))
    before = listed(operator, PARKED)
    assert {line["message_id"]: line["body"] for line in before} == put
    assert {line["detail"] for line in before} == {REJECTED["detail"], INVALID["detail"]}
    assert listed(operator, PARKED) == before, "the list has hidden or changed messages"

    replay = (*PARKED, "replay", "--yes", "--rate", "1000")
    assert (
        process(*replay, before=KILLED_BEFORE_DELETING, environment=operator.emulator.environment).status
        == -signal.SIGKILL
    )
    assert swept.deployment.depth("ParkedQueueUrl") >= len(before), "something was deleted"
    swept.settled()
    wait_for(lambda: swept.visible("ParkedQueueUrl") >= len(before), "the messages that it held")
    assert any(pair in pairs(*results) for pair in swept.endpoint.accepted), "it was killed before it sent anything"

    last = operator(*replay)
    assert (last.status, last.err) == (0, "")
    assert swept.accepted(*results) == pairs(*results)
    swept.settled()
    wait_for(lambda: swept.visible("ParkedQueueUrl") >= len(invalid), "the invalid messages, parked again")
    assert {line["body"] for line in listed(operator, PARKED)} == set(invalid)
    assert [pair for pair in sorted(swept.endpoint.accepted) if pair in pairs(*results)] == pairs(*results)

    file = tmp_path / "sent.jsonl"
    file.write_text("".join(f"{json.dumps(one)}\n" for one in [*results, result()]))
    told = operator("--stack", "relay", "account", "--file", str(file))
    assert (told.status, told.err) == (1, "")
    assert re.search(r"^ +100  confirmed\n +1  unknown\n", told.out, re.MULTILINE)


def test_dead_letters_are_delivered_after_a_replay(swept: DeployedRelay, operator: Operator) -> None:
    """An operator could not replay a result that was received too often, or an event that the queue can't hold."""
    redriven, undelivered = results = results_of(swept, 2)
    swept.endpoint.misbehave(redriven["uuid"], error(500))
    sqs, queue = swept.deployment.sqs, {"QueueUrl": swept.deployment.outputs["ResultQueueUrl"]}
    before = sqs.get_queue_attributes(**queue, AttributeNames=["RedrivePolicy"])["Attributes"]
    once = json.dumps({**json.loads(before["RedrivePolicy"]), "maxReceiveCount": 1})
    sqs.set_queue_attributes(**queue, Attributes={"RedrivePolicy": once})
    try:
        swept.send(redriven)
        wait_for(lambda: swept.visible("DeadLetterQueueUrl") == 1, "the dead letter")
    finally:
        sqs.set_queue_attributes(**queue, Attributes=before)
    # A quote takes two bytes in JSON, so an event that fits the bus can be too long for the result queue.
    event = json.dumps({**payload("eventbridge"), "detail": {**undelivered, "note": '"' * 200_000}})
    assert len(event) > 256 * 1024
    swept.put("DeadLetterQueueUrl", (event, {"RULE_ARN": "arn:aws:events:::rule/relay", "RETRY_ATTEMPTS": 185}))
    reasons = {line["uuid"]: line["reason"] for line in listed(operator, DEAD)}
    assert reasons == {redriven["uuid"]: "receives_exhausted", undelivered["uuid"]: "event_undelivered"}
    replay = operator(*DEAD, "replay", "--yes")
    assert (replay.status, replay.err) == (0, "")
    assert swept.accepted(*results) == pairs(*results)
    assert swept.deployment.depth("DeadLetterQueueUrl") == 0


def test_a_correction_is_reported_once(swept: DeployedRelay, operator: Operator) -> None:
    """An operator could not correct a confirmed wrong status, or would report it twice after a kill."""
    first = result(status="Success")
    second, uuid = {**first, "status": "Failed"}, first["uuid"]
    swept.send_known(first)
    swept.accepted(first)
    swept.settled()
    swept.send(second)
    wait_for(lambda: swept.visible("ParkedQueueUrl") == 1, "the contradiction, parked")
    correction = (*PARKED, "replay", "--set-status", "Failed", "--uuid", uuid, "--yes")
    assert operator(*correction).status == 0
    wait_for(lambda: (uuid, "Failed") in swept.endpoint.accepted, "the correction")
    swept.settled()
    assert swept.confirmed(uuid) == "Failed"

    # As after a kill before deleting
    swept.put("ParkedQueueUrl", (json.dumps(second), {"reason": "conflicting_status"}))
    assert operator(*correction).status == 0
    wait_for(lambda: swept.story(uuid)[-1]["outcome"] == "duplicate", "the duplicate")
    swept.settled()
    assert [pair for pair in swept.endpoint.accepted if pair[0] == uuid] == [(uuid, "Success"), (uuid, "Failed")]
    assert (swept.confirmed(uuid), swept.visible("ParkedQueueUrl")) == ("Failed", 0)


def test_results_from_a_pipe_arrive_once_each(relay: DeployedRelay, operator: Operator) -> None:
    """An operator could not report a day's results later, or some would be lost or doubled."""
    results = results_of(relay, 95)
    lines = ["uuid,status", *(f"{one['uuid']},{one['status']}" for one in [*results, results[0]])]
    words = ("--stack", "relay", "send", "--file", "-")
    sent = process(*words, says="\r\n".join(lines), environment=operator.emulator.environment)
    assert (sent.status, sent.err) == (0, "1 repeated line left out.\n")
    assert sent.out == "95 results sent to the result queue of relay (eu-central-1).\n"
    assert relay.accepted(*results) == pairs(*results)


def test_an_outage_and_the_story_of_each_result_are_shown(swept: DeployedRelay, operator: Operator) -> None:
    """The first commands of the runbook would find nothing wrong, or POST, or not know what became of a call."""
    delivered, deferred, parked = result(), result(status="Failed"), result()
    swept.endpoint.misbehave(parked["uuid"], answer(422, {"message": "not like this"}))
    swept.endpoint.always(deferred["uuid"], error(503))
    swept.send_known(delivered, deferred, parked)
    for one in (delivered, parked):
        swept.story(one["uuid"], 1)
    wait_for(lambda: any(line["age_s"] for line in swept.story(deferred["uuid"])), "a deferral at a later age")
    posted = len(swept.endpoint.requests)
    found = operator("--stack", "relay", "doctor")
    cause = r"^note   deferred: in the last 15 minutes: .*endpoint_error \d+ \(the latest \d+ s ago\)"
    assert re.search(cause, found.out, re.MULTILINE)
    assert {one.uuid for one in swept.endpoint.requests[posted:]} <= {deferred["uuid"]}, "it POSTs nothing itself"
    found = operator("--stack", "relay", "watch", "--count", "1", "--json")
    queues, recent = json.loads(found.out)["queues"], json.loads(found.out)["recent"]
    assert (queues["parked"], queues["dead_lettered"], queues["waiting"] + queues["in_flight"]) == (1, 0, 1)
    assert min(recent["delivered"], recent["deferred_by_reason"]["endpoint_error"], recent["oldest_s"]) > 0
    swept.endpoint.heal()
    swept.send(delivered)
    swept.story(delivered["uuid"], 2)

    def told(one: dict[str, str]) -> str:
        story = operator("--stack", "relay", "story", one["uuid"])
        assert (story.status, story.err) == (0, "")
        return re.sub(" +", " ", story.out)

    text = told(delivered)
    assert all(f" {event} " in text for event in ("log delivered", "ledger confirmed", "log duplicate"))
    assert re.search(r"\nIt is confirmed: BetaTel got Success at 20\S+Z\.\n$", text)
    text = told(parked)
    assert " log parked Success: rejected, HTTP 422 not like this, receive 1\n" in text
    assert " parked holds Success: rejected HTTP 422 not like this\n" in text
    assert "\nIt needs a person: the parked queue holds Success (rejected). " in text
    assert " log deferred Failed: endpoint_error, HTTP 503" in told(deferred)


def test_a_forgotten_confirmation_is_sent_again(
    relay: DeployedRelay, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that BetaTel does not have could not be sent again, or the wrong entry would be removed."""
    one = result()
    forget = ("--stack", "relay", "forget", "--uuid", one["uuid"])
    relay.send_known(one)
    relay.accepted(one)
    relay.settled()
    entry = relay.ledger_entry(one["uuid"])
    assert entry

    def confirmed_again(*_: object, **__: object) -> bool:
        later = {**entry, "confirmed_at": {"N": str(int(entry["confirmed_at"]["N"]) + 1)}}
        table = relay.deployment.outputs["LedgerTableName"]
        relay.deployment.emulator.client("dynamodb").put_item(TableName=table, Item=later)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "confirmed", confirmed_again)  # while the operator reads the question
        late = operator(*forget)
    assert (late.status, late.err.startswith("The entry has changed meanwhile")) == (1, True)
    assert late.out.startswith(f"The ledger of relay (eu-central-1) has {one['uuid']}: Success, confirmed at 20")
    assert relay.confirmed(one["uuid"]) == "Success"

    forgotten = operator(*forget, "--yes")
    assert (forgotten.status, forgotten.err, relay.confirmed(one["uuid"])) == (0, "", None)
    unknown = operator(*forget, "--yes")
    assert (unknown.status, unknown.out) == (1, "")
    assert unknown.err.startswith(f"The ledger of relay (eu-central-1) has no entry of {one['uuid']}")
    again = forgotten.out.strip().rpartition("flash-call-relay ")[2].split()
    assert operator(*again).status == 0
    wait_for(lambda: relay.endpoint.accepted.count((one["uuid"], "Success")) == 2, "the result, a second time")
