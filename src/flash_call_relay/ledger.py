"""Keep confirmed results in DynamoDB. The relay sends a result it cannot look up."""

import time
from collections.abc import Mapping, Sequence
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


class Ledger:
    """The confirmed results, by uuid.

    A thread of its own asks DynamoDB, so an invocation can stop waiting for it at any time.
    """

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb, self._table = dynamodb, table
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    def connect(self) -> None:
        """Open the connection to DynamoDB with a look-up. Raises botocore's errors."""
        self.read(["-"], {}).result()

    def read(self, uuids: Sequence[str], confirmed: dict[str, Confirmed]) -> Future[None]:
        """Begin to look uuids up. The entries go to `confirmed`, by uuid, as they are read."""
        return self._thread.submit(self._read, uuids, confirmed)

    def write(self, results: dict[str, Status], at: float) -> Future[list[str]]:
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
        existing: dict[str, Confirmed] = {}
        undone = results
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
            # An INSERT never overwrites. The existing entry has the same status, or the other one.
            self._read([uuid for uuid, code in codes.items() if code == "DuplicateItem"], existing)
            undone = {uuid: results[uuid] for uuid, code in codes.items() if code not in (None, "DuplicateItem")}
            _pause_before(undone, deadline)
        return [uuid for uuid, entry in existing.items() if entry.status != results[uuid]]


class Confirmations:
    """The confirmed results that one invocation looks up and adds; without a ledger there are none.

    Attributes:
        faults: what went wrong, a sentence each.
        clashes: uuids that this invocation confirmed with one status while another one confirmed the other.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self.faults: list[str] = []
        self.clashes: list[str] = []
        self._ledger = ledger
        self._unwritten: dict[str, Status] = {}
        self._writes: list[Future[list[str]]] = []

    def __enter__(self) -> Self:
        """Return the confirmations themselves."""
        return self

    def look_up(self, uuids: set[str]) -> Mapping[str, Confirmed]:
        """Return the ledger's entries of these uuids, by uuid. Waits for a second at most."""
        if not self._ledger or not uuids:
            return {}
        confirmed: dict[str, Confirmed] = {}
        self._wait_for("read", self._ledger.read(sorted(uuids), confirmed), Deadline.after(LEDGER_S))
        return dict(confirmed)  # a copy, because a read that outlasts the second still adds to `confirmed`

    def note(self, processed: Sequence[Processed]) -> None:
        """Take the confirmations among outcomes. Each 25 are written immediately, so that a kill loses few."""
        if not self._ledger:
            return
        for one in processed:
            if isinstance(one.outcome, Delivered) and isinstance(one.record.content, FlashCallResult):
                self._unwritten[one.record.content.uuid] = one.record.content.status
                if len(self._unwritten) == MAX_STATEMENTS:
                    self._write(self._ledger)

    def __exit__(self, *_exception: object) -> None:
        """Write the rest, after an exception, too. Waits for all writes, for a second at most."""
        if self._ledger and self._unwritten:
            self._write(self._ledger)
        deadline = Deadline.after(LEDGER_S)
        for write in self._writes:
            if self._wait_for("write", write, deadline):
                self.clashes += write.result()

    def _write(self, ledger: Ledger) -> None:
        self._writes.append(ledger.write(self._unwritten, at=time.time()))
        self._unwritten = {}

    def _wait_for(self, what: str, call: Future[Any], deadline: Deadline) -> bool:
        try:
            error = call.exception(timeout=deadline.left_s)
        except TimeoutError as late:
            error = late
        if error:
            self.faults.append(f"{what}: {error_code(error)}")
        return error is None


def _pause_before(undone: object, deadline: Deadline) -> None:
    if undone:
        if deadline.left_s < PAUSE_S:
            raise TimeoutError
        time.sleep(PAUSE_S)
