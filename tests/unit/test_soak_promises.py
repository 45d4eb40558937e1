"""The soak's check of the promises, on facts made by hand: it passes a correct run and finds each broken promise."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from local.emulator.runtime import Invocation
from local.endpoint.standin import WEBHOOK_PATH, Request
from local.soak.facts import DELIVERED, Facts, QueueMessage
from local.soak.plan import Item
from local.soak.promises import PROMISES, check
from local.soak.report import MOST_SHOWN, SoakReport

KEY = "a-key-that-nobody-may-see"
GOOD, UNKNOWN, KILLED = "call-good", "call-unknown", "call-killed"


def body(uuid: str, status: str = "Success") -> str:
    """Return the body of a message."""
    return json.dumps({"uuid": uuid, "status": status})


def sent(message_id: str, uuid: str, *ends: str, status: str = "Success") -> Item:
    """Return a sent message, which must be delivered unless other ends are allowed."""
    return Item(body(uuid, status), (uuid, status), frozenset(ends or {DELIVERED}), message_id=message_id)


def invocation(number: int, began: float, *message_ids: str, kept: tuple[str, ...] = ()) -> Invocation:
    """Return an invocation of one second with these messages; those in `kept` stay on the queue."""
    records = tuple({"messageId": message_id} for message_id in message_ids)
    reply = {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in kept]}
    return Invocation(0, number, records, began, began + 1, reply, "")


def request(at: float, uuid: str, answer: int | str = 200, status: str = "Success") -> Request:
    """Return a request to the endpoint."""
    return Request(at, "POST", WEBHOOK_PATH, (), body(uuid, status).encode(), uuid, status, answer)


def line(message: str, number: int, **fields: Any) -> dict[str, Any]:
    """Return a line of the log."""
    return {"message": message, "environment": 0, "invocation": number, **fields}


def correct_facts() -> Facts:
    """Return the facts of a correct run: a copy, a contradiction, a kill, and each way to end once."""
    delivered = {"outcome": DELIVERED, "uuid": GOOD, "status": "Success"}
    killed = replace(invocation(4, 300, "m7"), reply=None, error="Runtime.ExitError: killed")
    return Facts(
        sent=[
            sent("m1", GOOD),
            sent("m3", GOOD),
            sent("m4", GOOD, "conflicting_status", status="Failed"),
            Item("nothing", None, frozenset({"invalid_event"}), message_id="m5"),
            sent("m6", UNKNOWN, "unknown_call"),
            sent("m7", KILLED),
        ],
        invocations=[
            invocation(0, 10, "m1"),
            invocation(1, 20, "m3", "m4", "m5"),
            invocation(2, 30, "m6", kept=("m6",)),
            invocation(3, 200, "m6"),
            killed,
        ],
        interrupted=frozenset({(0, 4)}),
        requests=[request(10.2, GOOD), request(30.2, UNKNOWN, 404), request(200.2, UNKNOWN, 404)],
        accepted=[(GOOD, "Success")],
        other_host_requests=[],
        ledger_faults=frozenset(),
        leaks=[],
        parked=[
            QueueMessage("m4", body(GOOD, "Failed"), "conflicting_status"),
            QueueMessage("m5", "nothing", "invalid_event"),
            QueueMessage("m6", body(UNKNOWN), "unknown_call"),
        ],
        dead_lettered=[],
        queued=[QueueMessage("m7", body(KILLED))],
        log=[line("result.delivered", 0, **delivered), line("result.duplicate", 1, outcome="duplicate")],
        raw_log=["START RequestId: 1"],
        credentials=frozenset({KEY}),
    )


def broken(facts: Facts) -> list[str]:
    """Return the promises that the check finds broken."""
    return [one.name for one in check(facts) if one.broken]


def more(facts: Facts, **added: Any) -> Facts:
    """Add a value to each of these lists."""
    changes: Mapping[str, Any] = {name: [*getattr(facts, name), value] for name, value in added.items()}
    return replace(facts, **changes)


def parked(facts: Facts, message_id: str, **changes: Any) -> Facts:
    """Change a parked message."""
    held = [replace(one, **changes) if one.message_id == message_id else one for one in facts.parked]
    return replace(facts, parked=held)


def both_confirmed(facts: Facts) -> Facts:
    """Let the endpoint accept the contradiction."""
    return more(facts, accepted=(GOOD, "Failed"), requests=request(20.5, GOOD, status="Failed"))


def failed(facts: Facts, error: str) -> Facts:
    """Let the last invocation fail without an injected fault."""
    return replace(facts, invocations=[*facts.invocations[:-1], replace(facts.invocations[-1], number=5, error=error)])


def test_the_check_passes_a_correct_run() -> None:
    """A soak would fail although the relay keeps every promise."""
    report = check(correct_facts())
    assert [one.broken for one in report] == [[]] * len(PROMISES)
    assert {one.name for one in report if not one.checked} == set()


LOST, CONFIRMED, ONCE, CONTRADICTIONS, FAULT, CLOCK, CREDENTIALS, OBSERVED = PROMISES
IN_LOG = line("result.delivered", 1, outcome=DELIVERED, uuid=UNKNOWN, status="Success")

WRONG: dict[str, tuple[str, Callable[[Facts], Facts]]] = {
    "a parked message is gone": (LOST, lambda f: replace(f, parked=f.parked[:1])),
    "a queued message is gone": (LOST, lambda f: replace(f, queued=[])),
    "a contradiction was dropped": (LOST, lambda f: replace(f, parked=f.parked[1:])),
    "a parked body was changed": (LOST, lambda f: parked(f, "m5", body="nothing much")),
    "never accepted, but logged as delivered": (CONFIRMED, lambda f: more(f, log=IN_LOG)),
    "sent again": (ONCE, lambda f: more(f, requests=request(20.5, GOOD))),
    "sent outside an invocation": (ONCE, lambda f: more(f, requests=request(99.0, GOOD))),
    "both statuses were confirmed without a log line": (CONTRADICTIONS, both_confirmed),
    "a contradiction of nothing": (
        CONTRADICTIONS,
        lambda f: more(
            f,
            sent=sent("m9", "call-9", "conflicting_status"),
            parked=QueueMessage("m9", body("call-9"), "conflicting_status"),
        ),
    ),
    "parked, but never sent": (FAULT, lambda f: more(f, parked=QueueMessage("m9", "what", "rejected"))),
    "parked for another reason": (FAULT, lambda f: parked(f, "m6", reason="retries_exhausted")),
    "parked for refused credentials": (FAULT, lambda f: more(f, parked=QueueMessage("m1", body(GOOD), "rejected"))),
    "out of receives": (FAULT, lambda f: more(f, dead_lettered=QueueMessage("m7", body(KILLED)))),
    "timed out": (CLOCK, lambda f: failed(f, "Task timed out after 21.00 seconds")),
    "the key is in the log": (CREDENTIALS, lambda f: more(f, raw_log=f"using {KEY}")),
    "the key is in a parked message": (CREDENTIALS, lambda f: parked(f, "m6", attributes=KEY)),
    "the key is in an AWS call": (CREDENTIALS, lambda f: more(f, leaks="GetSecretValue")),
    "a request to another host": (CREDENTIALS, lambda f: more(f, other_host_requests=request(9, GOOD))),
    "failed": (OBSERVED, lambda f: failed(f, "OSError: no space left")),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_check_finds_a_broken_promise(name: str) -> None:
    """A relay that breaks a promise would pass the soak."""
    promise, change = WRONG[name]
    assert broken(change(correct_facts())) == [promise]


EXCUSED: dict[str, Callable[[Facts], Facts]] = {
    "sent again because a call to the ledger failed": lambda f: more(
        replace(f, ledger_faults=frozenset({(0, 1)})), requests=request(20.5, GOOD)
    ),
    "sent again because the invocation stopped waiting for the ledger": lambda f: more(
        f, requests=request(20.5, GOOD), log=line("ledger.failed", 1)
    ),
    "sent again because the entry could not be written": lambda f: more(
        replace(f, ledger_faults=frozenset({(0, 0)})), requests=request(20.5, GOOD)
    ),
    "sent twice by two invocations side by side": lambda f: more(
        f, requests=request(11.2, GOOD), invocations=replace(invocation(0, 10.5, "m1"), environment=1)
    ),
    "confirmed with both statuses and logged": lambda f: more(
        both_confirmed(f), log={"message": "ledger.conflict", "uuid": GOOD}
    ),
    "confirmed with both statuses, but the ledger failed": lambda f: both_confirmed(
        replace(f, ledger_faults=frozenset({(0, 1)}))
    ),
    "still queued": lambda f: more(f, sent=sent("m9", "call-9"), queued=QueueMessage("m9", body("call-9"))),
}


@pytest.mark.parametrize("name", EXCUSED)
def test_the_check_excuses_what_the_relay_cannot_prevent(name: str) -> None:
    """A soak would fail for a repetition that the relay never promised to prevent."""
    assert broken(EXCUSED[name](correct_facts())) == []


def test_the_report_names_every_problem() -> None:
    """An engineer would mend one broken promise, and learn of the next one from the next soak."""
    facts = failed(correct_facts(), "OSError: no space left")
    facts = replace(facts, raw_log=[KEY] * (MOST_SHOWN + 5), log=[])
    report = SoakReport(facts, check(facts), {"seen": 1, "unseen": 0}, settled=False, seconds=1)
    assert [*report.problems()] == [
        f"never checked: {CONFIRMED}",
        *[f"broken: {CREDENTIALS}: a credential is in the log"] * MOST_SHOWN,
        f"broken: {CREDENTIALS}: 5 times more",
        f"broken: {OBSERVED}: invocation (0, 5) failed without a fault: OSError: no space left",
        "never occurred: unseen",
        "not everything was settled within the limit",
    ]
