"""What the soak excuses: a fault excuses what the relay cannot prevent after it, and nothing else does."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from local.emulator.runtime import Invocation
from local.endpoint.standin import WEBHOOK_PATH, Request
from local.soak.facts import DELIVERED, Facts, QueueMessage
from local.soak.plan import Item
from local.soak.promises import PROMISES, check
from local.soak.report import SoakReport

LOST, CONFIRMED, ONCE, CONTRADICTIONS, _, CLOCK, CREDENTIALS, OBSERVED = PROMISES
KEY = "a-key-that-nobody-may-see"

Change = Callable[[Facts], Facts]


def sent(message_id: str, uuid: str, status: str = "Success", end: str = DELIVERED) -> Item:
    """Return a message that was sent and must end so."""
    text = json.dumps({"uuid": uuid, "status": status})
    return Item(text, (uuid, status), frozenset({end}), message_id=message_id)


def invocation(number: int, began: float, *message_ids: str, environment: int = 0, error: str = "") -> Invocation:
    """Return an invocation of one second with these messages, which keeps none of them on the queue."""
    records = tuple({"messageId": message_id} for message_id in message_ids)
    return Invocation(environment, number, records, began, began + 1, {"batchItemFailures": []}, error)


def request(at: float, status: str = "Success") -> Request:
    """Return a request to the endpoint, which accepts it."""
    return Request(at, "POST", WEBHOOK_PATH, (), b"", "call", status, 200)


ORIGINAL, COPY = sent("original", "call"), sent("copy", "call")
CONTRADICTION, WAITING = sent("contradiction", "call", "Failed", "conflicting_status"), sent("waiting", "another")
FACTS = Facts(
    sent=[ORIGINAL, COPY, CONTRADICTION],
    invocations=[invocation(0, 10, "original"), invocation(1, 20, "copy", "contradiction")],
    interrupted=frozenset(),
    requests=[request(10.2)],
    accepted=[("call", "Success")],
    other_host_requests=[],
    ledger_faults=frozenset(),
    leaks=[],
    parked=[QueueMessage("contradiction", CONTRADICTION.text, "conflicting_status")],
    dead_lettered=[],
    queued=[],
    log=[{"message": "result.delivered", "outcome": DELIVERED, "uuid": "call", "status": "Success"}],
    raw_log=[],
    credentials=frozenset({KEY}),
)


def more(**added: Any) -> Change:
    """Add a value to each of these collections."""
    return lambda facts: replace(
        facts, **{name: type(old := getattr(facts, name))([*old, one]) for name, one in added.items()}
    )


AGAIN = more(requests=request(20.5))
BOTH = more(accepted=("call", "Failed"), requests=request(20.5, "Failed"))
LEDGER_FAILED = {"message": "ledger.failed", "environment": 0}


@pytest.mark.parametrize(
    ("promise", "breaks", "excuses", "does_not_excuse"),
    [
        (LOST, more(sent=WAITING), more(queued=QueueMessage("waiting", WAITING.text)), None),
        (ONCE, AGAIN, more(ledger_faults=(0, 1)), more(ledger_faults=(0, 2))),
        (ONCE, AGAIN, more(ledger_faults=(0, 0)), more(ledger_faults=(1, 0))),
        (ONCE, AGAIN, more(log=LEDGER_FAILED | {"invocation": 1}), more(log=LEDGER_FAILED | {"invocation": 2})),
        (
            ONCE,
            more(requests=request(11.2)),
            more(invocations=invocation(0, 10.5, "original", environment=1)),
            more(invocations=invocation(0, 11.1, "original", environment=1)),
        ),
        (
            CONTRADICTIONS,
            BOTH,
            more(log={"message": "ledger.conflict", "uuid": "call"}),
            more(log={"message": "ledger.conflict", "uuid": "another"}),
        ),
        (CONTRADICTIONS, BOTH, more(ledger_faults=(0, 1)), more(ledger_faults=(0, 2))),
        *(
            (
                promise,
                more(invocations=invocation(2, 30, error=error)),
                more(interrupted=(0, 2)),
                more(interrupted=(0, 1)),
            )
            for promise, error in ((CLOCK, "Task timed out after 21.00 seconds"), (OBSERVED, "OSError: no space left"))
        ),
    ],
)
def test_a_fault_excuses_only_what_follows_from_it(
    promise: str, breaks: Change, excuses: Change, does_not_excuse: Change | None
) -> None:
    """A soak would pass a relay that breaks a promise, or fail one for what it never promised to prevent."""

    def broken(facts: Facts) -> list[str]:
        return [one.name for one in check(facts) if one.broken]

    facts = breaks(FACTS)
    assert broken(facts) == [promise]
    assert broken(excuses(facts)) == []
    assert broken((does_not_excuse or more())(facts)) == [promise]


def test_the_report_names_every_problem() -> None:
    """A soak that tested less than it should would pass."""
    facts = replace(FACTS, log=[], raw_log=[KEY])
    report = SoakReport(facts, check(facts), {"seen": 1, "unseen": 0}, settled=False, seconds=1)
    assert [*report.problems()] == [
        f"never checked: {CONFIRMED}",
        f"broken: {CREDENTIALS}: a credential is in the log",
        "never occurred: unseen",
        "not everything was settled within the limit",
    ]
