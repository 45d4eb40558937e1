"""Tell a backend on an EventBridge bus which results were confirmed or parked.

Such an event is a notice: SQS and the ledger keep the facts. The relay logs and counts an event that EventBridge did
not confirm, and does not try it again in a later invocation.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flash_call_relay import telemetry
from flash_call_relay.budget import EVENTS_CALL, EVENTS_S, REPORT_S, Deadline
from flash_call_relay.models import Delivered, Parked, Processed
from flash_call_relay.text import error_code

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

SOURCE = "flash-call-relay"
DETAIL_TYPES = {Delivered: "Flash Call Result Confirmed", Parked: "Flash Call Result Parked"}
MAX_ENTRIES = 10  # EventBridge's limit for one call

Unconfirmed = list[tuple[Processed, str]]  # outcomes, and why EventBridge did not confirm the event of each


class OutcomeBus:
    """An EventBridge bus that takes an event for each result that is confirmed or parked, in the name of a relay."""

    def __init__(self, eventbridge: "EventBridgeClient", bus: str, relay: str) -> None:
        self._eventbridge, self._bus, self._relay = eventbridge, bus, relay

    def publish(self, processed: Sequence[Processed], *, deadline: Deadline) -> None:
        """Publish the final outcomes among settled records, ten in a call; offer once more what was not confirmed.

        No call starts later than `EVENTS_S` from now, or may outlast `deadline`, the function's time-out.
        """
        end = min(Deadline.after(EVENTS_S), deadline.earlier(EVENTS_CALL.worst + REPORT_S))
        unconfirmed = [(one, "no time left") for one in processed if type(one.outcome) in DETAIL_TYPES]
        for _ in range(2):
            tens = [unconfirmed[start : start + MAX_ENTRIES] for start in range(0, len(unconfirmed), MAX_ENTRIES)]
            unconfirmed = [failed for ten in tens for failed in (self._put(ten) if end.left_s else ten)]
        for one, why in unconfirmed:
            # No `outcome` and no `duration_ms`: queries count outcomes and attempts by these.
            fields = {name: value for name, value in one.fields().items() if name in ("uuid", "status", "message_id")}
            telemetry.report("outcome_event.failed", **fields, event=one.name, detail=f"PutEvents: {why}")

    def _put(self, unconfirmed: Unconfirmed) -> Unconfirmed:
        """Make one call; return the outcomes whose event EventBridge did not take, and why."""
        entries: Any = [
            {
                "EventBusName": self._bus,
                "Source": SOURCE,
                "DetailType": DETAIL_TYPES[type(one.outcome)],
                "Detail": json.dumps({**one.fields(), "relay": self._relay}),
            }
            for one, _ in unconfirmed
        ]
        try:
            answers = self._eventbridge.put_events(Entries=entries)["Entries"]
            codes = [answer.get("ErrorCode", "") for answer in answers]
            return [(one, code) for (one, _), code in zip(unconfirmed, codes, strict=True) if code]
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not change an outcome
            return [(one, error_code(error)) for one, _ in unconfirmed]
