"""The frozen values that flow through the relay, in the order in which they are made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self

Status = Literal["Success", "Failed"]
OTHER: dict[str, Status] = {"Success": "Failed", "Failed": "Success"}
PARKS, AGAINST_ENDPOINT, PROVES_CREDENTIALS = "parks", "against the endpoint", "proves the credentials"


class Reason(StrEnum):
    """Why a record is deferred or parked. There are no other reasons. Each has these properties."""

    parks: bool  # the record is parked; `unknown_call` parks once the grace is over. Other reasons defer
    against_endpoint: bool  # the endpoint as a whole seems to fail; the gate counts these
    proves_credentials: bool  # only an API that accepted the credentials gives this reason

    CONTRADICTED = "contradicted", PROVES_CREDENTIALS
    UNCONFIRMED = "unconfirmed", AGAINST_ENDPOINT
    REJECTED = "rejected", PARKS, PROVES_CREDENTIALS
    UNKNOWN_CALL = "unknown_call", PARKS, PROVES_CREDENTIALS
    CREDENTIALS_REJECTED = "credentials_rejected"
    THROTTLED = "throttled"
    ENDPOINT_MISCONFIGURED = "endpoint_misconfigured", AGAINST_ENDPOINT
    ENDPOINT_ERROR = "endpoint_error", AGAINST_ENDPOINT
    TIMEOUT = "timeout", AGAINST_ENDPOINT
    CONNECTION_FAILED = "connection_failed", AGAINST_ENDPOINT
    TLS_FAILED = "tls_failed", AGAINST_ENDPOINT
    BAD_REPLY = "bad_reply", AGAINST_ENDPOINT
    ENDPOINT_FAILING = "endpoint_failing"
    OUT_OF_TIME = "out_of_time"
    CREDENTIALS_UNAVAILABLE = "credentials_unavailable"
    RELAY_ERROR = "relay_error"
    INVALID_EVENT = "invalid_event", PARKS
    CONFLICTING_STATUS = "conflicting_status", PARKS
    RETRIES_EXHAUSTED = "retries_exhausted", PARKS

    def __new__(cls, word: str, *facts: str) -> Self:
        """Make a member from its line in the table."""
        self = str.__new__(cls, word)
        self._value_ = word
        self.parks = PARKS in facts
        self.against_endpoint = AGAINST_ENDPOINT in facts
        self.proves_credentials = PROVES_CREDENTIALS in facts
        return self


@dataclass(frozen=True, slots=True)
class FlashCallResult:
    """One flash call's verdict; `uuid` is 1 to 128 visible ASCII characters, as BetaTel issued it."""

    uuid: str
    status: Status

    def as_json(self) -> str:
        """Return the body that the webhook and the result queue take."""
        return json.dumps({"uuid": self.uuid, "status": self.status})


@dataclass(frozen=True, slots=True)
class NoResult:
    """The record's body is not a result. `fault` says what is wrong with it, and what was expected."""

    fault: str


@dataclass(frozen=True, slots=True)
class Record:
    """One SQS message, or one EventBridge event given straight to the function."""

    message_id: str  # SQS's, or the event's
    receipt_handle: str | None  # SQS's, for this receive; None for an event
    body: str  # the original, unchanged
    sent_at: float  # when SQS took the message, in seconds since the epoch
    receive_count: int  # how often SQS has delivered the message, this time included
    content: FlashCallResult | NoResult  # what the body says


@dataclass(frozen=True, slots=True)
class Reply:
    """What an attempt got from the endpoint: a whole reply, or the reason for which there is none."""

    http_status: int | None  # as on the status line, 200 to 999; None without one
    json_object: Mapping[str, Any] | None = None  # the body, if it is a JSON object
    message: str = ""  # the object's `message`, a page's title, or why there is no reply: printable, no credentials
    failure: Reason | None = None  # why there is no whole reply
    wait_s: float | None = None  # as the header `Retry-After` asks, 0 to 900; None if it does not
    duration_ms: float = field(default=0.0, compare=False)  # from the attempt's start to the reply's end


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an attempt, or the decision to make none, means for the delivery of a result."""

    reason: Reason | None  # why the result is not delivered; None if the endpoint confirmed it
    detail: str  # 1 to 256 printable ASCII characters, which quote no credential
    http_status: int | None = None  # None without a status line
    wait_s: float | None = None  # how long the endpoint asked to wait; None if it did not
    duration_ms: float | None = field(default=None, compare=False)  # the attempt's; None if the endpoint was not asked

    @property
    def asks_to_wait(self) -> bool:
        """Whether the reply asks to send nothing more for a while, whatever the result."""
        return self.http_status == 429 or (self.http_status == 503 and bool(self.wait_s))


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The endpoint has confirmed this uuid with this status, at the time `at`, in seconds since the epoch."""

    status: Status
    at: float


Known = Judgement | Confirmed  # what is known of a result


# ---- outcomes: what became of a record in this invocation; a detail is 1 to 256 printable ASCII characters ----


@dataclass(frozen=True, slots=True)
class Delivered:
    """The endpoint confirmed the result, with this HTTP status."""

    http_status: int | None


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same result is confirmed already."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """The record is tried again in `retry_in_s` whole seconds; None: after the queue's visibility timeout."""

    reason: Reason
    detail: str
    retry_in_s: int | None
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """A person has to decide."""

    reason: Reason
    detail: str
    http_status: int | None = None


Outcome = Delivered | Duplicate | Deferred | Parked


@dataclass(frozen=True, slots=True)
class Processed:
    """A record with its outcome."""

    record: Record
    outcome: Outcome
    age_s: float  # the record's age when the outcome was decided
    duration_ms: float | None = None  # how long the attempt took; None without one

    @property
    def name(self) -> str:
        """The outcome's name: delivered, duplicate, deferred or parked."""
        return type(self.outcome).__name__.lower()

    def fields(self) -> dict[str, object]:
        """Return what a log line or an event says of it."""
        record, outcome, content = self.record, self.outcome, self.record.content
        fields = {
            **{key: getattr(content, key, None) for key in ("uuid", "status")},
            "outcome": self.name,
            **{key: getattr(outcome, key, None) for key in ("reason", "detail", "http_status", "retry_in_s")},
            "receive_count": record.receive_count,
            "duration_ms": None if self.duration_ms is None else round(self.duration_ms, 1),
            "age_s": round(self.age_s, 1),
            "message_id": record.message_id,
        }
        return {name: value for name, value in fields.items() if value is not None}
