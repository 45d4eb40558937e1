"""Outcomes into SQS: hide, park, and tell which messages must stay."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flash_call_relay.budget import LAST_CALL_S
from flash_call_relay.models import Deferred, Parked, Record, Settled, error_code

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# SQS's limits
MAX_ENTRIES = 10
MAX_BATCH_BYTES = 1024 * 1024
MAX_DELAY_S = 900

Entries = Mapping[str, dict[str, Any]]  # what SQS is asked, by the id of the message it is about


class Queues:
    """The result queue and the parked queue."""

    def __init__(self, sqs: "SQSClient", result_queue_url: str, parked_queue_url: str) -> None:
        self._sqs, self._result_queue_url, self._parked_queue_url = sqs, result_queue_url, parked_queue_url

    def settle(self, settled: Sequence[Settled], failures: dict[str, str], *, deadline: float) -> list[str]:
        """Park what is parked; hide what is deferred, or put it on the result queue if it is on none.

        Args:
            settled: what became of records.
            failures: takes what SQS did not do, by message id.
            deadline: the function's end, in seconds of the monotonic clock; no call starts that may outlast it.

        Returns:
            The ids of the messages that must stay on the queue.
        """
        parks, hides, sends = {}, {}, {}
        kept = []
        for record, outcome in ((s.record, s.outcome) for s in settled):
            if isinstance(outcome, Parked):
                attributes = _attributes(record, outcome)
                parks[record.message_id] = {"MessageBody": record.body, "MessageAttributes": attributes}
            elif isinstance(outcome, Deferred) and record.receipt_handle is None:
                delay_s = min(outcome.retry_in_s or 0, MAX_DELAY_S)
                sends[record.message_id] = {"MessageBody": record.body, "DelaySeconds": delay_s}
            elif isinstance(outcome, Deferred):
                kept.append(record.message_id)
                if (delay := outcome.retry_in_s) is not None:
                    hides[record.message_id] = {"ReceiptHandle": record.receipt_handle, "VisibilityTimeout": delay}
        send, hide = self._sqs.send_message_batch, self._sqs.change_message_visibility_batch
        unparked = _in_batches("park", send, self._parked_queue_url, parks, deadline)
        unhidden = _in_batches("hide", hide, self._result_queue_url, hides, deadline)
        unsent = _in_batches("requeue", send, self._result_queue_url, sends, deadline)
        failures |= {**unparked, **unhidden, **unsent}
        return [*kept, *unparked]


def _in_batches(
    name: str, call: Callable[..., Any], queue_url: str, entries: Entries, deadline: float
) -> dict[str, str]:
    failures: dict[str, str] = {}
    for chunk in chunks(entries):
        if time.monotonic() + LAST_CALL_S > deadline:
            failures |= dict.fromkeys(chunk, f"{name}: no time left")
            continue
        numbered = dict(zip(map(str, range(MAX_ENTRIES)), chunk, strict=False))  # entry ids → message ids
        try:
            reply = call(QueueUrl=queue_url, Entries=[{"Id": i, **entries[m]} for i, m in numbered.items()])
        except Exception as error:  # noqa: BLE001 - whatever it is, what SQS did not acknowledge must stay
            failures |= dict.fromkeys(chunk, f"{name}: {error_code(error)}")
            continue
        # What SQS doesn't name as taken is not taken, whether it names it as failed or not.
        taken = {entry["Id"] for entry in reply.get("Successful", ())}
        codes = {entry["Id"]: entry["Code"] for entry in reply.get("Failed", ())}
        failures |= {m: f"{name}: {codes.get(i, 'not acknowledged')}" for i, m in numbered.items() if i not in taken}
    return failures


def chunks(entries: Entries) -> Iterator[list[str]]:
    """Cut entries at SQS's limits for one call: 10 of them, and 1 MiB of bodies and attributes. Yields message ids."""
    chunk: list[str] = []
    size = 0
    for message_id, entry in entries.items():
        entry_size = _bytes(entry)
        if chunk and (len(chunk) == MAX_ENTRIES or size + entry_size > MAX_BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(message_id)
        size += entry_size
    if chunk:
        yield chunk


def _bytes(entry: dict[str, Any]) -> int:
    attributes: dict[str, dict[str, str]] = entry.get("MessageAttributes", {})
    texts = [entry.get("MessageBody", ""), *attributes, *(t for value in attributes.values() for t in value.values())]
    return sum(len(text.encode(errors="surrogatepass")) for text in texts)


def _attributes(record: Record, parked: Parked) -> dict[str, dict[str, str]]:
    sent_at = datetime.fromtimestamp(record.sent_at, UTC)
    values = {
        "reason": str(parked.reason),
        "detail": parked.detail,
        "http_status": parked.http_status,
        "receive_count": record.receive_count,
        "enqueued_at": sent_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "source_message_id": record.message_id,
    }
    return {
        name: {"DataType": "String" if isinstance(value, str) else "Number", "StringValue": str(value)}
        for name, value in values.items()
        if value is not None
    }
