"""`story`: each history of a call gets the sentence that is true."""

import json
import re
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from ops import cli, story
from tests.support.aws import CALL, FakeStack, counts, line, log, received
from tests.support.operator import run, terminal

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()
EVENT = re.compile(
    r"(?P<what>\S+)(?: (?P<status>Success|Failed))?(?: (?P<reason>[a-z_]+))? (?P<minute>\d+)(?: (?P<id>\S+))?"
)
# Histories, each a line with the events of a call and their minutes after 12:00, and below them what `story` says. A
# deferral asks for a delay of 20 minutes, SQS's visibility timeout is 7 minutes, and it is 12:10.
HISTORIES = """
delivered Failed 0, ledger Failed 0
ledger Failed 0
delivered Failed 0, ledger Failed 0, duplicate Failed 1
delivered Failed 0, deduplication-off 0
    It is confirmed: BetaTel got Failed at 12:00.
duplicate Failed 1
    The ledger has no entry of it (forgotten, or never written): the relay sends its next result. BetaTel got Failed
    before 12:01.
deferred Failed timeout 0, delivered Failed 1, ledger Failed 1
    It is confirmed: BetaTel got Failed at 12:01.
deferred Success timeout 1
    Not yet: Success waits on the result queue; its next attempt is due at 12:21.
delivered Failed 0, parked Success conflicting_status 1, deferred Success timeout 2
    Not yet: Success waits on the result queue; its next attempt is due at 12:22. BetaTel got Failed at 12:00.
delivered Failed 0, deferred Success timeout 1, deduplication-off 0
    Not yet: Success waits on the result queue; its next attempt is due at 12:21. BetaTel got Failed at 12:00.
delivered Success 0, deferred Success timeout 1
    Not yet: Success waits on the result queue; its next attempt is due at 12:21. BetaTel got Success at 12:00.
delivered Failed 0, ledger Failed 0, deferred Success endpoint_failing 1
    Success waits on the result queue; its next attempt is due at 12:21: the relay then parks it (conflicting_status),
    because Failed is confirmed. BetaTel got Failed at 12:00.
delivered Success 0, ledger Success 0, deferred Success endpoint_failing 1
delivered Success 0, deferred Success timeout 1, deduplication-off 0
    It is confirmed: BetaTel got Success at 12:00.
deferred Success timeout 0 other, delivered Success 1, ledger Success 1
    It is confirmed: BetaTel got Success at 12:01.
deferred Success timeout 5, settle.failed 5 hide:
deferred Success relay_error 5
parked Success rejected 5, settle.failed 5 park:
    Not yet: Success waits on the result queue; its next attempt is due at 12:12.
deferred Success timeout 5, settle.failed 5 requeue:
    Not yet: Success waits on the result queue; Lambda tries the event again.
deferred Success timeout 1, settle.failed 1 hide:, deferred Success timeout 8
    Not yet: Success waits on the result queue; its next attempt is due at 12:28.
deferred Success timeout 1, settle.failed 1 hide:
    Not yet: Success waits on the result queue; its next attempt was due at 12:08 (run `doctor`).
parked Success rejected 1, parked-queue Success rejected 1
    It needs a person: the parked queue holds Success (rejected). #parked-queue-not-empty says what to do.
delivered Failed 0, ledger Failed 0, parked Success conflicting_status 1, parked-queue Success conflicting_status 1
    It needs a person: the parked queue holds Success (conflicting_status). #parked-queue-not-empty says what to do.
    BetaTel got Failed at 12:00.
deferred Success relay_error 1, dead-letter-queue Success 0
    It needs a person: the dead-letter queue holds Success (receives_exhausted). #dead-letter-queue-not-empty says what
    to do.
parked Success rejected 1, parked-queue Success rejected 1, deferred Failed timeout 2
    It needs a person: the parked queue holds Success (rejected). #parked-queue-not-empty says what to do. Not yet:
    Failed waits on the result queue; its next attempt is due at 12:22.
parked Success rejected 1, parked-queue Success rejected 1, deferred Success timeout 2
    It needs a person: the parked queue holds Success (rejected). #parked-queue-not-empty says what to do. Not yet:
    Success waits on the result queue; its next attempt is due at 12:22.
parked Success rejected 1
    Success was parked at 12:01 (rejected) and is on neither queue: it was discarded, or replayed and waits.
parked Success rejected 1, deferred Success timeout 2
    Not yet: Success waits on the result queue; its next attempt is due at 12:22.
parked Success rejected 1, delivered Success 2, ledger Success 2
    It is confirmed: BetaTel got Success at 12:02.
delivered Failed 0, ledger Failed 0, parked Success conflicting_status 1
    Success was parked at 12:01 (conflicting_status) and is on neither queue: it was discarded, or replayed and waits.
    BetaTel got Failed at 12:00.
delivered Failed 0, parked Success conflicting_status 0, delivered Success 1, ledger Success 1
    It is confirmed: BetaTel got Failed at 12:00, then Success at 12:01; its last word is Success.
delivered Failed 0
    The ledger has no entry of it (forgotten, or never written): the relay sends its next result. BetaTel got Failed at
    12:00.
delivered Success 0, deferred Success timeout 1, delivered Success 2, ledger Success 2
    It is confirmed: BetaTel got Success at 12:00, then Success at 12:02; its last word is Success.
ledger Success 8, delivered Success 0
    It is confirmed: BetaTel got Success at 12:00, then Success at 12:08; its last word is Success.
delivered Failed 0, delivered Success 1, ledger.conflict 1, ledger Failed 0
delivered Failed 0, delivered Success 1, ledger.conflict 1, ledger Failed 0, duplicate Failed 2
delivered Failed 0, delivered Success 1, ledger Failed 0
    It needs a person: both statuses were confirmed, and the ledger has Failed: #both-statuses-confirmed. BetaTel got
    Failed at 12:00, then Success at 12:01; its last word is Success.
delivered Failed 0, delivered Success 1, ledger.conflict 1, ledger Success 1
    It needs a person: both statuses were confirmed, and the ledger has Success: #both-statuses-confirmed. BetaTel got
    Failed at 12:00, then Success at 12:01; its last word is Success.
delivered Failed 0, delivered Success 1, ledger.conflict 1
    It needs a person: both statuses were confirmed, and the ledger has no entry: #both-statuses-confirmed. BetaTel got
    Failed at 12:00, then Success at 12:01; its last word is Success.
delivered Failed 0, delivered Success 1, ledger.conflict 1, deferred Success timeout 2
    Not yet: Success waits on the result queue; its next attempt is due at 12:22. BetaTel got Failed at 12:00, then
    Success at 12:01; its last word is Success.
delivered Success 0, delivered Failed 1, ledger.conflict 1, delivered Success 2, ledger Success 2
    It is confirmed: BetaTel got Success at 12:00, then Failed at 12:01, then Success at 12:02; its last word is
    Success.
attempt.ended 0
    It was received, and its outcome is not in the log yet.
"""
PAIRS = [
    (history, " ".join(says.split()))
    for histories, says in re.findall(r"((?:^\S.*\n)+)((?:^ .*\n)+)", HISTORIES, re.MULTILINE)
    for history in histories.splitlines()
]


@pytest.fixture(autouse=True)
def _ten_past_twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "time", SimpleNamespace(time=lambda: NOON + 600))
    monkeypatch.setattr(story, "VISIBILITY_S", 420)


def stack_of(history: str, *more: dict[str, Any]) -> FakeStack:
    """Return a stack with the events of a history, and with further log lines."""
    lines, item, queues, ledger = list(more), None, {}, True
    for event in map(EVENT.fullmatch, history.split(", ")):
        assert event
        what, status, reason, minute, extra = event.groups()
        at = NOON + 60 * int(minute)
        if what == "ledger":
            item = {"uuid": {"S": CALL}, "status": {"S": status}, "confirmed_at": {"N": str(int(at))}}
        elif what == "deduplication-off":
            ledger = False
        elif what.endswith("-queue"):
            body, attributes = json.dumps({"uuid": CALL, "status": status}), {"reason": reason} if reason else {}
            url = "ParkedQueueUrl" if what == "parked-queue" else "DeadLetterQueueUrl"
            queues[url] = received(body, attributes, at)
        elif what == "settle.failed":
            lines.append(line(at, what, message_id="message", detail=f"{extra} AccessDenied"))
        elif what in ("ledger.conflict", "attempt.ended"):
            lines.append(line(at, what, uuid=CALL))
        else:
            facts = {"reason": reason, "retry_in_s": 1200 if what == "deferred" and reason != "relay_error" else None}
            facts = {name: value for name, value in facts.items() if value is not None}
            where = {"uuid": CALL, "status": status, "outcome": what, "message_id": extra or "message"}
            lines.append(line(at, f"result.{what}", **where, **facts))
    stack = FakeStack(
        **log(*lines),
        batch_get_item={"Responses": {"ledger": [item] if item else []}},
        receive_message=lambda QueueUrl, **_: {"Messages": [queues[QueueUrl]] if QueueUrl in queues else []},  # noqa: N803
        get_queue_attributes=counts(),
    )
    if ledger:
        stack.outputs["LedgerTableName"] = "ledger"
    return stack


@pytest.mark.parametrize(("history", "says"), PAIRS, ids=[history for history, _ in PAIRS])
def test_the_last_line_is_true(history: str, says: str) -> None:
    """A manager would be told that a result is confirmed, or lost, while it is not."""
    told = run(stack_of(history), "story", CALL)
    assert (told.status, told.err) == (0, "")
    answer, *commands = told.out.rpartition("\n\n")[2].splitlines()
    groups = [
        group for group in ("parked", "dead") if f"{group}-queue " in history or f"{group}-letter-queue " in history
    ]
    assert commands == [f"-> flash-call-relay --stack a-stack {group} list --uuid {CALL}" for group in groups]
    assert re.sub(r"2026-11-24T(\d\d:\d\d):00Z|docs/runbook.md(?=#)", r"\1", answer) == says


def test_equal_deferrals_are_one_row_of_a_table_for_80_columns() -> None:
    """An outage of hours would push the story off the screen, or break its words."""
    facts = {"uuid": CALL, "status": "Success", "outcome": "deferred", "message_id": "m", "http_status": 503}
    facts |= {"reason": "endpoint_error", "detail": "HTTP 503 Service Unavailable", "retry_in_s": 60}
    deferrals = [line(NOON + 60 * n, "result.deferred", **facts, receive_count=n + 1) for n in range(8)]
    stack = stack_of("delivered Success 9, ledger Success 9", *deferrals)
    first, *rows = run(stack, "story", CALL).out.splitlines()
    assert first == "when                  where   what"
    assert rows[0] == (
        "2026-11-24T12:07:00Z  log     deferred Success: endpoint_error, HTTP 503 Service Unavailable, receive 8; "
        "8 times since 2026-11-24T12:00:00Z"
    )
    assert [row.split()[2] for row in rows[1:3]] == ["delivered", "confirmed"]
    assert len(run(stack, "story", CALL, "--json").out.splitlines()) == 10
    with terminal("stdout", stack) as screen:
        assert cli.main(["story", CALL]) == 0
        lines = screen.lines
    assert max(map(len, lines)) <= 80
    assert "Service Unavailable, receive 8" in " ".join(" ".join(lines).split())


def test_an_unknown_story_has_status_1_and_no_json() -> None:
    """A script would take an unknown result for a known one, or the search would not go back as far as asked."""
    stack = FakeStack(**log(), receive_message={})
    plain, as_json = run(stack, "story", "unknown", "--days", "10"), run(stack, "story", "unknown", "--json")
    assert (plain.status, plain.err, as_json.status, as_json.out) == (1, "", 1, "")
    days = [(NOON + 600 - query["startTime"]) / 86_400 for query in stack.aws.asked("start_query")]
    assert days == [10, 3]
    for said in (plain.out, as_json.err):
        assert said.startswith("Nothing is known of unknown in a-stack (eu-central-1) since ")
