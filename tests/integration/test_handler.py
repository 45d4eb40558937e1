"""Each record of a batch gets its own outcome, and no record affects another one."""

import concurrent.futures
import json
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from flash_call_relay import budget
from flash_call_relay.models import FlashCallResult
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import after, error
from tests.support.payloads import payload, result
from tests.support.relay import PATIENCE_S, UUID, Context, InProcessRelay

GOOD = [f"good-{number}" for number in range(6)]


def test_a_mixed_batch_gives_each_record_its_own_outcome(relay: InProcessRelay) -> None:
    """A bad or slow record would stop the delivery of its neighbours, or have the relay send them again."""
    relay.endpoint.issue(*GOOD, "fails", "slow")
    relay.endpoint.misbehave("fails", error(500))
    relay.endpoint.misbehave("refused", error(400))
    asked = [*GOOD[:3], "slow", "unknown", "refused", *GOOD[3:], "fails"]
    relay.endpoint.misbehave("slow", after(lambda: len(relay.endpoint.requests) >= len(asked), error(503)))
    refused = json.dumps(result("refused") | {"customer": "caf\xe9 \U0001f4de"}, ensure_ascii=False)
    bodies = [refused if uuid == "refused" else result(uuid) for uuid in asked]
    records = relay.send('{"uuid": "no-status"}', *bodies)
    ids = {json.loads(record["body"])["uuid"]: record["messageId"] for record in records}

    kept = relay.invoke_with(records)

    assert sorted(kept) == sorted([ids["fails"], ids["slow"], ids["unknown"]])
    assert relay.outcomes().count(("deferred", "endpoint_error")) == 2, "no neighbour waited for the slow one"
    assert sorted(relay.endpoint.accepted) == [(uuid, "Success") for uuid in GOOD]
    assert sorted(str(request.uuid) for request in relay.endpoint.requests) == sorted(asked)
    (hides,) = relay.calls_of("ChangeMessageVisibilityBatch")
    logged = {line["message_id"]: line["retry_in_s"] for line in relay.lines("result.deferred")}
    receipts = {record["receiptHandle"]: record["messageId"] for record in records}
    assert {receipts[one["ReceiptHandle"]]: one["VisibilityTimeout"] for one in hides["Entries"]} == logged
    parked = {message["given"]["reason"]: message for message in relay.parked(2)}
    assert (parked["invalid_event"]["body"], parked["rejected"]["body"]) == ('{"uuid": "no-status"}', refused)
    assert parked["invalid_event"]["given"]["detail"].startswith("the body has no status; expected a JSON object")
    sent_at = int(records[6]["attributes"]["SentTimestamp"]) / 1000
    assert parked["rejected"]["given"] == {
        "reason": "rejected",
        "detail": "HTTP 400 Bad Request",
        "http_status": "400",
        "receive_count": "1",
        "enqueued_at": datetime.fromtimestamp(sent_at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "source_message_id": ids["refused"],
    }


def test_the_sample_payloads_are_delivered(relay: InProcessRelay) -> None:
    """`sam local invoke` would fail with the files of events/, which every new user tries first."""
    relay.endpoint.issue(*[f"01JV5V54KPYK9GB29265EQRZ{end}" for end in ("2P", *[f"{n:02}" for n in range(10)])])
    for name in ("sqs-success", "sqs-failed", "sqs-eventbridge", "eventbridge", "sqs-batch-one-invalid"):
        assert relay.invoke(payload(name)) == []
    statuses = [status for uuid, status in relay.endpoint.accepted if uuid == UUID]
    assert statuses == ["Success", "Failed", "Success", "Success"]
    assert len(relay.endpoint.accepted) == 13
    (parked,) = relay.parked(1)
    assert parked["body"] == payload("sqs-batch-one-invalid")["Records"][4]["body"]


def test_a_message_stays_on_the_queue_if_it_cannot_be_parked_or_hidden(relay: InProcessRelay) -> None:
    """SQS would delete a malformed or deferred message with its delivered neighbours, although it is nowhere else."""
    relay.endpoint.issue("good")
    records = relay.send(result("unknown-0"), "malformed", result("good"), "too large", result("unknown-1"))
    records[0]["receiptHandle"] = "outdated"
    relay.sqs.set_queue_attributes(QueueUrl=relay.parked_url, Attributes={"MaximumMessageSize": "1024"})
    records[3]["body"] = "malformed" * 1000
    kept = relay.invoke_with(records)
    assert sorted(kept) == sorted(records[number]["messageId"] for number in (0, 3, 4))
    assert relay.endpoint.accepted == [("good", "Success")]
    assert [message["body"] for message in relay.parked(1)] == ["malformed"]
    failures = {line["message_id"]: line["detail"].split(":")[0] for line in relay.lines("settle.failed")}
    assert failures == {records[0]["messageId"]: "hide", records[3]["messageId"]: "park"}
    assert "not acknowledged" not in relay.log.getvalue(), "SQS says why"


def test_a_bug_defers_only_the_record_it_met(relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    """An odd result would fail each of its batches until SQS dead-letters all of their results."""
    post = Webhook.post

    def buggy(webhook: Webhook, asked: FlashCallResult, *further: Any, **options: Any) -> Any:
        return 1 // 0 if asked.uuid == "odd" else post(webhook, asked, *further, **options)

    monkeypatch.setattr(Webhook, "post", buggy)
    relay.endpoint.issue(*GOOD)
    records = relay.send(*map(result, GOOD[:3]), result("odd"), *map(result, GOOD[3:]))
    assert relay.invoke_with(records) == [records[3]["messageId"]]
    assert sorted(relay.endpoint.accepted) == [(uuid, "Success") for uuid in GOOD]
    (line,) = relay.lines("result.deferred")
    assert (line["reason"], line["detail"]) == ("relay_error", "a bug in the relay: ZeroDivisionError")


def test_a_batch_without_time_left_is_deferred_without_a_post(relay: InProcessRelay) -> None:
    """Lambda would cut a POST off at the time-out, and the relay would send the whole batch again."""
    relay.endpoint.issue("good")
    records = relay.send(result("good"), "malformed")
    # The time to settle, and a part of the time of an attempt, 20 s.
    remaining = Context(remaining_ms=int((budget.SETTLE_S + 15) * 1000))
    assert relay.invoke_with(records, remaining) == [records[0]["messageId"]]
    assert relay.endpoint.requests == []
    assert relay.lines("result.deferred")[0]["reason"] == "out_of_time"
    assert len(relay.parked(1)) == 1
    assert relay.invoke_with(records[:1]) == []  # with enough time, it is delivered
    too_late = Context(remaining_ms=int(budget.LAST_CALL_S * 1000) - 1)
    assert relay.invoke_with(records[1:], too_late) == [records[1]["messageId"]]
    assert relay.lines("settle.failed")[0]["detail"] == "park: no time left"


def test_an_attempt_that_never_ends_defers_only_its_own_record(
    relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lambda would kill the function because of one endless attempt, and the relay would send its results again."""
    post, begun, over = Webhook.post, threading.Event(), threading.Event()
    passed_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s)
    for module in (budget, concurrent.futures._base):
        monkeypatch.setattr(module, "time", clock)

    def hang_for_one(webhook: Webhook, sent: FlashCallResult, *further: Any, **options: Any) -> Any:
        nonlocal passed_s
        if sent.uuid == "stuck":
            begun.set()
            return over.wait(PATIENCE_S)
        answer = post(webhook, sent, *further, **options)
        begun.wait(PATIENCE_S)
        passed_s = Context().remaining_ms / 1000 - budget.SETTLE_S  # the time for attempts is over
        return answer

    monkeypatch.setattr(Webhook, "post", hang_for_one)
    relay.endpoint.issue("prompt")
    prompt, stuck = relay.send(result("prompt"), result("stuck"))
    assert relay.invoke_with([prompt, stuck]) == [stuck["messageId"]]
    over.set()
    assert relay.outcomes() == [("delivered", None), ("deferred", "out_of_time")]
