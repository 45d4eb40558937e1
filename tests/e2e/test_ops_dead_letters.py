"""Dead letters of every shape, replayed; messages that are discarded."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from local.endpoint.behaviour import error
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.operator import Operator, ended
from tests.support.payloads import pairs, payload, result

OF_LAMBDA: dict[str, str | int] = {
    "RequestID": "e4b46cbf-b738-4880-8276-5f2ba4ba5b4c",
    "ErrorCode": 200,
    "ErrorMessage": "RuntimeError: SQS is away",
}
OF_EVENTBRIDGE: dict[str, str | int] = {
    "RULE_ARN": "arn:aws:events:eu-central-1:123456789012:rule/relay-ResultRule",
    "TARGET_ARN": "arn:aws:lambda:eu-central-1:123456789012:function:relay",
    "ERROR_CODE": "NO_PERMISSIONS",
    "ERROR_MESSAGE": "Lambda function is not authorized",
    "EXHAUSTED_RETRY_CONDITION": "MaximumRetryAttempts",
    "RETRY_ATTEMPTS": 185,
}


def event(detail: dict[str, Any]) -> str:
    """Return an EventBridge event as JSON."""
    return json.dumps({**payload("eventbridge"), "detail": detail})


def test_dead_letters_of_every_shape_are_delivered(swept: DeployedRelay, operator: Operator) -> None:
    """An operator could not replay a dead letter."""
    plain, from_lambda, from_rule, long = results = [result() for _ in range(4)]
    swept.endpoint.issue(*(one["uuid"] for one in results))
    # A quote takes two bytes in JSON, so an event that fits the bus can be too long for the result queue.
    too_long = event({**long, "note": '"' * 200_000})
    assert len(too_long) > 256 * 1024
    put = swept.put(
        "DeadLetterQueueUrl",
        (json.dumps(plain), {}),
        (event(from_lambda), OF_LAMBDA),
        (event(from_rule), OF_EVENTBRIDGE),
        (too_long, OF_EVENTBRIDGE),
    )
    listing = operator("--stack", "relay", "dead", "list", "--json")
    lines = {line["message_id"]: line for line in map(json.loads, listing.out.splitlines())}
    assert {message_id: line["body"] for message_id, line in lines.items()} == put
    reasons = ["receives_exhausted", "function_failed", "event_undelivered", "event_undelivered"]
    assert [lines[message_id]["reason"] for message_id in put] == reasons
    shown = operator("--stack", "relay", "dead", "list")
    assert "RuntimeError: SQS is away" in shown.out
    assert "Lambda function is not authorized" in shown.out

    replay = operator("--stack", "relay", "dead", "replay", "--yes")
    assert (replay.status, replay.err) == (0, "")
    assert replay.out.endswith("4 messages replayed.\n")
    assert swept.accepted(*results) == pairs(*results)
    assert swept.deployment.depth("DeadLetterQueueUrl") == 0


def test_a_result_received_too_often_is_replayed_and_delivered(swept: DeployedRelay, operator: Operator) -> None:
    """A result that was received too often would stay on the dead-letter queue."""
    one = result()
    swept.endpoint.issue(one["uuid"])
    swept.endpoint.misbehave(one["uuid"], error(500))
    sqs, queue = swept.deployment.sqs, {"QueueUrl": swept.deployment.outputs["ResultQueueUrl"]}
    before = sqs.get_queue_attributes(**queue, AttributeNames=["RedrivePolicy"])["Attributes"]
    once = json.dumps({**json.loads(before["RedrivePolicy"]), "maxReceiveCount": 1})
    sqs.set_queue_attributes(**queue, Attributes={"RedrivePolicy": once})
    try:
        swept.send(one)
        wait_for(lambda: swept.visible("DeadLetterQueueUrl") == 1, "the dead letter")
    finally:
        sqs.set_queue_attributes(**queue, Attributes=before)
    listing = operator("--stack", "relay", "dead", "list", "--reason", "receives_exhausted")
    assert one["uuid"] in listing.out
    assert operator("--stack", "relay", "dead", "replay", "--uuid", one["uuid"], "--yes").status == 0
    assert swept.accepted(one) == pairs(one)
    assert swept.deployment.depth("DeadLetterQueueUrl") == 0


def put_four(relay: DeployedRelay) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Park three results of existing calls and a body without a status; return the results, and all bodies by id."""
    results = [result() for _ in range(4)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    rejected: dict[str, str | int] = {"reason": "rejected", "detail": "HTTP 400", "http_status": 400}
    good = [(json.dumps(one), rejected) for one in results[:3]]
    invalid = json.dumps({"uuid": results[3]["uuid"]})
    return results, relay.put("ParkedQueueUrl", *good, (invalid, {"reason": "invalid_event", "detail": "no status"}))


def test_discarded_messages_can_be_corrected_and_sent_again(
    swept: DeployedRelay, operator: Operator, tmp_path: Path
) -> None:
    """An operator could not undo a discard, or correct an invalid result."""
    results, bodies = put_four(swept)
    file = tmp_path / "discarded.jsonl"
    discard = operator("--stack", "relay", "parked", "discard", "--to", str(file), "--yes")
    assert (discard.status, discard.err) == (0, "")
    assert discard.out.endswith("4 messages deleted.\n")
    assert swept.deployment.depth("ParkedQueueUrl") == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["message_id"]: line["body"] for line in lines} == bodies
    send = ("--stack", "relay", "send", "--file", str(file))
    refused = operator(*send)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.endswith("Nothing was done: 1 of 4 lines can't be used. Correct or delete them.\n")
    corrected = file.read_text().replace('"status": null', f'"status": "{results[3]["status"]}"')
    file.write_text(corrected)
    assert operator(*send).status == 0
    assert swept.accepted(*results) == pairs(*results)


def test_messages_are_not_discarded_before_they_are_saved(
    swept: DeployedRelay, operator: Operator, tmp_path: Path
) -> None:
    """Messages would be lost."""
    put_four(swept)
    die = "import os, signal\nos.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    discard = ("--stack", "relay", "parked", "discard", "--to", str(tmp_path / "discarded.jsonl"), "--yes")
    with operator.start(*discard, before=die) as process:
        assert ended(process).status == -9
    assert swept.deployment.depth("ParkedQueueUrl") == 4


@pytest.mark.parametrize(("command", "answer"), [("replay", "n"), ("replay", "\x04"), ("discard", "y")])
def test_without_a_yes_nothing_is_changed(
    swept: DeployedRelay, operator: Operator, tmp_path: Path, command: str, answer: str
) -> None:
    """A script or a typing mistake would delete messages."""
    put_four(swept)
    to = ("--to", str(tmp_path / "discarded.jsonl")) if command == "discard" else ()
    asks = ("--stack", "relay", "parked", command, "--reason", "rejected", *to)
    dry = operator(*asks, "--dry-run")
    assert (dry.status, dry.out.rstrip().endswith("Dry run: nothing was done.")) == (0, True)
    nobody = operator(*asks)
    assert (nobody.status, nobody.err.count("\n")) == (2, 1)
    assert "--yes" in nobody.err
    assert (swept.visible("ParkedQueueUrl"), list(tmp_path.iterdir())) == (4, [])
    keyboard, terminal = os.openpty()
    try:
        with operator.start(*asks, stdin=terminal) as process:
            os.write(keyboard, f"{answer}\n".encode())
            asked = ended(process)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert asked.status == (130 if answer == "\x04" else 0)
    assert "Traceback" not in asked.err
    assert "3 messages" in asked.out
    assert swept.deployment.depth("ParkedQueueUrl") == (1 if answer == "y" else 4)
