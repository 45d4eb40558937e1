"""Carry out outcomes in SQS: park, hide or requeue messages."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flash_call_relay.budget import LAST_CALL_S, Deadline
from flash_call_relay.models import Deferred, FlashCallResult, Parked, Processed, Record
from flash_call_relay.text import error_code, printable

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

MAX_CHANGES = 10  # in one call, by SQS
MAX_MESSAGES = 3  # in one call, which takes 1 MiB: a message has 256 KiB at most, and attributes
MAX_DELAY_S = 900  # of SQS
MAX_RESULT_BYTES = 256 * 1024  # of a message on the result queue
MAX_PARKED_BYTES = 1020 * 1024  # of a parked body; SQS's 1 MiB counts the attributes, too

Entries = Mapping[str, dict[str, Any]]  # requests to SQS, by the id of the message


class Queues:
    """The result queue and the parked queue."""

    def __init__(self, sqs: "SQSClient", result_queue_url: str, parked_queue_url: str) -> None:
        self._sqs, self._result_queue_url, self._parked_queue_url = sqs, result_queue_url, parked_queue_url

    def settle(self, processed: Sequence[Processed], *, deadline: Deadline) -> dict[str, str]:
        """Carry outcomes out: send parked records to the parked queue, hide deferred ones, requeue deferred events.

        No call starts that may outlast `deadline`, the function's time-out. Returns what SQS did not do, by message id.
        """
        parks, hides, requeues = {}, {}, {}
        for one in processed:
            record, outcome = one.record, one.outcome
            if isinstance(outcome, Parked):
                parks[record.message_id] = _parked(record, outcome)
            elif isinstance(outcome, Deferred) and record.receipt_handle is None:
                delay_s = min(outcome.retry_in_s or 0, MAX_DELAY_S)
                requeues[record.message_id] = {"MessageBody": _body(record, MAX_RESULT_BYTES), "DelaySeconds": delay_s}
            elif isinstance(outcome, Deferred) and outcome.retry_in_s is not None:
                hide = {"ReceiptHandle": record.receipt_handle, "VisibilityTimeout": outcome.retry_in_s}
                hides[record.message_id] = hide
        send, change = self._sqs.send_message_batch, self._sqs.change_message_visibility_batch
        return {
            **_in_batches("park", send, self._parked_queue_url, parks, size=MAX_MESSAGES, deadline=deadline),
            **_in_batches("hide", change, self._result_queue_url, hides, size=MAX_CHANGES, deadline=deadline),
            **_in_batches("requeue", send, self._result_queue_url, requeues, size=MAX_MESSAGES, deadline=deadline),
        }


def _in_batches(  # noqa: PLR0913
    name: str, call: Callable[..., Any], queue_url: str, entries: Entries, *, size: int, deadline: Deadline
) -> dict[str, str]:
    failures: dict[str, str] = {}
    ids = list(entries)
    for start in range(0, len(ids), size):
        message_ids = ids[start : start + size]
        if deadline.left_s < LAST_CALL_S:
            failures |= dict.fromkeys(message_ids, f"{name}: no time left")
            continue
        requests = [{"Id": str(number), **entries[message_id]} for number, message_id in enumerate(message_ids)]
        try:
            reply = call(QueueUrl=queue_url, Entries=requests)
        except Exception as error:  # noqa: BLE001 - whatever it is, a message that SQS did not acknowledge must stay
            failures |= dict.fromkeys(message_ids, f"{name}: {error_code(error)}")
            continue
        # A message counts as taken only if the reply lists it as successful.
        taken = {entry["Id"] for entry in reply.get("Successful", ())}
        codes = {entry["Id"]: entry["Code"] for entry in reply.get("Failed", ())}
        for number, message_id in enumerate(message_ids):
            if str(number) not in taken:
                failures[message_id] = f"{name}: {codes.get(str(number), 'not acknowledged')}"
    return failures


def _body(record: Record, limit: int) -> str:
    """Return the body; of one that is too large, its result, or else as much as SQS takes.

    Only an event's body can be too large. It is ASCII, so its length is that of its bytes.
    """
    result = record.content
    if isinstance(result, FlashCallResult) and len(record.body) > limit:
        return result.as_json()
    return record.body[:limit]


def _parked(record: Record, parked: Parked) -> dict[str, Any]:
    sent_at, body, cut = datetime.fromtimestamp(record.sent_at, UTC), _body(record, MAX_PARKED_BYTES), ""
    if body != record.body:
        cut = f"the body is cut, it had {len(record.body)} bytes; "
    values = {
        "reason": str(parked.reason),
        "detail": printable(cut + parked.detail),
        "http_status": parked.http_status,
        "receive_count": record.receive_count,
        "enqueued_at": sent_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "source_message_id": record.message_id,
    }
    attributes = {
        name: {"DataType": "String" if isinstance(value, str) else "Number", "StringValue": str(value)}
        for name, value in values.items()
        if value is not None
    }
    return {"MessageBody": body, "MessageAttributes": attributes}
