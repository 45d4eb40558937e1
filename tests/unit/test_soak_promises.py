"""The soak's check of the promises, on facts made by hand: it passes a correct run and finds each broken promise."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from local.emulator.runtime import Invocation
from local.endpoint.standin import WEBHOOK_PATH, Request
from local.soak.facts import DEAD, DELIVERED, AwsCall, Facts, Pair, QueueMessage, SentMessage
from local.soak.promises import PROMISES, check

HOST = "127.0.0.1:8787"
KEY = "a-key-that-nobody-may-see"
HORIZON_S, GRACE_S = 100.0, 50.0

GOOD, EVENT, FAILING, UNKNOWN, CRASHING = (f"call-{number}" for number in range(5))


def body(uuid: str, status: str = "Success") -> str:
    """Return the body of a message."""
    return json.dumps({"uuid": uuid, "status": status})


def envelope(event_id: str, detail: str) -> str:
    """Return the body of a message that carries an event."""
    return json.dumps({"id": event_id, "detail-type": "Flash Call Result", "detail": json.loads(detail)})


def sent(key: str, uuid: str, *ends: str, status: str = "Success") -> SentMessage:
    """Return a sent message, which must be delivered unless other ends are allowed."""
    return SentMessage(key, body(uuid, status), (uuid, status), frozenset(ends or {DELIVERED}))


def invocation(number: int, began: float, *messages: tuple[str, str], kept: tuple[str, ...] = ()) -> Invocation:
    """Return an invocation of one second with these messages; those in `kept` stay on the queue."""
    records = tuple({"messageId": message_id, "body": text} for message_id, text in messages)
    reply = {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in kept]}
    return Invocation(0, number, records, began, began + 1, reply, "")


def request(at: float, uuid: str, answer: int | str = 200, status: str = "Success", **changes: Any) -> Request:
    """Return a request to the endpoint."""
    headers = {
        "Host": HOST,
        "Content-Type": "application/json",
        "x-api-key": KEY,
        "x-user-id": "user",
        "User-Agent": "flash-call-relay/0",
    }
    payload = body(uuid, status).encode()
    fields = {"path": WEBHOOK_PATH, "headers": tuple(headers.items()), "body": payload} | changes
    return Request(at=at, method="POST", uuid=uuid, status=status, answer=answer, **fields)


def line(invocation_number: int, message_id: str, outcome: str, uuid: str, **fields: Any) -> dict[str, Any]:
    """Return an outcome line of the log."""
    origin = {"environment": 0, "invocation": invocation_number, "message_id": message_id}
    message = f"result.{outcome}"
    return {"message": message, "uuid": uuid, "status": "Success", "outcome": outcome, **origin, **fields}


def events(at: float, told: str, *lines: Mapping[str, Any], **changes: Any) -> AwsCall:
    """Return a call that published an event of the kind `told` for each of these lines of the log."""
    kind = {"detail-type": f"Flash Call Result {told}"}
    kept = [{name: one[name] for name in one.keys() - {"message", "environment", "invocation"}} for one in lines]
    return AwsCall(at, at + 0.1, 0, "PutEvents", published=tuple({**kind, **one, **changes} for one in kept))


def read(at: float, *uuids: str, found: tuple[str, ...] = (), fault: str = "") -> AwsCall:
    """Return a read of the ledger."""
    return AwsCall(at, at + 0.1, 0, "BatchGetItem", fault, asked=frozenset(uuids), found=frozenset(found))


def write(at: float, *pairs: Pair, fault: str = "") -> AwsCall:
    """Return a write to the ledger."""
    uuids = frozenset(uuid for uuid, _ in pairs)
    return AwsCall(at, at + 0.1, 0, "BatchExecuteStatement", fault, asked=uuids, written=frozenset(pairs))


def correct_facts() -> Facts:
    """Return the facts of a correct run: a copy, a contradiction, and each way to end once."""
    first = invocation(0, 10, ("m1", body(GOOD)), ("m2", envelope("e1", body(EVENT))))
    second = invocation(1, 20, ("m3", body(GOOD)), ("m4", body(GOOD, "Failed")), ("m5", "nothing"))
    third = invocation(2, 30, ("m6", body(FAILING)), ("m7", body(UNKNOWN)), kept=("m6", "m7"))
    last = invocation(3, 200, ("m6", body(FAILING)), ("m7", body(UNKNOWN)))
    crashed = replace(invocation(4, 300, ("m8", body(CRASHING))), reply=None, error="Runtime.ExitError: killed")
    malformed = line(1, "m5", "parked", GOOD)
    del malformed["uuid"], malformed["status"]
    return Facts(
        sent=[
            sent("m1", GOOD),
            sent("e1", EVENT),
            sent("m3", GOOD),
            sent("m4", GOOD, "conflicting_status", status="Failed"),
            SentMessage("m5", "nothing", None, frozenset({"invalid_event"})),
            sent("m6", FAILING, "retries_exhausted"),
            sent("m7", UNKNOWN, "unknown_call"),
            sent("m8", CRASHING, DEAD),
        ],
        invocations=[first, second, third, last, crashed],
        interrupted=frozenset({(0, 4)}),
        repeats=frozenset(),
        requests=[
            request(10.2, GOOD),
            request(10.2, EVENT, 401),
            request(10.3, EVENT),
            request(30.2, FAILING, 500),
            request(30.2, UNKNOWN, 404),
            request(200.2, FAILING, 500),
            request(200.2, UNKNOWN, 404),
        ],
        accepted=[(GOOD, "Success"), (EVENT, "Success")],
        other_host_requests=[],
        calls=[
            read(10.1, GOOD, EVENT),
            write(10.5, (GOOD, "Success"), (EVENT, "Success")),
            read(20.1, GOOD, found=(GOOD,)),
            read(30.1, FAILING, UNKNOWN),
            read(200.1, FAILING, UNKNOWN),
            events(10.9, "Confirmed", line(0, "m1", "delivered", GOOD), line(0, "m2", "delivered", EVENT)),
            events(20.9, "Parked", line(1, "m4", "parked", GOOD, status="Failed")),
            events(20.9, "Parked", malformed),
            events(200.9, "Parked", line(3, "m6", "parked", FAILING), line(3, "m7", "parked", UNKNOWN)),
        ],
        parked=[
            QueueMessage("m4", body(GOOD, "Failed"), "conflicting_status", parked_at=20.5, age_s=1),
            QueueMessage("m5", "nothing", "invalid_event", parked_at=20.5, age_s=1),
            QueueMessage("m6", body(FAILING), "retries_exhausted", "500", parked_at=200.5, age_s=171),
            QueueMessage("m7", body(UNKNOWN), "unknown_call", "404", parked_at=200.5, age_s=171),
        ],
        dead_lettered=[QueueMessage("m8", body(CRASHING))],
        queued=[],
        log=[
            line(0, "m1", "delivered", GOOD),
            line(0, "m2", "delivered", EVENT),
            line(1, "m3", "duplicate", GOOD),
            line(1, "m4", "parked", GOOD, status="Failed"),
            malformed,
            line(2, "m6", "deferred", FAILING),
            line(2, "m7", "deferred", UNKNOWN),
            line(3, "m6", "parked", FAILING),
            line(3, "m7", "parked", UNKNOWN),
        ],
        raw_log=["START RequestId: 1"],
        credentials=frozenset({KEY}),
        host=HOST,
        bounds=[(0.0, HORIZON_S, GRACE_S)],
        visibility_s=18.0,
    )


def broken(facts: Facts) -> list[str]:
    """Return the promises that the check finds broken."""
    return [one.name for one in check(facts) if one.broken]


def test_the_check_passes_a_correct_run() -> None:
    """A soak would fail although the relay keeps every promise."""
    report = check(correct_facts())
    assert [one.broken for one in report] == [[]] * len(PROMISES)
    assert all(one.checked for one in report), "the check had nothing to check for a promise"


def parked(facts: Facts, message_id: str, **changes: Any) -> Facts:
    """Change a parked message."""
    held = [replace(one, **changes) if one.message_id == message_id else one for one in facts.parked]
    return replace(facts, parked=held)


def delivered_twice(facts: Facts, *, kept: bool) -> Facts:
    """Add a second delivery of the first event at the same time, and m1 again before its delay is over."""
    original = facts.invocations[0]
    of_m1 = [record for record in original.records if record["messageId"] == "m1"]
    reply = {"batchItemFailures": [{"itemIdentifier": "m1"}] if kept else []}
    copy = replace(original, environment=1, number=0, ended=original.began + 0.2, reply=reply)
    later = replace(invocation(5, original.began + 3), records=tuple(of_m1))
    outcomes = [("m1", "deferred" if kept else "duplicate", GOOD), ("m2", "duplicate", EVENT)]
    lines = [{**line(0, *one), "environment": 1} for one in outcomes]
    return replace(
        facts,
        repeats=frozenset({(1, 0)}),
        invocations=[*facts.invocations, copy, later],
        log=[*facts.log, *lines, line(5, "m1", "duplicate", GOOD)],
    )


def failed(facts: Facts, number: int, error: str) -> Facts:
    """Let an invocation fail without an injected fault; its messages stay on the queue."""
    invocations = list(facts.invocations)
    invocations[number] = replace(invocations[number], reply=None, error=error)
    kept = [QueueMessage(record["messageId"], record["body"]) for record in invocations[number].records]
    return replace(facts, invocations=invocations, queued=kept, log=facts.log[2:])


def asked_to_wait(
    facts: Facts, wait_s: int, *, later: float = 30.2, again: float = 200.2, environment: int = 0
) -> Facts:
    """Let the endpoint ask to wait at 30.2. The invocation sends another POST `later`, and the next one two `again`."""
    requests = [replace(one, at=at) for one, at in zip(facts.requests[3:], (30.2, later, again, again), strict=True)]
    requests = [*facts.requests[:3], replace(requests[0], answer=503, wait_s=wait_s), *requests[1:]]
    invocations = [*facts.invocations]
    invocations[2] = replace(invocations[2], ended=later + 0.1)
    invocations[3] = replace(invocations[3], began=again - 0.1, environment=environment)
    log = [{**one, "environment": environment if one["invocation"] == 3 else 0} for one in facts.log]
    return replace(facts, requests=requests, invocations=invocations, log=log)


def more(facts: Facts, **added: Any) -> Facts:
    """Add a value to each of these lists."""
    changes: Mapping[str, Any] = {name: [*getattr(facts, name), value] for name, value in added.items()}
    return replace(facts, **changes)


LOST, CONFIRMED, ONCE, CONTRADICTIONS, FAULT, HORIZON, REFUSED, CLOCK, CREDENTIALS, OBSERVED = PROMISES

# What tests/e2e/test_broken_relays.py does not show.
WRONG: list[tuple[str, str, Callable[[Facts], Facts]]] = [
    (LOST, "a parked message is gone", lambda f: replace(f, parked=[p for p in f.parked if p.message_id != "m5"])),
    (LOST, "a dead-lettered message is gone", lambda f: replace(f, dead_lettered=[])),
    (LOST, "an event never came to the queue", lambda f: more(f, sent=sent("e9", "call-9"))),
    (LOST, "a parked body was changed", lambda f: parked(f, "m5", body="nothing much")),
    (LOST, "parked twice", lambda f: more(f, parked=f.parked[1])),
    (LOST, "deleted twice", lambda f: more(f, invocations=invocation(5, 15, ("m1", body(GOOD))))),
    (
        ONCE,
        "sent again by a function that knew, and was killed",
        lambda f: more(failed(f, 1, "Runtime.ExitError: killed"), requests=request(20.5, GOOD)),
    ),
    (ONCE, "sent outside an invocation", lambda f: more(f, requests=request(99.0, GOOD))),
    (LOST, "deleted again although no second delivery deferred it", lambda f: delivered_twice(f, kept=False)),
    (
        CONTRADICTIONS,
        "both statuses were confirmed without a log line",
        lambda f: more(f, accepted=(GOOD, "Failed")),
    ),
    (
        CONTRADICTIONS,
        "parked as a contradiction of nothing",
        lambda f: parked(f, "m6", reason="conflicting_status"),
    ),
    (FAULT, "parked, but never sent", lambda f: more(f, parked=QueueMessage("m9", "what", "rejected"))),
    (LOST, "delivered instead of parked", lambda f: replace(f, parked=f.parked[1:])),
    (HORIZON, "parked within the grace", lambda f: parked(f, "m7", age_s=GRACE_S - 10)),
    (HORIZON, "out of receives", lambda f: more(f, dead_lettered=QueueMessage("m6", body(FAILING)))),
    (CLOCK, "sent two seconds after being asked to wait", lambda f: asked_to_wait(f, 5, later=32.2)),
    (CREDENTIALS, "the key is in a parked message", lambda f: parked(f, "m6", attributes=KEY)),
    (
        CREDENTIALS,
        "the key is in an AWS call",
        lambda f: more(f, calls=AwsCall(31, 32, 0, "GetSecretValue", leaks=True)),
    ),
    (CREDENTIALS, "a POST with another body", lambda f: more(f, requests=request(9, GOOD, 400, body=b'{"uuid": 1}'))),
    (CREDENTIALS, "a POST elsewhere", lambda f: more(f, requests=request(9, GOOD, 404, path="/"))),
    (CREDENTIALS, "a POST with more headers", lambda f: more(f, requests=request(9, GOOD, 400, headers=(("a", "b"),)))),
    (OBSERVED, "an outcome was logged twice", lambda f: more(f, log=f.log[0])),
    (
        OBSERVED,
        "an event for a duplicate",
        lambda f: more(f, calls=events(21, "Confirmed", f.log[2], outcome=DELIVERED)),
    ),
    (OBSERVED, "an event with another reason", lambda f: more(f, calls=events(201, "Parked", f.log[7], reason="none"))),
]


@pytest.mark.parametrize(("promise", "change"), [(p, c) for p, _, c in WRONG], ids=[name for _, name, _ in WRONG])
def test_the_check_finds_a_broken_promise(promise: str, change: Callable[[Facts], Facts]) -> None:
    """A relay that breaks a promise would pass the soak."""
    assert promise in broken(change(correct_facts()))


EXCUSED: list[tuple[str, Callable[[Facts], Facts]]] = [
    (
        "sent again because the ledger read failed",
        lambda f: more(f, requests=request(20.5, GOOD), calls=read(20.2, GOOD, fault="500")),
    ),
    (
        "sent again because the invocation stopped waiting for the ledger",
        lambda f: more(
            f, requests=request(20.5, GOOD), log={"message": "ledger.failed", "environment": 0, "invocation": 1}
        ),
    ),
    (
        "sent twice because two invocations read the ledger before either wrote",
        lambda f: more(
            replace(f, repeats=frozenset({(1, 0)})),
            invocations=replace(invocation(0, 10, ("m1", body(GOOD))), environment=1),
            calls=replace(read(10.15, GOOD), environment=1),
            requests=request(10.7, GOOD),
            log={**line(0, "m1", "delivered", GOOD), "environment": 1},
        ),
    ),
    (
        "parked twice because SQS's reply was lost",
        lambda f: more(
            f, parked=f.parked[1], calls=AwsCall(20.4, 20.5, 0, "SendMessageBatch", "lost", frozenset({"m5"}))
        ),
    ),
    (
        "confirmed with both statuses and logged",
        lambda f: more(f, accepted=(GOOD, "Failed"), log={"message": "ledger.conflict", "uuid": GOOD}),
    ),
    (
        "deleted twice because the first invocation outlasted the visibility timeout",
        lambda f: more(f, invocations=invocation(5, 28.5, ("m1", body(GOOD))), log=line(5, "m1", "duplicate", GOOD)),
    ),
    (
        "deleted twice because a second delivery of the event deferred it for less",
        lambda f: delivered_twice(f, kept=True),
    ),
    ("sent before the request to wait had come", lambda f: asked_to_wait(f, 5, later=31.1)),
    ("sent after the wait", lambda f: asked_to_wait(f, 170)),
    ("sent by an environment that was not asked to wait", lambda f: asked_to_wait(f, 300, environment=1)),
    ("still queued", lambda f: more(f, sent=sent("m9", "call-9"), queued=QueueMessage("m9", body("call-9")))),
]


@pytest.mark.parametrize("change", [change for _, change in EXCUSED], ids=[name for name, _ in EXCUSED])
def test_the_check_excuses_what_the_relay_cannot_prevent(change: Callable[[Facts], Facts]) -> None:
    """A soak would fail for a repetition or a POST that the relay never promised to prevent."""
    assert broken(change(correct_facts())) == []
