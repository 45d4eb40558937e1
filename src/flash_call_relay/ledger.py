"""DynamoDB: which results are confirmed. It can only ever spare a POST: what it can't tell is sent."""

import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from flash_call_relay.budget import LEDGER_S
from flash_call_relay.models import Confirmed, Delivered, FlashCallResult, Settled, Status, error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# DynamoDB's limits for one call
MAX_KEYS = 100
MAX_STATEMENTS = 25

PAUSE_S = 0.05  # before what DynamoDB has left undone is tried again
KEPT_S = 30 * 86_400  # longer than a message lives: 10 days on the queue and 14 parked


class Ledger:
    """The confirmed results, by uuid.

    DynamoDB is asked in a thread of its own: so an invocation waits for it no longer than it is willing to.
    """

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb, self._table = dynamodb, table
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    def open(self, uuids: Collection[str]) -> "Page":
        """Look up which of these uuids are confirmed, for a second at most."""
        confirmed: dict[str, Confirmed] = {}
        reading = self._thread.submit(self._read, sorted(set(uuids)), confirmed)
        done, _ = wait([reading], timeout=LEDGER_S)
        return Page(
            self, dict(confirmed), [_fault("read", reading)] if reading not in done or reading.exception() else []
        )

    def write(self, results: dict[str, Status], at: float) -> "Future[list[str]]":
        """Begin to write up to 25 confirmations down; the future tells which uuids have the other status there."""
        return self._thread.submit(self._write, results, at)

    def _read(self, uuids: Sequence[str], confirmed: dict[str, Confirmed]) -> None:
        deadline = time.monotonic() + LEDGER_S
        for start in range(0, len(uuids), MAX_KEYS):
            keys = [{"uuid": {"S": uuid}} for uuid in uuids[start : start + MAX_KEYS]]
            wanted: Any = {self._table: {"Keys": keys, "ConsistentRead": True}}
            while wanted:
                reply = self._dynamodb.batch_get_item(RequestItems=wanted)
                for item in reply["Responses"].get(self._table, []):
                    status: Any = item["status"]["S"]
                    confirmed[item["uuid"]["S"]] = Confirmed(status, at=float(item["confirmed_at"]["N"]))
                wanted = reply.get("UnprocessedKeys")
                _pause_before(wanted, deadline)

    def _write(self, results: dict[str, Status], at: float) -> list[str]:
        deadline = time.monotonic() + LEDGER_S
        insert = f"INSERT INTO \"{self._table}\" VALUE {{'uuid': ?, 'status': ?, 'confirmed_at': ?, 'expires_at': ?}}"
        times = [{"N": str(int(at))}, {"N": str(int(at + KEPT_S))}]
        undone, there = results, dict[str, Confirmed]()
        while undone:
            statements: Any = [
                {"Statement": insert, "Parameters": [{"S": uuid}, {"S": status}, *times]}
                for uuid, status in undone.items()
            ]
            answers = self._dynamodb.batch_execute_statement(Statements=statements)["Responses"]
            codes = {uuid: answer.get("Error", {}).get("Code") for uuid, answer in zip(undone, answers, strict=True)}
            # An INSERT never overwrites. What is there already says the same, or the other status.
            self._read([uuid for uuid, code in codes.items() if code == "DuplicateItem"], there)
            undone = {uuid: results[uuid] for uuid, code in codes.items() if code not in (None, "DuplicateItem")}
            _pause_before(undone, deadline)
        return [uuid for uuid, known in there.items() if known.status != results[uuid]]


class Page:
    """One invocation's view of the ledger.

    Attributes:
        confirmed: what was confirmed before, by uuid, as far as it is known.
        faults: what went wrong, a sentence each.
        clashes: uuids that were confirmed here with one status and elsewhere with the other.
    """

    def __init__(self, ledger: Ledger, confirmed: dict[str, Confirmed], faults: list[str]) -> None:
        self.confirmed, self.faults = confirmed, faults
        self.clashes: list[str] = []
        self._ledger = ledger
        self._slice: dict[str, Status] = {}
        self._writes: list[Future[list[str]]] = []

    def note(self, settled: Sequence[Settled]) -> None:
        """Take confirmations; each 25 are written down at once, so that a kill costs no more of them."""
        for one in settled:
            if isinstance(one.outcome, Delivered) and isinstance(one.record.content, FlashCallResult):
                self._slice[one.record.content.uuid] = one.record.content.status
                if len(self._slice) == MAX_STATEMENTS:
                    self._write()

    def close(self) -> None:
        """Write the rest down, and wait for all that is being written for a second at most."""
        if self._slice:
            self._write()
        done, _ = wait(self._writes, timeout=LEDGER_S)
        for write in self._writes:
            if write in done and not write.exception():
                self.clashes += write.result()
            else:
                self.faults.append(_fault("write", write))

    def _write(self) -> None:
        self._writes.append(self._ledger.write(self._slice, at=time.time()))
        self._slice = {}


def _fault(what: str, call: "Future[Any]") -> str:
    return f"{what}: {error_code(call.exception() if call.done() else TimeoutError())}"


def _pause_before(undone: object, deadline: float) -> None:
    if undone:
        if time.monotonic() + PAUSE_S > deadline:
            raise TimeoutError
        time.sleep(PAUSE_S)
