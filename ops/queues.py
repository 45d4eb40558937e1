"""SQS queues: count, look at, take and send messages. `PARKED` and `DEAD` are the queues that need a person."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click
from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay.models import Reason
from ops.errors import CommandError
from ops.messages import DeadReason, Filter, Message, Selection
from ops.output import count, progress
from ops.stack import Stack

HOLD_S = 300  # default visibility timeout of a receive
WORKERS = 4
LONG_POLL_S = 1  # a short poll may miss messages
POLL_S = 0.1
PATIENCE_S = 10  # for selected messages that SQS does not return: another receiver may hold them
NEARLY_ALL_IN_FLIGHT = 100_000  # SQS allows about 120,000 messages in flight
SEND_ATTEMPTS = 3
SEND_PAUSE_S = 0.5  # before the command repeats a body that SQS did not take
REFUSALS_SHOWN = 10
# SQS's limits for one call
MAX_ENTRIES = 10
MAX_BATCH_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Depth:
    """The numbers that SQS reports for a queue. It calls the counts approximate."""

    visible: int  # messages that SQS would return now
    hidden: int  # in flight
    delayed: int  # their delay is not over
    retention_s: int  # how long the queue keeps a message

    @property
    def total(self) -> int:
        """The number of messages on the queue."""
        return self.visible + self.hidden + self.delayed


class Queue:
    """One SQS queue of a stack.

    A receive hides messages for `hold_s` seconds. They become visible again when the command ends or is interrupted,
    and after `hold_s` if it is killed. Only their receive count changes.
    """

    def __init__(self, sqs: Any, url: str, *, dead: bool = False, hold_s: int = HOLD_S) -> None:
        self._sqs, self._url, self._dead, self._hold_s = sqs, url, dead, hold_s
        self._held: dict[str, str] = {}  # receipt handles by message id

    @classmethod
    def of(cls, stack: Stack, output: str) -> "Queue":
        """Return the queue whose URL is an output of the stack."""
        return cls(stack.client("sqs"), stack.output(output))

    def depth(self) -> Depth:
        """Return the number of messages that SQS reports for the queue."""
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])["Attributes"]
        return Depth(
            visible=int(attributes["ApproximateNumberOfMessages"]),
            hidden=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
            retention_s=int(attributes["MessageRetentionPeriod"]),
        )

    def send(self, bodies: Mapping[str, str]) -> dict[str, str]:
        """Send bodies, ten in a call; return the fault of each body that SQS refused, by the key of the body."""
        refused: dict[str, str] = {}
        for keys in chunks({key: {"MessageBody": body} for key, body in bodies.items()}):
            refused |= self._send_chunk({key: bodies[key] for key in keys})
        return refused

    def _send_chunk(self, bodies: Mapping[str, str]) -> dict[str, str]:
        pending = {str(number): key for number, key in enumerate(bodies)}  # keys by entry id
        faults: dict[str, dict[str, Any]] = {}
        for attempt in range(SEND_ATTEMPTS):
            if attempt:
                time.sleep(SEND_PAUSE_S)
            entries = [{"Id": entry_id, "MessageBody": bodies[key]} for entry_id, key in pending.items()]
            reply = self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries)
            faults = {entry["Id"]: entry for entry in reply.get("Failed", ())}
            for entry in reply.get("Successful", ()):
                del pending[entry["Id"]]
            if all(faults.get(entry_id, {}).get("SenderFault") for entry_id in pending):
                break
        refused = {}
        for entry_id, key in pending.items():
            fault = faults.get(entry_id, {"Code": "not acknowledged"})
            refused[key] = f"{fault['Code']} {fault.get('Message', '')}".rstrip()
        return refused

    def look(self, seen: Callable[[int], object]) -> list[Message]:
        """Return all visible messages, and make them visible again; `seen` takes the number found so far."""
        found: dict[str, Message] = {}

        def visit(messages: Sequence[Message]) -> bool:
            before = len(found)
            found.update({message.message_id: message for message in messages})
            return len(found) > before  # else SQS returned nothing, or only messages that it returned before

        self._go_through(visit, lambda: seen(len(found)), MAX_ENTRIES)
        return list(found.values())

    def take(
        self,
        selection: Selection,
        act: Callable[[Sequence[Message]], Collection[str]],
        pace: "Pace",
        done: Callable[[int], object],
    ) -> set[str]:
        """Act on the selected messages and delete them; return the ids of the deleted messages.

        Args:
            selection: the selected messages.
            act: takes some of the selected messages, from several threads; returns the ids of those to delete.
            pace: the rate.
            done: takes the number of messages deleted so far.
        """
        met, acted, deleted = set[str](), set[str](), set[str]()
        size, last_met, choosing = selection.size, time.monotonic(), threading.Lock()

        def visit(messages: Sequence[Message]) -> bool:
            nonlocal last_met
            with choosing:
                wanted = [one for one in messages if selection.includes(one) and one.message_id not in met]
                wanted = wanted[: size - len(met)]
                met.update(one.message_id for one in wanted)
            pace.give_back(batch - len(wanted))
            if wanted:
                last_met = time.monotonic()
                finished = act(wanted)
                deleted.update(self._delete([one for one in wanted if one.message_id in finished]))
                acted.update(one.message_id for one in wanted)
            # Another receiver holds the messages that SQS does not return, or has deleted them.
            limit_s = self._hold_s if messages else PATIENCE_S
            return len(met) < size and time.monotonic() < last_met + limit_s

        batch = min(MAX_ENTRIES, max(1, int(pace.rate / WORKERS)))
        self._go_through(visit, lambda: done(len(deleted)), batch, pace, lambda: len(acted) >= size)
        return deleted

    def _go_through(
        self,
        visit: Callable[[Sequence[Message]], bool],
        tell: Callable[[], object],
        batch: int,
        pace: "Pace | None" = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Receive in several threads until each visit returns False or `enough` returns True."""
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                if pace:
                    pace.wait_for(batch, over)
                messages = [] if over.is_set() else self._receive(batch)
                if not visit(messages):
                    return
                if not messages:
                    over.wait(POLL_S)

        pool = ThreadPoolExecutor(WORKERS)
        try:
            working: set[Future[None]] = {pool.submit(work) for _ in range(WORKERS)}
            while working:
                ended, working = wait(working, timeout=POLL_S, return_when=FIRST_COMPLETED)
                tell()
                for worker in ended:
                    worker.result()
                if enough():
                    over.set()
        finally:
            over.set()
            pool.shutdown()  # waits for the current step of each worker
            self._release()
            tell()

    def _receive(self, number: int) -> list[Message]:
        received = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=number,
            VisibilityTimeout=self._hold_s,
            WaitTimeSeconds=LONG_POLL_S,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])
        self._held.update({one["MessageId"]: one["ReceiptHandle"] for one in received})
        return [Message.of(one, dead=self._dead) for one in received]

    def _delete(self, messages: Sequence[Message]) -> set[str]:
        if not messages:
            return set()
        entries = [{"Id": str(number), "ReceiptHandle": one.receipt_handle} for number, one in enumerate(messages)]
        reply = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
        deleted = [messages[int(entry["Id"])] for entry in reply.get("Successful", ())]
        for message in deleted:  # if SQS returned it again before the deletion, a newer receipt is held
            if self._held.get(message.message_id) == message.receipt_handle:
                del self._held[message.message_id]
        return {message.message_id for message in deleted}

    def _release(self) -> None:
        held, self._held = self._held, {}
        changes = {one: {"ReceiptHandle": handle, "VisibilityTimeout": 0} for one, handle in held.items()}
        calls = [[{"Id": str(number), **changes[one]} for number, one in enumerate(ids)] for ids in chunks(changes)]
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(self._show_again, calls))  # list raises what a call raised

    def _show_again(self, entries: Sequence[Mapping[str, Any]]) -> None:
        with suppress(BotoCoreError, ClientError):  # the messages become visible after hold_s
            self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)


class Pace:
    """A rate limit for several threads; `rate` is a number per second, at least 1."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait_for(self, number: int, over: threading.Event) -> None:
        """Wait until the rate allows this number more, or until `over` is set."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + number / self.rate
        over.wait(begin - now)

    def give_back(self, number: int) -> None:
        """Give back a part of the number that `wait_for` allowed, because it was not used."""
        with self._lock:
            self._next -= number / self.rate


@dataclass(frozen=True)
class QueueKind:
    """One of the two queues that need a person, in any stack."""

    group: str  # of commands
    title: str  # its name in sentences
    output: str  # the stack output with its URL
    reasons: tuple[str, ...]  # that its messages can have

    @property
    def section(self) -> str:
        """The runbook's section about the messages on this queue."""
        return f"docs/runbook.md#{self.title.replace(' ', '-')}-not-empty"

    def of(self, stack: Stack, hold_s: int = HOLD_S) -> Queue:
        """Return this queue of a stack."""
        return Queue(stack.client("sqs"), stack.output(self.output), dead=self == DEAD, hold_s=hold_s)

    def select(self, stack: Stack, hold_s: int, wanted: Filter) -> Selection:
        """Look at all visible messages and select those that match.

        Raises:
            CommandError: if the filter's times exclude each other.
        """
        if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
            raise CommandError("--since must be earlier than --until.")
        queue, began = self.of(stack, hold_s), time.time()
        with progress(f"reading the {self.title}", None) as tell:
            found = queue.look(tell)
        depth = queue.depth()
        others = max(0, depth.total - len(found))
        at_limit = len(found) >= NEARLY_ALL_IN_FLIGHT
        return Selection(
            where=f"the {self.title} of {stack.label}",
            messages=wanted.select(found),
            filter=wanted,
            found=len(found),
            hidden=0 if at_limit else others,
            beyond=others if at_limit else 0,
            began=began,
            retention_s=depth.retention_s,
        )


PARKED = QueueKind("parked", "parked queue", "ParkedQueueUrl", tuple(reason.value for reason in Reason if reason.parks))
DEAD = QueueKind("dead", "dead-letter queue", "DeadLetterQueueUrl", tuple(reason.value for reason in DeadReason))


def take_with_progress(
    queue: Queue,
    selection: Selection,
    act: Callable[[Sequence[Message]], Collection[str]],
    rate: int,
    did: str,
) -> set[str]:
    """Take messages as `Queue.take` does, with a progress bar; if interrupted, print how many were `did`."""
    so_far = 0

    def done(number: int) -> None:
        nonlocal so_far
        so_far = number
        tell(number)

    try:
        with progress(f"to be {did}", selection.size) as tell:
            return queue.take(selection, act, Pace(rate), done)
    except BaseException:
        if so_far:
            click.echo(f"{so_far:,} of {count(selection.size, 'message')} {did}.", err=True)
        raise


def print_taken(did: str, selected: int, deleted: Collection[str], refused: Mapping[str, str]) -> int:
    """Print how many messages were taken and how many are left; return the exit status, 1 if any is left."""
    click.echo(f"{count(len(deleted), 'message')} {did}.")
    for message_id, fault in list(refused.items())[:REFUSALS_SHOWN]:
        click.echo(f"SQS refused {message_id}: {fault}", err=True)
    left = max(selected, len({*deleted, *refused})) - len(deleted)
    if left:
        others = left - len(refused)
        click.echo(
            f"{count(left, 'message')} left: SQS refused {len(refused):,}; another receiver took {others:,}, or SQS "
            "did not delete them. You can repeat the command safely.",
            err=True,
        )
    return 1 if left else 0


def chunks(entries: Mapping[str, dict[str, Any]]) -> Iterator[list[str]]:
    """Yield the keys of entries in groups that SQS takes in one call: 10 entries, 1 MiB of bodies and attributes."""
    chunk: list[str] = []
    size = 0
    for key, entry in entries.items():
        entry_size = _bytes(entry)
        if chunk and (len(chunk) == MAX_ENTRIES or size + entry_size > MAX_BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(key)
        size += entry_size
    if chunk:
        yield chunk


def _bytes(entry: dict[str, Any]) -> int:
    texts = [entry.get("MessageBody", "")]
    for name, attribute in entry.get("MessageAttributes", {}).items():
        texts += [name, *attribute.values()]
    return sum(len(text.encode(errors="surrogatepass")) for text in texts)
