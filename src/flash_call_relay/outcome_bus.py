"""Tell a backend on an EventBridge bus which results were confirmed or parked.

Such an event is a notice: SQS and the ledger keep the facts. The relay logs and counts an event that it could not
publish, and does not try it again in a later invocation.
"""

import contextlib
import json
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from flash_call_relay.budget import EVENTS_S, Deadline
from flash_call_relay.models import Delivered, Parked, Processed, error_code

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

SOURCE = "flash-call-relay"
DETAIL_TYPES = {Delivered: "Flash Call Result Confirmed", Parked: "Flash Call Result Parked"}
MAX_ENTRIES = 10  # EventBridge's limit for one call
THREADS = 10  # so that a batch of 1,000 parked results is published in time
PAUSE_S = 0.05  # before the relay repeats what failed

Unpublished = tuple[Processed, str]  # an outcome, and why EventBridge did not take its event


class OutcomeBus:
    """An EventBridge bus that takes an event for each result that is confirmed or parked.

    Args:
        eventbridge: the client.
        bus: the name of the bus.
        relay: the name of the relay in the events.
    """

    def __init__(self, eventbridge: "EventBridgeClient", bus: str, relay: str) -> None:
        self._eventbridge, self._bus, self._relay = eventbridge, bus, relay
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="outcome-bus")

    def publish(self, processed: Sequence[Processed]) -> Future[list[Unpublished]]:
        """Begin to publish up to 10 outcomes. Return a future: the events that EventBridge did not take."""
        return self._threads.submit(self._publish, processed)

    def _publish(self, processed: Sequence[Processed]) -> list[Unpublished]:
        end = Deadline.after(EVENTS_S)
        try:
            failed = self._put(processed)
        except Exception as error:  # noqa: BLE001 - it costs these events only
            failed = _all_unpublished(processed, error)
        if failed and end.left_s > PAUSE_S:
            time.sleep(PAUSE_S)
            with contextlib.suppress(Exception):  # the first reason stands
                failed = self._put([one for one, _ in failed])
        return failed

    def _put(self, processed: Sequence[Processed]) -> list[Unpublished]:
        entries: Any = [
            {
                "EventBusName": self._bus,
                "Source": SOURCE,
                "DetailType": DETAIL_TYPES[type(one.outcome)],
                "Detail": json.dumps({**one.fields(), "relay": self._relay}),
            }
            for one in processed
        ]
        answers = self._eventbridge.put_events(Entries=entries)["Entries"]
        codes = [answer.get("ErrorCode") for answer in answers]
        return [(one, code) for one, code in zip(processed, codes, strict=True) if code]


class Publication:
    """The events of one invocation; without a bus there are none.

    Attributes:
        unpublished: the events that EventBridge did not take, or may not have taken.
    """

    def __init__(self, bus: OutcomeBus | None) -> None:
        self.unpublished: list[Unpublished] = []
        self._bus = bus
        self._waiting: list[Processed] = []
        self._calls: list[tuple[list[Processed], Future[list[Unpublished]]]] = []

    def __enter__(self) -> Self:
        """Return the publication itself."""
        return self

    def note(self, processed: Sequence[Processed], kept: Collection[str]) -> None:
        """Publish the final outcomes, ten in a call.

        Args:
            processed: settled records.
            kept: ids of the messages that stay on the result queue, so that their outcome is not final.
        """
        if self._bus is None:
            return
        self._waiting += [
            one for one in processed if type(one.outcome) in DETAIL_TYPES and one.record.message_id not in kept
        ]
        while len(self._waiting) >= MAX_ENTRIES:
            self._publish(self._bus)

    def __exit__(self, *_exception: object) -> None:
        """Publish the rest. Wait for all calls, for `EVENTS_S` at most, and cancel those that have not begun."""
        if self._bus and self._waiting:
            self._publish(self._bus)
        deadline = Deadline.after(EVENTS_S)
        for processed, call in self._calls:
            try:
                self.unpublished += call.result(timeout=deadline.left_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not change an outcome
                call.cancel()
                self.unpublished += _all_unpublished(processed, error)

    def _publish(self, bus: OutcomeBus) -> None:
        now, self._waiting = self._waiting[:MAX_ENTRIES], self._waiting[MAX_ENTRIES:]
        try:
            self._calls.append((now, bus.publish(now)))
        except Exception as error:  # noqa: BLE001 - as above
            self.unpublished += _all_unpublished(now, error)


def _all_unpublished(processed: Sequence[Processed], error: Exception) -> list[Unpublished]:
    return [(one, error_code(error)) for one in processed]
