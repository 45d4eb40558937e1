"""The ledger: the relay sends no confirmed result again, and a failing ledger costs no result."""

from typing import Any

import pytest

from flash_call_relay import ledger as ledgers
from flash_call_relay.budget import Deadline
from flash_call_relay.ledger import Ledger
from flash_call_relay.models import Delivered, FlashCallResult, Processed, Record, Status
from flash_call_relay.queues import Queues
from local.endpoint.behaviour import error
from tests.support.payloads import result
from tests.support.relay import InProcessRelay, failing_service

THROTTLED = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"


def test_a_confirmed_result_is_not_sent_again_and_its_contradiction_is_parked(relay: InProcessRelay) -> None:
    """BetaTel would get a result as often as the producer repeats it, or two verdicts on one call."""
    relay.add_ledger()
    relay.endpoint.issue("call")
    relay.endpoint.misbehave("call", error(400))
    assert relay.invoke_with(relay.send(result("call"))) == []
    assert relay.ledger_entries() == {}, "only a confirmation suppresses a result"
    for _ in range(2):
        assert relay.invoke_with(relay.send(result("call"))) == []
    event = {"id": "event", "detail-type": "Flash Call Result", "detail": result("call")}
    assert relay.invoke(event) == []
    assert relay.invoke_with(relay.send(result("call", "Failed"))) == []
    assert relay.endpoint.accepted == [("call", "Success")]
    assert relay.outcomes() == [
        *(("parked", "rejected"), ("delivered", None), ("duplicate", None), ("duplicate", None)),
        ("parked", "conflicting_status"),
    ]


def test_an_exception_in_an_invocation_still_writes_the_confirmations(
    relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bug in the relay, BetaTel would get up to 24 confirmed results again."""
    relay.add_ledger()
    relay.endpoint.issue("call")
    monkeypatch.setattr(Queues, "settle", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        relay.invoke_with(relay.send(result("call")))
    assert relay.ledger_entries()["call"]["status"] == "Success"


def test_a_batch_of_120_costs_two_reads_and_five_writes(relay: InProcessRelay) -> None:
    """The ledger would cost more than the function."""
    relay.add_ledger()
    calls = relay.issue_calls(120)
    records = relay.send(*map(result, calls), "no result")
    assert relay.invoke_with(records) == []
    assert len(relay.calls_of("BatchGetItem")) == 2
    assert len(relay.calls_of("BatchExecuteStatement")) == 5
    assert relay.invoke_with(records) == []
    assert len(relay.endpoint.requests) == 120
    assert len(relay.calls_of("BatchExecuteStatement")) == 5
    remembered = relay.ledger_entries()
    assert remembered.keys() == set(calls)
    for item in remembered.values():
        assert item.keys() == {"uuid", "status", "confirmed_at", "expires_at"}
        assert int(item["expires_at"]) - int(item["confirmed_at"]) == 30 * 86_400


@pytest.mark.parametrize("failure", ["throttled", "unreachable", "silent"])
def test_results_are_delivered_while_the_ledger_fails(relay: InProcessRelay, failure: str) -> None:
    """An outage of DynamoDB would stop all deliveries, or lose results."""
    relay.keep_real_limits("LEDGER_CALL", "LEDGER_S")
    relay.endpoint.issue("call", "other")
    with failing_service(failure, THROTTLED) as url:
        relay.configure(LEDGER_TABLE_NAME="no-such-table", AWS_ENDPOINT_URL_DYNAMODB=url)
        assert relay.invoke_with(relay.send(result("call"), result("call"), result("other", "Failed"))) == []
    assert sorted(relay.endpoint.accepted) == [("call", "Success"), ("other", "Failed")]
    assert sorted(relay.outcomes(), key=str) == [("delivered", None), ("delivered", None), ("duplicate", None)]
    assert [line["detail"].split(":")[0] for line in relay.lines("ledger.failed")] == ["read", "write"]
    assert relay.counted("LedgerErrors") == [1], "one for the invocation, however many calls failed"


def write(ledger: Ledger, results: dict[str, Status]) -> None:
    """Write confirmations at the end of an invocation."""
    for uuid, status in results.items():
        record = Record(uuid, "handle", "body", 0.0, 1, FlashCallResult(uuid, status))
        ledger.note(Processed(record, Delivered(200), 0.0))
    ledger.close()


class OverloadedDynamoDB:
    """DynamoDB under load: it does the first part of each call. The emulator never leaves one undone."""

    def __init__(self, dynamodb: Any, code: str) -> None:
        self._dynamodb, self._code, self.writes = dynamodb, code, 0

    def batch_get_item(self, RequestItems: dict[str, Any]) -> Any:  # noqa: N803 - DynamoDB's
        """Read one key, and return the others as unprocessed."""
        ((table, wanted),) = RequestItems.items()
        first, others = wanted["Keys"][:1], wanted["Keys"][1:]
        reply = self._dynamodb.batch_get_item(RequestItems={table: {**wanted, "Keys": first}})
        return {**reply, "UnprocessedKeys": {table: {**wanted, "Keys": others}} if others else {}}

    def batch_execute_statement(self, Statements: list[Any]) -> Any:  # noqa: N803 - DynamoDB's
        """Run one statement, and refuse the others with the code."""
        self.writes += 1
        reply = self._dynamodb.batch_execute_statement(Statements=Statements[:1])
        return {"Responses": [*reply["Responses"], *[{"Error": {"Code": self._code}}] * len(Statements[1:])]}


def test_what_dynamodb_leaves_undone_is_requested_again(
    relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch, reported: list[str]
) -> None:
    """Under load the ledger would lose confirmations, or not find them."""
    monkeypatch.setattr(ledgers, "PAUSE_S", 0.001)
    relay.add_ledger()
    dynamodb: Any = OverloadedDynamoDB(relay.dynamodb, "ThrottlingError")
    ledger, calls = Ledger(dynamodb, relay.name, Deadline.after(60)), [f"call-{number}" for number in range(5)]
    write(ledger, dict.fromkeys(calls, "Failed"))
    assert (reported, dynamodb.writes) == ([], 5)
    assert ledger.look_up(set(calls)).keys() == set(calls)


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("AccessDenied", ["write: AccessDenied"]),  # DynamoDB may answer so for single statements; reads fail whole
        ("ThrottlingError", ["read: UnprocessedKeys", "write: ThrottlingError"]),
    ],
    ids=["a permission is missing", "throttled for more than a second"],
)
def test_a_ledger_that_does_not_recover_is_given_up(
    relay: InProcessRelay, reported: list[str], code: str, faults: list[str]
) -> None:
    """Each invocation would wait for a missing permission, or for a throttled table until Lambda kills it."""
    relay.keep_real_limits("LEDGER_S")
    relay.add_ledger()
    dynamodb: Any = OverloadedDynamoDB(relay.dynamodb, code)
    ledger, calls = Ledger(dynamodb, relay.name, Deadline.after(60)), [f"call-{number}" for number in range(60)]
    if code == "ThrottlingError":
        ledger.look_up(set(calls))
    write(ledger, dict.fromkeys(calls, "Failed"))
    assert reported == [f"ledger.failed {fault}" for fault in faults]
    assert (dynamodb.writes == 1) == (code == "AccessDenied")


def test_a_ledger_is_not_written_when_the_time_is_nearly_over(relay: InProcessRelay, reported: list[str]) -> None:
    """Lambda would kill the function, and the whole batch would come back, although all of it was settled."""
    relay.add_ledger()
    ledger = Ledger(relay.dynamodb, relay.name, Deadline.after(5))
    write(ledger, {"late": "Success"})
    assert reported == ["ledger.failed write: TimeoutError"]
    assert relay.ledger_entries() == {}
