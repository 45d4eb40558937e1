"""Keep confirmed results in DynamoDB. The relay sends a result it cannot look up."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from flash_call_relay import telemetry
from flash_call_relay.budget import LEDGER_CALL, LEDGER_S, REPORT_S, SETTLE_S, Deadline
from flash_call_relay.models import Confirmed, Delivered, FlashCallResult, Processed, Status
from flash_call_relay.text import error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# DynamoDB's limits for one call
MAX_KEYS = 100
MAX_STATEMENTS = 25

PAUSE_S = 0.05  # before the relay asks again for the part that DynamoDB left undone
KEPT_S = 30 * 86_400  # longer than a message lives: 10 days on the queue and 14 parked
LASTING = {"AccessDenied", "ResourceNotFound", "ValidationError"}  # of BatchStatementError: no other call mends these
WRITE_S = LEDGER_S + LEDGER_CALL.worst  # the longest time that writing 25 entries can take


class Ledger:
    """The confirmed results, by uuid, as one invocation reads and extends them. A failure of it costs no result.

    Without a client there is no ledger. `deadline` is the function's time-out.
    """

    def __init__(self, dynamodb: "DynamoDBClient | None", table: str, deadline: Deadline) -> None:
        self._dynamodb: Any = dynamodb
        self._table, self._deadline = table, deadline
        self._unwritten: dict[str, Status] = {}

    def look_up(self, uuids: set[str]) -> dict[str, Confirmed]:
        """Return the entries of these uuids, by uuid. No call starts later than `LEDGER_S` from now."""
        confirmed: dict[str, Confirmed] = {}
        if self._dynamodb and uuids:
            try:
                self._read(sorted(uuids), confirmed, Deadline.after(LEDGER_S))
            except Exception as error:  # noqa: BLE001 - whatever it is, the relay sends what it cannot look up
                telemetry.report("ledger.failed", detail=f"read: {error_code(error)}")
        return confirmed

    def note(self, processed: Processed) -> None:
        """Remember a confirmation. Write each 25 while attempts are under way, so that a kill loses few."""
        content = processed.record.content
        if self._dynamodb and isinstance(processed.outcome, Delivered) and isinstance(content, FlashCallResult):
            self._unwritten[content.uuid] = content.status
            if len(self._unwritten) >= MAX_STATEMENTS and self._deadline.left_s > SETTLE_S + WRITE_S:
                self._write_some()

    def close(self) -> None:
        """Write the rest."""
        while self._unwritten:
            self._write_some()

    def _write_some(self) -> None:
        results = dict(list(self._unwritten.items())[:MAX_STATEMENTS])
        try:
            self._write(results)
            self._unwritten = {uuid: status for uuid, status in self._unwritten.items() if uuid not in results}
        except Exception as error:  # noqa: BLE001 - whatever it is, the results are delivered
            telemetry.report("ledger.failed", detail=f"write: {error_code(error)}")
            self._unwritten, self._dynamodb = {}, None  # the rest would probably fail too, and take time

    def _read(self, uuids: Sequence[str], confirmed: dict[str, Confirmed], end: Deadline) -> None:
        for start in range(0, len(uuids), MAX_KEYS):
            keys = [{"uuid": {"S": uuid}} for uuid in uuids[start : start + MAX_KEYS]]
            wanted = {self._table: {"Keys": keys, "ConsistentRead": True}}
            while wanted:
                if not end.left_s:
                    raise TimeoutError
                reply = self._dynamodb.batch_get_item(RequestItems=wanted)
                for item in reply["Responses"].get(self._table, []):
                    confirmed[item["uuid"]["S"]] = Confirmed(item["status"]["S"], at=float(item["confirmed_at"]["N"]))
                if wanted := reply.get("UnprocessedKeys"):
                    _pause_or_give_up(end, {"UnprocessedKeys"})

    def _write(self, results: dict[str, Status]) -> None:
        if self._deadline.left_s < WRITE_S + REPORT_S:
            raise TimeoutError
        end, now = Deadline.after(LEDGER_S), int(time.time())
        insert, times = f'INSERT INTO "{self._table}"', f"'confirmed_at': {now}, 'expires_at': {now + KEPT_S}"
        undone = results
        while undone:
            statements = [
                {
                    "Statement": f"{insert} VALUE {{'uuid': ?, 'status': '{status}', {times}}}",
                    "Parameters": [{"S": uuid}],
                }
                for uuid, status in undone.items()
            ]
            answers = self._dynamodb.batch_execute_statement(Statements=statements)["Responses"]
            codes = {uuid: answer.get("Error", {}).get("Code") for uuid, answer in zip(undone, answers, strict=True)}
            # An INSERT never overwrites. The existing entry has the same status, or the other one.
            existing: dict[str, Confirmed] = {}
            self._read([uuid for uuid, code in codes.items() if code == "DuplicateItem"], existing, end)
            for uuid, entry in existing.items():
                if entry.status != results[uuid]:
                    telemetry.report("ledger.conflict", uuid=uuid)
            undone = {uuid: results[uuid] for uuid, code in codes.items() if code not in (None, "DuplicateItem")}
            if undone:
                _pause_or_give_up(end, {codes[uuid] for uuid in undone})


def _pause_or_give_up(end: Deadline, codes: set[str]) -> None:
    """Wait before another call; raise an error with one of the codes if that call would be in vain or too late."""
    if end.left_s <= PAUSE_S or codes & LASTING:
        raise ClientError({"Error": {"Code": min(codes & LASTING or codes)}}, "")
    time.sleep(PAUSE_S)
