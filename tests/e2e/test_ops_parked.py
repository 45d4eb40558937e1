"""A thousand parked messages: listed, replayed in part, killed during a replay, and replayed again."""

import json
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.deployed import LIMIT_S, DeployedRelay, wait_for
from tests.support.operator import Operator, ended
from tests.support.payloads import pairs, result

# reason, HTTP status, how many
MIX: tuple[tuple[str, int | None, int], ...] = (
    ("rejected", 400, 200),
    ("rejected", 422, 100),
    ("unknown_call", 404, 250),
    ("conflicting_status", None, 100),
    ("retries_exhausted", 503, 200),
    ("retries_exhausted", None, 80),
    ("invalid_event", None, 70),
)
INVALID = 70
THOUSAND = 1000
# The process dies before its first deletion: results are sent, and still on the parked queue.
KILLED_BEFORE_DELETING = """
import os, signal
from ops.stack import Stack
make_client = Stack.client
def client(stack, service):
    made = make_client(stack, service)
    made.meta.events.register("before-call.sqs.DeleteMessageBatch", lambda **_: os.kill(os.getpid(), signal.SIGKILL))
    return made
Stack.client = client
"""

Parked = tuple[str, dict[str, str | int]]


def parked(body: str, reason: str, http_status: int | None = None) -> Parked:
    """Return a message as the relay parks it."""
    attributes: dict[str, str | int] = {
        "reason": reason,
        "detail": f"because of {reason}",
        "receive_count": 3,
        "enqueued_at": "2026-11-22T03:00:00.000Z",
        "source_message_id": "5fea7756-0ea4-451a-a703-a558b933e274",
    }
    return body, attributes if http_status is None else {**attributes, "http_status": http_status}


def thousand(relay: DeployedRelay) -> tuple[list[dict[str, str]], list[Parked]]:
    """Return results of existing calls, and a thousand messages: these results and invalid bodies."""
    results, messages = [], []
    for reason, http_status, count in MIX:
        for number in range(count):
            one = result(status="Success" if number % 2 else "Failed")
            if reason == "invalid_event":
                body = json.dumps({**one, "status": "maybe"})
            else:
                results.append(one)
                body = json.dumps(one)
            messages.append(parked(body, reason, http_status))
    relay.endpoint.issue(*(one["uuid"] for one in results))
    order = sorted(messages, key=lambda message: message[0][-30:])  # mixes the reasons
    return results, order


def listed(operator: Operator, *options: str, group: str = "parked") -> list[dict[str, Any]]:
    """Return the lines of `list --json`."""
    listing = operator("--stack", "relay", group, "list", "--json", *options)
    assert (listing.status, listing.err) == (0, "")
    return [json.loads(line) for line in listing.out.splitlines()]


def counted(lines: list[dict[str, Any]]) -> Counter[tuple[str, int | None]]:
    """Return the number of messages by reason and HTTP status."""
    return Counter((line["reason"], line["http_status"]) for line in lines)


def as_text(attributes: Mapping[str, str | int]) -> dict[str, str]:
    """Return message attributes as `list --json` prints them."""
    return {name: str(value) for name, value in attributes.items()}


def test_a_list_counts_and_filters_a_thousand_messages_without_changing_them(
    swept: DeployedRelay, operator: Operator
) -> None:
    """A list would show wrong numbers, or hide or change the messages."""
    _, messages = thousand(swept)
    put = swept.put("ParkedQueueUrl", *messages[:600])
    between = time.time() + 0.002  # SQS counts in milliseconds
    wait_for(lambda: time.time() > between + 0.002, "the next milliseconds")
    put |= swept.put("ParkedQueueUrl", *messages[600:])
    wanted = {(reason, http_status): count for reason, http_status, count in MIX}

    shown = operator("--stack", "relay", "parked", "list")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith("1,000 messages on the parked queue of relay (eu-central-1).\n")
    for (reason, http_status), count in wanted.items():
        assert re.search(rf"^{reason} +{http_status or ''} *\b{count}\b", shown.out, re.MULTILINE), reason
    assert shown.out.count("because of") == 20
    assert "980 more" in shown.out

    everything = listed(operator)
    assert counted(everything) == wanted
    said = {line["message_id"]: (line["body"], line["attributes"]) for line in everything}
    attributes = {body: as_text(attributes) for body, attributes in messages}
    assert said == {message_id: (body, attributes[body]) for message_id, body in put.items()}
    readable = [line for line in everything if line["reason"] != "invalid_event"]
    assert all(json.loads(line["body"]) == {"uuid": line["uuid"], "status": line["status"]} for line in readable)

    at = datetime.fromtimestamp(between, UTC).isoformat()
    either = ("--reason", "rejected", "--reason", "unknown_call", "--status", "Failed")
    for options, expected in (
        (either, lambda line: line["reason"] in {"rejected", "unknown_call"} and line["status"] == "Failed"),
        (("--http-status", "422"), lambda line: line["http_status"] == 422),
        (("--uuid", readable[7]["uuid"]), lambda line: line["uuid"] == readable[7]["uuid"]),
        (("--since", at), lambda line: line in everything[600:]),
        (("--until", at, "--limit", "30"), lambda line: line in everything[:30]),
    ):
        assert listed(operator, *options) == [line for line in everything if expected(line)], options
    assert {line["message_id"] for line in everything[:600]} == set(list(put)[:600])

    assert swept.visible("ParkedQueueUrl") == THOUSAND
    assert listed(operator) == everything


def test_a_killed_replay_can_be_repeated_without_losing_or_repeating_a_result(
    swept: DeployedRelay, operator: Operator
) -> None:
    """A kill between sending and deleting would lose results, or report them twice."""
    results, messages = thousand(swept)
    swept.put("ParkedQueueUrl", *messages)
    before = listed(operator)
    oldest = [line["message_id"] for line in before if line["reason"] == "rejected"][:50]

    dry = operator("--stack", "relay", "parked", "replay", "--dry-run")
    assert (dry.status, dry.err) == (0, "")
    assert swept.visible("ParkedQueueUrl") == THOUSAND
    assert not any(swept.story(one["uuid"]) for one in results[:3])

    part = operator("--stack", "relay", "parked", "replay", "--reason", "rejected", "--limit", "50", "--yes")
    assert (part.status, part.err) == (0, "")
    assert part.out.endswith("50 messages replayed.\n")
    assert swept.visible("ParkedQueueUrl") == THOUSAND - 50
    after = listed(operator)
    assert after == [line for line in before if line["message_id"] not in oldest]
    replayed = [{"uuid": line["uuid"], "status": line["status"]} for line in before if line["message_id"] in oldest]
    assert swept.accepted(*replayed) == pairs(*replayed)

    again = ("--stack", "relay", "parked", "replay", "--yes", "--rate", "1000")
    with operator.start(*again, "--hold", "5", before=KILLED_BEFORE_DELETING) as process:
        assert ended(process).status == -signal.SIGKILL
    assert swept.deployment.depth("ParkedQueueUrl") >= THOUSAND - 50, "something was deleted"
    swept.settled()
    wait_for(lambda: swept.visible("ParkedQueueUrl") >= THOUSAND - 50, "the messages that it held")
    sent = [pair for pair in swept.endpoint.accepted if pair in pairs(*results)]
    assert len(sent) > len(replayed), "it was killed before it sent anything"

    last = operator(*again)
    assert (last.status, last.err) == (0, "")
    assert "messages again for not being a result." in last.out
    assert swept.accepted(*results) == pairs(*results)
    swept.settled()
    wait_for(lambda: swept.visible("ParkedQueueUrl") >= INVALID, "the invalid messages, parked again")
    left = listed(operator)
    invalid = Counter(body for body, attributes in messages if attributes["reason"] == "invalid_event")
    assert {line["body"] for line in left} == set(invalid)
    assert {line["reason"] for line in left} == {"invalid_event"}
    assert [pair for pair in sorted(swept.endpoint.accepted) if pair in pairs(*results)] == pairs(*results)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_replay_makes_the_other_messages_visible_immediately(
    swept: DeployedRelay, operator: Operator, number: signal.Signals
) -> None:
    """After Ctrl-C an operator would see a traceback, lose results, or wait for minutes."""
    results = [result() for _ in range(100)]
    swept.endpoint.issue(*(one["uuid"] for one in results))
    swept.put("ParkedQueueUrl", *(parked(json.dumps(one), "rejected", 400) for one in results))
    uuids = {one["uuid"] for one in results}
    with operator.start("--stack", "relay", "parked", "replay", "--rate", "2", "--yes") as process:
        swept.endpoint.wait_until(
            lambda endpoint: sum(uuid in uuids for uuid, _ in endpoint.accepted) >= 2, timeout=LIMIT_S, what="its first"
        )
        process.send_signal(number)
        interrupted = ended(process)
    assert interrupted.status == 130
    assert re.fullmatch(r"(\d+ of 100 messages replayed\.\s+)?Interrupted\. Nothing is lost\.", interrupted.err.strip())
    left = swept.visible("ParkedQueueUrl")
    assert 0 < left < len(results)
    assert swept.deployment.depth("ParkedQueueUrl") == left
    again = operator("--stack", "relay", "parked", "replay", "--yes")
    assert (again.status, again.err) == (0, "")
    assert again.out.endswith(f"{left} messages replayed.\n")
    assert swept.accepted(*results) == pairs(*results)


def test_a_closed_pipe_ends_a_list(swept: DeployedRelay, operator: Operator) -> None:
    """`parked list --json | head -1` would end in a traceback, and keep messages hidden."""
    swept.put("ParkedQueueUrl", *(parked("x" * 10_000, "invalid_event") for _ in range(30)))
    with operator.start("--stack", "relay", "parked", "list", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=LIMIT_S) == 1
    assert swept.visible("ParkedQueueUrl") == 30


def test_only_set_status_corrects_a_contradiction(swept: DeployedRelay, operator: Operator) -> None:
    """An operator could not correct a confirmed wrong status, or would change one by accident."""
    first = result(status="Success")
    second = {**first, "status": "Failed"}
    uuid = first["uuid"]
    swept.endpoint.issue(uuid)
    swept.send(first)
    swept.accepted(first)
    swept.settled()
    swept.send(second)
    wait_for(lambda: swept.visible("ParkedQueueUrl") == 1, "the contradiction, parked")
    (once,) = listed(operator, "--reason", "conflicting_status")

    plain = operator("--stack", "relay", "parked", "replay", "--yes")
    assert plain.status == 0
    assert "The relay will park 1 message again for contradicting a confirmed result, unless --set-status" in plain.out
    wait_for(lambda: swept.visible("ParkedQueueUrl") == 1, "the contradiction, parked again")
    (twice,) = listed(operator, "--reason", "conflicting_status")
    assert (twice["body"], twice["message_id"] == once["message_id"]) == (once["body"], False)
    assert swept.confirmed(uuid) == "Success"

    unsaid = operator("--stack", "relay", "parked", "replay", "--set-status", "Failed", "--yes")
    assert (unsaid.status, unsaid.err.count("\n")) == (2, 1)

    correction = ("--stack", "relay", "parked", "replay", "--set-status", "Failed", "--uuid", uuid, "--yes")
    corrected = operator(*correction, "--uuid", "mistyped")
    assert (corrected.status, corrected.err) == (0, "")
    assert corrected.out.startswith("1 message on the parked queue of relay (eu-central-1).\nNo match for mistyped.\n")
    assert "will park" not in corrected.out
    wait_for(lambda: (uuid, "Failed") in swept.endpoint.accepted, "the correction")
    swept.settled()
    assert swept.confirmed(uuid) == "Failed"

    swept.put("ParkedQueueUrl", parked(json.dumps(second), "conflicting_status"))  # as after a kill before deleting
    assert operator(*correction).status == 0
    wait_for(lambda: swept.story(uuid)[-1]["outcome"] == "duplicate", "the duplicate")
    swept.settled()
    assert [pair for pair in swept.endpoint.accepted if pair[0] == uuid] == [(uuid, "Success"), (uuid, "Failed")]
    assert (swept.confirmed(uuid), swept.visible("ParkedQueueUrl")) == ("Failed", 0)


def test_set_status_with_a_reason_replaces_the_parked_status(swept: DeployedRelay, operator: Operator) -> None:
    """Results parked with a wrong status would be reported with that status."""
    wrong = [result(status="Success") for _ in range(3)]
    right = [{**one, "status": "Failed"} for one in wrong]
    swept.endpoint.issue(*(one["uuid"] for one in wrong))
    swept.put("ParkedQueueUrl", *(parked(json.dumps(one), "rejected", 400) for one in wrong))
    correction = ("parked", "replay", "--set-status", "Failed", "--reason", "rejected", "--yes")
    assert operator("--stack", "relay", *correction).status == 0
    assert swept.accepted(*wrong) == pairs(*right)
