"""A parked or dead-lettered message: what it says, its reason, and what a replay sends."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from flash_call_relay.events import UNIQUE, parse_body
from flash_call_relay.models import FlashCallResult, Status
from flash_call_relay.text import InvalidJSONError, decode_json, printable

MAX_BODY_BYTES = 256 * 1024  # of the result queue
QUOTED = re.compile(r'"(?=([^"\\]+)\\?")')  # each string in JSON, and in JSON in a JSON string


class DeadReason(StrEnum):
    """Why a message is on the dead-letter queue."""

    RECEIVES_EXHAUSTED = "receives_exhausted"  # SQS reached the queue's maxReceiveCount
    FUNCTION_FAILED = "function_failed"  # the function raised on an event that it got without a queue
    EVENT_UNDELIVERED = "event_undelivered"  # EventBridge could not deliver the event to its target


@dataclass(frozen=True)
class Message:
    """One message of the parked or the dead-letter queue."""

    message_id: str
    receipt_handle: str
    body: str
    attributes: Mapping[str, str]  # the message attributes, as text
    sent_at: float  # in seconds since the epoch; SQS's redrive does not change it
    reason: str  # a `Reason`, or a `DeadReason` on the dead-letter queue

    @classmethod
    def of(cls, received: Mapping[str, Any], *, dead: bool) -> "Message":
        """Read a message as SQS returns it; `dead`: from the dead-letter queue."""
        attributes = {
            name: value.get("StringValue", "") for name, value in received.get("MessageAttributes", {}).items()
        }
        return cls(
            message_id=received["MessageId"],
            receipt_handle=received["ReceiptHandle"],
            body=received["Body"],
            attributes=attributes,
            sent_at=int(received["Attributes"]["SentTimestamp"]) / 1000,
            reason=_dead_reason(attributes) if dead else printable(attributes.get("reason", "unknown")),
        )

    @cached_property
    def results(self) -> list[FlashCallResult]:
        """The result in the message, if its body is one."""
        content = parse_body(self.body)
        return [content] if isinstance(content, FlashCallResult) else []

    @cached_property
    def uuid(self) -> str | None:
        """The call, if its uuid is valid, even if the status is not."""
        if self.results:
            return self.results[0].uuid
        try:
            document = decode_json(self.body, UNIQUE)
        except InvalidJSONError:
            return None
        if isinstance(document, dict) and "detail-type" in document:
            document = document.get("detail")
        uuid = document.get("uuid") if isinstance(document, dict) else None
        corrected = parse_body(json.dumps({"uuid": uuid, "status": "Success"}))
        return corrected.uuid if isinstance(corrected, FlashCallResult) else None

    @property
    def status(self) -> Status | None:
        """The status; None if the body is not a result."""
        return self.results[0].status if self.results else None

    @cached_property
    def calls(self) -> set[str]:
        """The uuid; without a valid one, each text that the body quotes."""
        return {self.uuid} if self.uuid else set(QUOTED.findall(self.body))

    def is_about(self, uuid: str) -> bool:
        """Return whether the message is about this call."""
        return uuid in self.calls

    @property
    def http_status(self) -> int | None:
        """The HTTP status of the endpoint's last reply."""
        status = self.attributes.get("http_status", "")
        return int(status) if re.fullmatch("[0-9]{3}", status) else None

    @property
    def detail(self) -> str:
        """The explanation of the relay, Lambda or EventBridge, safe to print on a terminal."""
        names = ("detail", "ErrorMessage", "ERROR_MESSAGE")
        detail = next((self.attributes[name] for name in names if self.attributes.get(name)), "")
        return printable(detail) if detail else ""

    def to_replay(self, status: Status | None) -> str:
        """Return the body to send to the result queue; `status` replaces that of the body."""
        # An event as JSON can exceed the queue's limit. The result in it is short.
        too_long = len(self.body.encode(errors="surrogatepass")) > MAX_BODY_BYTES
        status = status or (self.status if too_long else None)
        return json.dumps({"uuid": self.uuid, "status": status}) if self.uuid and status else self.body

    def as_json(self) -> str:
        """Return all of the message as a line of JSON, with the `uuid` and `status` that `send` reads."""
        sent_at = datetime.fromtimestamp(self.sent_at, UTC).isoformat(timespec="milliseconds")
        names = ("uuid", "status", "reason", "detail", "http_status", "sent_at", "message_id", "attributes", "body")
        return json.dumps({name: sent_at if name == "sent_at" else getattr(self, name) for name in names})


def _dead_reason(attributes: Mapping[str, str]) -> DeadReason:
    if "RULE_ARN" in attributes:  # an attribute of EventBridge's dead letters
        return DeadReason.EVENT_UNDELIVERED
    if {"RequestID", "ErrorCode"} <= attributes.keys():  # attributes of Lambda's dead letters
        return DeadReason.FUNCTION_FAILED
    return DeadReason.RECEIVES_EXHAUSTED
