"""The messages of one queue: look at all of them, or go through them and take some away."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ops.messages import Message

WORKERS = 4
MAX_ENTRIES = 10  # of SQS, in one call
POLL_S = 1  # long polling: a short poll may miss what is there
GLANCE_S = 0.1
PATIENCE_S = 10  # for chosen messages that an empty queue doesn't show: somebody else may look at them


class Queue:
    """The parked or the dead-letter queue.

    What is received is hidden for `hold_s` seconds, and visible again at once when a command ends or is interrupted; if
    it is killed, after those seconds. Its receive count grows, and nothing else changes.
    """

    def __init__(self, sqs: Any, url: str, *, dead: bool, hold_s: int) -> None:
        self._sqs, self.url, self._dead, self._hold_s = sqs, url, dead, hold_s
        self._held: dict[str, str] = {}  # receipt handles by message id

    def look(self, seen: Callable[[int], object]) -> list[Message]:
        """Return all visible messages and let them go again; `seen` is told how many there are so far."""
        found: dict[str, Message] = {}

        def visit(messages: Sequence[Message]) -> bool:
            new = [message for message in messages if message.message_id not in found]
            found.update({message.message_id: message for message in messages})
            return bool(new)  # nothing more, or all seen before: we have come round

        self._go_through(visit, lambda: seen(len(found)), MAX_ENTRIES)
        return list(found.values())

    def take(
        self,
        chosen: Callable[[Message], bool],
        number: int,
        act: Callable[[Sequence[Message]], Collection[str]],
        pace: "Pace",
        done: Callable[[int], object],
    ) -> set[str]:
        """Delete those of the chosen messages that `act` says it is done with; return the ids of those deleted.

        Args:
            chosen: tells whether a message is one of them.
            number: how many they are.
            act: called from several threads with some of the chosen; returns the ids that may be deleted.
            pace: how fast.
            done: told how many are deleted so far.
        """
        met: set[str] = set()
        acted: set[str] = set()
        deleted: set[str] = set()
        last_met = time.monotonic()

        def visit(messages: Sequence[Message]) -> bool:
            nonlocal last_met
            wanted = [one for one in messages if chosen(one) and one.message_id not in met][: number - len(met)]
            pace.give_back(size - len(wanted))
            met.update(one.message_id for one in wanted)
            if wanted:
                last_met = time.monotonic()
                finished = act(wanted)
                deleted.update(self._delete([one for one in wanted if one.message_id in finished]))
                acted.update(one.message_id for one in wanted)
            # Those that don't turn up any more are in somebody else's hands, or done.
            limit_s = self._hold_s if messages else PATIENCE_S
            return len(met) < number and time.monotonic() < last_met + limit_s

        size = min(MAX_ENTRIES, max(1, int(pace.rate / WORKERS)))
        self._go_through(
            visit,
            lambda: done(len(deleted)),
            size,
            before=lambda over: pace.wait_for(size, over),
            enough=lambda: len(acted) >= number,
        )
        return deleted

    def _go_through(
        self,
        visit: Callable[[Sequence[Message]], bool],
        tell: Callable[[], object],
        size: int,
        before: Callable[[threading.Event], object] = lambda _over: None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Receive until visits want no more, or it is enough. Interrupted, it ends between two calls."""
        over = threading.Event()

        def work() -> None:
            try:
                while not over.is_set():
                    before(over)
                    messages = [] if over.is_set() else self._receive(size)
                    if not visit(messages):
                        return
                    if not messages:
                        over.wait(GLANCE_S)
            finally:
                tell()

        with self._workers(over) as pool:
            working: set[Future[None]] = {pool.submit(work) for _ in range(WORKERS)}
            while working:
                ended, working = wait(working, timeout=GLANCE_S, return_when=FIRST_COMPLETED)
                tell()
                for worker in ended:
                    worker.result()
                if enough():
                    over.set()

    @contextmanager
    def _workers(self, over: threading.Event) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(WORKERS)
        try:
            yield pool
        finally:
            over.set()
            pool.shutdown()  # each ends the step that it is at
            self._release()

    def _receive(self, size: int) -> list[Message]:
        received = self._sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=size,
            VisibilityTimeout=self._hold_s,
            WaitTimeSeconds=POLL_S,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])
        self._held.update({one["MessageId"]: one["ReceiptHandle"] for one in received})
        return [Message.of(one, dead=self._dead) for one in received]

    def _delete(self, messages: Sequence[Message]) -> set[str]:
        if not messages:
            return set()
        ids = {str(number): message.message_id for number, message in enumerate(messages)}
        entries = [{"Id": i, "ReceiptHandle": m.receipt_handle} for i, m in zip(ids, messages, strict=True)]
        reply = self._sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)
        deleted = {ids[entry["Id"]] for entry in reply.get("Successful", ())}
        for message in messages:  # received anew meanwhile, it is held by another receipt
            if message.message_id in deleted and self._held.get(message.message_id) == message.receipt_handle:
                del self._held[message.message_id]
        return deleted

    def _release(self) -> None:
        handles, self._held = list(self._held.values()), {}
        parts = [handles[start : start + MAX_ENTRIES] for start in range(0, len(handles), MAX_ENTRIES)]
        with ThreadPoolExecutor(WORKERS) as pool:
            for result in [pool.submit(self._show_again, part) for part in parts]:
                result.result()

    def _show_again(self, handles: Sequence[str]) -> None:
        entries = [{"Id": str(i), "ReceiptHandle": h, "VisibilityTimeout": 0} for i, h in enumerate(handles)]
        with suppress(BotoCoreError, ClientError):  # else they come back by themselves
            self._sqs.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)


class Pace:
    """So many a second at most, for several threads; `rate` is 1 or more."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait_for(self, number: int, over: threading.Event) -> None:
        """Wait until so many more may be done, or it is over."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + number / self.rate
        over.wait(begin - now)

    def give_back(self, number: int) -> None:
        """Say that so many were not done after all."""
        with self._lock:
            self._next -= number / self.rate
