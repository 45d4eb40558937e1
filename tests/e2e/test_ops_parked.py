"""Parked messages: listed, replayed in part, killed during a replay, replayed again, and accounted for."""

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from local.endpoint.behaviour import error
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.operator import Operator, ended
from tests.support.payloads import pairs, result

# reason, HTTP status, how many
MIX: tuple[tuple[str, int | None, int], ...] = (
    ("rejected", 400, 80),
    ("unknown_call", 404, 90),
    ("conflicting_status", None, 50),
    ("retries_exhausted", 503, 60),
    ("invalid_event", None, 20),
)
ALL, INVALID = sum(number for *_, number in MIX), 20
# The process dies before its first deletion: results are sent, and still on the parked queue.
KILLED_BEFORE_DELETING = """
import os, signal
from ops.stack import Stack
make_client = Stack.client
def client(stack, service):
    made = make_client(stack, service)
    made.meta.events.register("before-call.sqs.DeleteMessageBatch", lambda **_: os.kill(os.getpid(), signal.SIGKILL))
    hide_shortly = lambda params, **_: {**params, "VisibilityTimeout": 5}
    made.meta.events.register("provide-client-params.sqs.ReceiveMessage", hide_shortly)
    return made
Stack.client = client
"""
PARKED = ("--stack", "relay", "parked")
Parked = tuple[str, dict[str, str | int]]


def parked(body: str, reason: str, http_status: int | None = None) -> Parked:
    """Return a message as the relay parks it."""
    attributes: dict[str, str | int] = {"reason": reason, "detail": f"because of {reason}", "receive_count": 3}
    return body, attributes if http_status is None else {**attributes, "http_status": http_status}


def mixed(relay: DeployedRelay) -> tuple[list[dict[str, str]], list[Parked]]:
    """Return results of existing calls, and messages: these results and invalid bodies."""
    results, messages = [], []
    for reason, http_status, count in MIX:
        for number in range(count):
            one = result(status="Success" if number % 2 else "Failed")
            if reason == "invalid_event":
                body = json.dumps({**one, "uuid": f"no {one['uuid']}"})
            else:
                results.append(one)
                body = json.dumps(one)
            messages.append(parked(body, reason, http_status))
    relay.endpoint.issue(*(one["uuid"] for one in results))
    return results, sorted(messages, key=lambda message: message[0][-30:])  # mixes the reasons


def listed(operator: Operator, *options: str) -> list[dict[str, Any]]:
    """Return the lines of `parked list --json`."""
    listing = operator(*PARKED, "list", "--json", *options)
    assert (listing.status, listing.err) == (0, "")
    return [json.loads(line) for line in listing.out.splitlines()]


def test_a_list_counts_and_filters_messages_without_changing_them(swept: DeployedRelay, operator: Operator) -> None:
    """A list would show wrong numbers, or hide or change the messages."""
    _, messages = mixed(swept)
    put = swept.put("ParkedQueueUrl", *messages)

    shown = operator(*PARKED, "list")
    assert (shown.status, shown.err) == (0, "")
    assert f"\n{ALL} messages on the parked queue of relay (eu-central-1).\n" in shown.out
    for reason, http_status, count in MIX:
        why = f"{reason} {http_status or ''}".rstrip()
        assert re.search(rf"^ +{count}  {why} .* 13 d +because of {reason}$", shown.out, re.MULTILINE), reason
        assert sum(line.startswith("13 d ") and line.endswith(f" {why}") for line in shown.out.splitlines()) == count

    everything = listed(operator)
    attributes = {body: {name: str(value) for name, value in said.items()} for body, said in messages}
    assert {line["message_id"]: (line["body"], line["attributes"]) for line in everything} == {
        message_id: (body, attributes[body]) for message_id, body in put.items()
    }
    readable = [line for line in everything if line["reason"] != "invalid_event"]
    assert all(json.loads(line["body"]) == {"uuid": line["uuid"], "status": line["status"]} for line in readable)
    one, both = readable[7], {"rejected", "unknown_call"}
    assert listed(operator, "--uuid", one["uuid"], "--message-id", one["message_id"]) == [one]
    either = listed(operator, "--reason", "rejected", "--reason", "unknown_call")
    assert either == [line for line in everything if line["reason"] in both]
    assert swept.visible("ParkedQueueUrl") == ALL
    assert listed(operator) == everything


def test_a_killed_replay_can_be_repeated_without_losing_or_repeating_a_result(
    swept: DeployedRelay, operator: Operator
) -> None:
    """A kill between sending and deleting would lose results, or report them twice."""
    results, messages = mixed(swept)
    swept.put("ParkedQueueUrl", *messages)
    before = listed(operator)
    dry = operator(*PARKED, "replay", "--dry-run")
    assert (dry.status, dry.err) == (0, "")
    assert swept.visible("ParkedQueueUrl") == ALL
    assert not any(swept.story(one["uuid"]) for one in results[:3])

    part = operator(*PARKED, "replay", "--reason", "rejected", "--yes")
    assert (part.status, part.err) == (0, "")
    assert part.out.endswith("80 messages replayed.\n")
    assert listed(operator) == [line for line in before if line["reason"] != "rejected"]
    replayed = [line for line in before if line["reason"] == "rejected"]
    assert swept.accepted(*replayed) == pairs(*replayed)

    again = (*PARKED, "replay", "--yes", "--rate", "1000")
    with operator.start(*again, before=KILLED_BEFORE_DELETING) as process:
        assert ended(process).status == -signal.SIGKILL
    assert swept.deployment.depth("ParkedQueueUrl") >= ALL - 80, "something was deleted"
    swept.settled()
    wait_for(lambda: swept.visible("ParkedQueueUrl") >= ALL - 80, "the messages that it held")
    sent = [pair for pair in swept.endpoint.accepted if pair in pairs(*results)]
    assert len(sent) > len(replayed), "it was killed before it sent anything"

    last = operator(*again)
    assert (last.status, last.err) == (0, "")
    assert swept.accepted(*results) == pairs(*results)
    swept.settled()
    wait_for(lambda: swept.visible("ParkedQueueUrl") >= INVALID, "the invalid messages, parked again")
    invalid = {body for body, said in messages if said["reason"] == "invalid_event"}
    assert {line["body"] for line in listed(operator)} == invalid
    assert [pair for pair in sorted(swept.endpoint.accepted) if pair in pairs(*results)] == pairs(*results)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_replay_makes_the_other_messages_visible_immediately(
    swept: DeployedRelay, operator: Operator, number: signal.Signals
) -> None:
    """After Ctrl-C an operator would see a traceback, lose results, or wait for minutes."""
    results = [result() for _ in range(50)]
    swept.endpoint.issue(*(one["uuid"] for one in results))
    swept.put("ParkedQueueUrl", *(parked(json.dumps(one), "rejected", 400) for one in results))
    uuids = {one["uuid"] for one in results}
    with operator.start(*PARKED, "replay", "--rate", "2", "--yes") as process:
        # The second two are sent after the first two are deleted.
        wait_for(lambda: sum(uuid in uuids for uuid, _ in swept.endpoint.accepted) >= 3, "the third")
        process.send_signal(number)
        interrupted = ended(process)
    assert interrupted.status == 130
    said = r"At least \d+ of 50 replayed\.\s+Interrupted\. Nothing is lost\."
    assert re.fullmatch(said, interrupted.err.strip())
    left = swept.visible("ParkedQueueUrl")
    assert 0 < left < len(results)
    assert swept.deployment.depth("ParkedQueueUrl") == left
    again = operator(*PARKED, "replay", "--yes")
    assert (again.status, again.err) == (0, "")
    assert again.out.endswith(f"{left} messages replayed.\n")
    assert swept.accepted(*results) == pairs(*results)


def test_only_set_status_corrects_a_contradiction(swept: DeployedRelay, operator: Operator) -> None:
    """An operator could not correct a confirmed wrong status, or would change one by accident."""
    first = result(status="Success")
    second, uuid = {**first, "status": "Failed"}, first["uuid"]
    swept.send_known(first)
    swept.accepted(first)
    swept.settled()
    swept.send(second)
    wait_for(lambda: swept.visible("ParkedQueueUrl") == 1, "the contradiction, parked")
    (once,) = listed(operator, "--reason", "conflicting_status")

    assert operator(*PARKED, "replay", "--yes").status == 0
    wait_for(lambda: swept.visible("ParkedQueueUrl") == 1, "the contradiction, parked again")
    (twice,) = listed(operator, "--reason", "conflicting_status")
    assert (twice["body"], twice["message_id"] == once["message_id"]) == (once["body"], False)
    assert swept.confirmed(uuid) == "Success"
    unsaid = operator(*PARKED, "replay", "--set-status", "Failed", "--yes")
    assert (unsaid.status, unsaid.err.count("\n")) == (2, 1)

    correction = (*PARKED, "replay", "--set-status", "Failed", "--uuid", uuid, "--yes")
    corrected = operator(*correction, "--uuid", "mistyped")
    assert (corrected.status, corrected.err) == (0, "")
    assert "No match for mistyped." in corrected.out
    wait_for(lambda: (uuid, "Failed") in swept.endpoint.accepted, "the correction")
    swept.settled()
    assert swept.confirmed(uuid) == "Failed"

    swept.put("ParkedQueueUrl", parked(json.dumps(second), "conflicting_status"))  # as after a kill before deleting
    assert operator(*correction).status == 0
    wait_for(lambda: swept.story(uuid)[-1]["outcome"] == "duplicate", "the duplicate")
    swept.settled()
    assert [pair for pair in swept.endpoint.accepted if pair[0] == uuid] == [(uuid, "Success"), (uuid, "Failed")]
    assert (swept.confirmed(uuid), swept.visible("ParkedQueueUrl")) == ("Failed", 0)


def test_wrong_statuses_are_repaired_by_their_reason(swept: DeployedRelay, operator: Operator) -> None:
    """An operator would have to correct thousands of results by hand after the likeliest mistake of a backend."""
    right = [result(status="Success") for _ in range(3)]
    swept.endpoint.issue(*(one["uuid"] for one in right))
    swept.send(*({**one, "status": "success"} for one in right))
    wait_for(lambda: swept.visible("ParkedQueueUrl") == 3, "the invalid results, parked")
    found = listed(operator, "--reason", "invalid_event")
    assert Counter((line["uuid"], line["status"]) for line in found) == Counter((one["uuid"], None) for one in right)
    assert operator(*PARKED, "replay", "--set-status", "Success", "--reason", "invalid_event", "--yes").status == 0
    assert swept.accepted(*right) == pairs(*right)
    assert swept.visible("ParkedQueueUrl") == 0


def test_each_sent_result_is_accounted_for(
    swept: DeployedRelay, function_route: DeployedRelay, operator: Operator, tmp_path: Path
) -> None:
    """A manager who asks what became of yesterday's results would get no answer, or a wrong one."""
    results = [result() for _ in range(120)]
    confirmed, late, refused, dead = results[:117], *results[117:]
    swept.endpoint.always(late["uuid"], error(503))
    swept.send_known(*confirmed, late)
    swept.accepted(*confirmed)
    swept.put("ParkedQueueUrl", parked(json.dumps(refused), "rejected", 422))
    swept.put("DeadLetterQueueUrl", (json.dumps(dead), {}))
    file = tmp_path / "sent.csv"
    file.write_text("uuid,status\n" + "".join(f"{one['uuid']},{one['status']}\n" for one in results))
    asked = ("--stack", "relay", "account", "--file", str(file))
    wait_for(lambda: all(map(swept.confirmed, (one["uuid"] for one in confirmed))), "the ledger")

    told = operator(*asked, "--json")
    fates = {line["uuid"]: line for line in map(json.loads, told.out.splitlines())}
    states = Counter(fates[one["uuid"]]["state"] for one in confirmed)
    assert (told.status, list(fates), states) == (1, [one["uuid"] for one in results], {"confirmed": 117})
    assert all(fates[one["uuid"]]["confirmed_status"] == one["status"] for one in confirmed)
    others = [(fates[one["uuid"]]["state"], fates[one["uuid"]]["reason"]) for one in (late, refused, dead)]
    assert others == [("waiting", None), ("parked", "rejected"), ("dead-lettered", "receives_exhausted")]
    assert (swept.visible("ParkedQueueUrl"), swept.visible("DeadLetterQueueUrl")) == (1, 1)

    swept.endpoint.heal()
    swept.accepted(late)
    swept.settled()
    swept.deployment.purge_queues()
    some = operator(*asked, "--only", "parked,unknown")
    assert some.status == 1
    assert sorted(line.split()[0] for line in some.out.splitlines()[1:3]) == sorted([refused["uuid"], dead["uuid"]])
    assert re.search(r"^ +118  confirmed\n +2  unknown\n", some.out, re.MULTILINE)

    function_route.send_known(*results[:2])
    function_route.accepted(*results[:2])
    function_route.settled()
    file.write_text("".join(json.dumps(one) + "\n" for one in results[:2]))
    without = operator("--stack", function_route.deployment.name, *asked[2:])
    assert (without.status, "has no ledger: the log of the last 3 d says" in without.out) == (0, True)
