"""What became of each result in a file: the facts, and what `account` says."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flash_call_relay.models import Confirmed, FlashCallResult
from ops import logs
from ops.account import Fate, judge
from ops.ledger import Ledger
from tests.support.aws import CALL, FakeStack, busy_stack, counts, line, log
from tests.support.operator import Ended, run

AT = ("1763800000", "2025-11-22T08:26:40Z")
SAME, OTHER = Confirmed("Success", float(AT[0])), Confirmed("Failed", float(AT[0]))
NOW = int(time.time())
LEFT = "not confirmed, parked or dead-lettered. The result queue, whose messages can't be read, has about"
PARKED, DEAD = ("parked", "rejected"), ("dead-lettered", "function_failed")


@pytest.mark.parametrize(
    ("entry", "held", "waits", "fate"),
    [
        (SAME, None, True, Fate("confirmed", None, "Success", AT[1])),
        (SAME, PARKED, True, Fate("confirmed", None, "Success", AT[1])),  # a copy is parked
        (OTHER, None, True, Fate("confirmed", "other_status", "Failed", AT[1])),
        (OTHER, ("parked", "conflicting_status"), True, Fate("parked", "conflicting_status", "Failed", AT[1])),
        (None, PARKED, True, Fate("parked", "rejected")),
        (None, DEAD, False, Fate("dead-lettered", "function_failed")),
        (None, None, True, Fate("waiting")),
        (None, None, False, Fate("unknown")),
    ],
)
def test_the_facts_decide(entry: Confirmed | None, held: tuple[str, str] | None, fate: Fate, *, waits: bool) -> None:
    """A manager would be told that BetaTel has a result that it does not have."""
    assert judge(FlashCallResult("a", "Success"), entry, held, waits=waits) == fate


def delivered(*uuids: str) -> dict[str, Any]:
    """Return the log's answers to a search: these results were delivered now."""
    return log(*(line(NOW, "result.delivered", uuid=uuid, status="Success") for uuid in uuids))


def account(tmp_path: Path, stack: FakeStack, *words: str) -> Ended:
    """Account for three results."""
    path = tmp_path / "sent.csv"
    path.write_text(f"uuid,status\na,Success\n{CALL},Success\nb,Success\n")
    return run(stack, "account", "--file", str(path), *words)


def test_the_numbers_come_with_what_could_not_be_seen(tmp_path: Path) -> None:
    """An operator would take a result that waits for a lost one, or one that nobody has seen for a waiting one."""
    depths = iter([counts(hidden=1), counts(visible=1), counts(visible=1, hidden=2)])
    stack = busy_stack(**delivered("a"), get_queue_attributes=lambda **_: next(depths))
    ended = account(tmp_path, stack, "--only", "waiting,parked")
    assert (ended.status, ended.err) == (1, "")
    assert ended.out.splitlines() == [
        "uuid                        status   state    reason or time",
        f"{CALL}  Success  parked   rejected",
        "b                           Success  waiting",
        "",
        "results  state      reason",
        "      1  confirmed",
        "      1  parked     rejected",
        "      1  waiting",
        "",
        "About 2 messages on the dead-letter queue could not be read: repeat the command.",
        "a-stack (eu-central-1) has no ledger: the log of the last 3 d says what is confirmed.",
        f"1 result of the file: {LEFT} 1, with 1 deferred or in progress.",
    ]


def test_more_results_than_the_queue_has_are_unknown(tmp_path: Path) -> None:
    """A lost result would be called a waiting one because another one waits."""
    stack = busy_stack(**log(), get_queue_attributes=counts(visible=1))
    ended = account(tmp_path, stack, "--json")
    assert ended.status == 1
    assert [json.loads(line)["state"] for line in ended.out.splitlines()] == ["unknown", "parked", "unknown"]
    assert f"2 results of the file: {LEFT} 1, with 0 " in ended.err


def test_all_confirmed_is_status_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script could not see that nothing is left to do, or the log would be read in part."""
    monkeypatch.setattr(logs, "MAX_LINES", 2)
    parts = iter([("a", CALL), ("b",)])
    stack = busy_stack(get_query_results=lambda **_: delivered(*next(parts))["get_query_results"])
    ended = account(tmp_path, stack)
    assert (ended.status, ended.out.splitlines()[:2]) == (0, ["results  state      reason", "      3  confirmed"])
    assert stack.aws.asked("start_query")[1]["startTime"] == NOW, "the last line's time"


def test_the_ledger_is_read_in_full() -> None:
    """Of a file of thousands, results would be called unknown because DynamoDB left them out of an answer."""
    asked = list[int]()

    def answer(RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        keys = RequestItems["table"]["Keys"]
        asked.append(len(keys))
        got, left = (keys[:60], keys[60:]) if len(keys) > 60 else (keys, [])
        items = [
            {**key, "status": {"S": "Failed"}, "confirmed_at": {"N": "1"}} for key in got if key["uuid"]["S"] != "7"
        ]
        unprocessed = {"table": {"Keys": left, "ConsistentRead": True}} if left else {}
        return {"Responses": {"table": items}, "UnprocessedKeys": unprocessed}

    ledger, seen = Ledger(FakeStack(batch_get_item=answer)), list[int]()
    ledger.table = "table"
    found = ledger.entries([str(number) for number in range(250)], seen.append)
    assert found == {str(number): Confirmed("Failed", 1.0) for number in range(250) if number != 7}
    assert (asked, seen) == ([100, 40, 100, 40, 50], [100, 200, 250])
