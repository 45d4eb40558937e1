"""Keep confirmed results in DynamoDB. The relay sends a result it cannot look up."""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from flash_call_relay.budget import LEDGER_S, Deadline
from flash_call_relay.models import Confirmed, Delivered, FlashCallResult, Processed, Status, error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# DynamoDB's limits for one call
MAX_KEYS = 100
MAX_STATEMENTS = 25

PAUSE_S = 0.05  # before the relay asks again for the part that DynamoDB left undone
KEPT_S = 30 * 86_400  # longer than a message lives: 10 days on the queue and 14 parked


class Page:
    """One invocation's view of the ledger. This base class stands for a ledger that is off: it knows and keeps nothing.

    Attributes:
        confirmed: entries made before this invocation, by uuid.
        faults: what went wrong, a sentence each.
        clashes: uuids that this invocation confirmed with one status while another one confirmed the other.
    """

    def __init__(self, confirmed: Mapping[str, Confirmed] | None = None) -> None:
        self.confirmed = confirmed or {}
        self.faults: list[str] = []
        self.clashes: list[str] = []

    def __enter__(self) -> Self:
        """Return the page itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Wait for the writes; this class has none."""

    def note(self, processed: Sequence[Processed]) -> None:
        """Take the confirmations among outcomes."""


class NoLedger:
    """Stands in for the ledger where deduplication is off."""

    def open(self, _uuids: Collection[str]) -> Page:
        """Return a page that knows nothing."""
        return Page()

    def connect(self) -> None:
        """Do nothing: there is no table."""


class Ledger:
    """The confirmed results, by uuid.

    A thread of its own asks DynamoDB, so an invocation can stop waiting for it at any time.
    """

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb, self._table = dynamodb, table
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    def open(self, uuids: Collection[str]) -> Page:
        """Look up which of these uuids are confirmed. Waits for a second at most."""
        if not uuids:
            return _LedgerPage(self, {})
        confirmed: dict[str, Confirmed] = {}
        reading = self._thread.submit(self._read, sorted(set(uuids)), confirmed)
        fault = _fault("read", reading, Deadline.after(LEDGER_S))
        page = _LedgerPage(self, dict(confirmed))
        if fault:
            page.faults.append(fault)
        return page

    def connect(self) -> None:
        """Open the connection to DynamoDB with a look-up. Raises botocore's errors."""
        self._thread.submit(self._read, ["-"], {}).result()

    def write(self, results: dict[str, Status], at: float) -> "Future[list[str]]":
        """Begin to write up to 25 confirmations.

        Args:
            results: the confirmed statuses by uuid.
            at: when they were confirmed, in seconds since the epoch.

        Returns:
            A future: the uuids whose entry already has the other status.
        """
        return self._thread.submit(self._write, results, at)

    def _read(self, uuids: Sequence[str], confirmed: dict[str, Confirmed]) -> None:
        deadline = Deadline.after(LEDGER_S)  # checked between calls; the invocation does not wait for a longer call
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
        deadline = Deadline.after(LEDGER_S)
        # Only the uuid is a parameter: botocore takes microseconds for each.
        insert, times = f'INSERT INTO "{self._table}"', f"'confirmed_at': {int(at)}, 'expires_at': {int(at + KEPT_S)}"
        undone, there = results, dict[str, Confirmed]()
        while undone:
            statements: Any = [
                {
                    "Statement": f"{insert} VALUE {{'uuid': ?, 'status': '{status}', {times}}}",
                    "Parameters": [{"S": uuid}],
                }
                for uuid, status in undone.items()
            ]
            answers = self._dynamodb.batch_execute_statement(Statements=statements)["Responses"]
            codes = {uuid: answer.get("Error", {}).get("Code") for uuid, answer in zip(undone, answers, strict=True)}
            # An INSERT never overwrites. An entry that is there already has the same status, or the other one.
            self._read([uuid for uuid, code in codes.items() if code == "DuplicateItem"], there)
            undone = {uuid: results[uuid] for uuid, code in codes.items() if code not in (None, "DuplicateItem")}
            _pause_before(undone, deadline)
        return [uuid for uuid, entry in there.items() if entry.status != results[uuid]]


class _LedgerPage(Page):
    def __init__(self, ledger: Ledger, confirmed: Mapping[str, Confirmed]) -> None:
        super().__init__(confirmed)
        self._ledger = ledger
        self._unwritten: dict[str, Status] = {}
        self._writes: list[Future[list[str]]] = []

    def note(self, processed: Sequence[Processed]) -> None:
        """Take the confirmations. Each 25 are written immediately, so that a kill loses few."""
        for one in processed:
            if isinstance(one.outcome, Delivered) and isinstance(one.record.content, FlashCallResult):
                self._unwritten[one.record.content.uuid] = one.record.content.status
                if len(self._unwritten) == MAX_STATEMENTS:
                    self._write()

    def __exit__(self, *_exception: object) -> None:
        """Write the rest, after an exception, too. Waits for all writes, for a second at most."""
        if self._unwritten:
            self._write()
        deadline = Deadline.after(LEDGER_S)
        for write in self._writes:
            if fault := _fault("write", write, deadline):
                self.faults.append(fault)
            else:
                self.clashes += write.result()

    def _write(self) -> None:
        self._writes.append(self._ledger.write(self._unwritten, at=time.time()))
        self._unwritten = {}


def _fault(what: str, call: "Future[Any]", deadline: Deadline) -> str | None:
    """Wait for a call until the deadline. Return why it failed, None if it did not."""
    try:
        error = call.exception(timeout=deadline.left_s)
    except TimeoutError as late:
        error = late
    return f"{what}: {error_code(error)}" if error else None


def _pause_before(undone: object, deadline: Deadline) -> None:
    if undone:
        if deadline.left_s < PAUSE_S:
            raise TimeoutError
        time.sleep(PAUSE_S)
