"""Carry out outcomes in SQS: park, hide or requeue messages, and report those that must stay on the queue."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flash_call_relay.budget import LAST_CALL_S, Deadline
from flash_call_relay.models import Deferred, Parked, Processed, Record, error_code

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# SQS's limits
MAX_ENTRIES = 10
MAX_BATCH_BYTES = 1024 * 1024
MAX_DELAY_S = 900

Entries = Mapping[str, dict[str, Any]]  # requests to SQS, by the id of the message


@dataclass(frozen=True, slots=True)
class Settlement:
    """How SQS took the outcomes.

    Attributes:
        kept: ids of the messages that must stay on the result queue.
        failures: what SQS did not do, by message id.
    """

    kept: tuple[str, ...]
    failures: Mapping[str, str]


class Queues:
    """The result queue and the parked queue."""

    def __init__(self, sqs: "SQSClient", result_queue_url: str, parked_queue_url: str) -> None:
        self._sqs, self._result_queue_url, self._parked_queue_url = sqs, result_queue_url, parked_queue_url

    def connect(self) -> None:
        """Open a connection to SQS with a cheap request. Raises botocore's errors."""
        self._sqs.get_queue_attributes(QueueUrl=self._result_queue_url, AttributeNames=["QueueArn"])

    def settle(self, processed: Sequence[Processed], *, deadline: Deadline) -> Settlement:
        """Carry outcomes out: send parked records to the parked queue, hide deferred ones, requeue deferred events.

        Args:
            processed: records with their outcomes.
            deadline: the function's time-out. No call starts that may outlast it.
        """
        parks, hides, requeues = {}, {}, {}
        kept = []
        for one in processed:
            record, outcome = one.record, one.outcome
            if isinstance(outcome, Parked):
                attributes = _attributes(record, outcome)
                parks[record.message_id] = {"MessageBody": record.body, "MessageAttributes": attributes}
            elif isinstance(outcome, Deferred) and record.receipt_handle is None:
                delay_s = min(outcome.retry_in_s or 0, MAX_DELAY_S)
                requeues[record.message_id] = {"MessageBody": record.body, "DelaySeconds": delay_s}
            elif isinstance(outcome, Deferred):
                kept.append(record.message_id)
                if outcome.retry_in_s is not None:
                    hide = {"ReceiptHandle": record.receipt_handle, "VisibilityTimeout": outcome.retry_in_s}
                    hides[record.message_id] = hide
        send, change = self._sqs.send_message_batch, self._sqs.change_message_visibility_batch
        unparked = _in_batches("park", send, self._parked_queue_url, parks, deadline)
        unhidden = _in_batches("hide", change, self._result_queue_url, hides, deadline)
        unqueued = _in_batches("requeue", send, self._result_queue_url, requeues, deadline)
        return Settlement((*kept, *unparked), {**unparked, **unhidden, **unqueued})


def _in_batches(
    name: str, call: Callable[..., Any], queue_url: str, entries: Entries, deadline: Deadline
) -> dict[str, str]:
    failures: dict[str, str] = {}
    for message_ids in chunks(entries):
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


def chunks(entries: Entries) -> Iterator[list[str]]:
    """Yield message ids in groups that SQS takes in one call: 10 entries, and 1 MiB of bodies and attributes."""
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
    texts = [entry.get("MessageBody", "")]
    for name, attribute in entry.get("MessageAttributes", {}).items():
        texts += [name, *attribute.values()]
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
