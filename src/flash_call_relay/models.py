"""The frozen values that flow through the relay, in the order in which they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self

Status = Literal["Success", "Failed"]
OTHER: dict[str, Status] = {"Success": "Failed", "Failed": "Success"}


PARKS, AGAINST_ENDPOINT, PROVES_CREDENTIALS = "parks", "against the endpoint", "proves the credentials"


class Reason(StrEnum):
    """Why a record is deferred or parked. There are no other reasons. Each has these properties.

    Attributes:
        parks: the record is parked; `unknown_call` parks once the grace is over. Other reasons defer.
        against_endpoint: the endpoint as a whole seems to fail; the gate counts these.
        proves_credentials: only an API that accepted the credentials gives this reason.
    """

    parks: bool
    against_endpoint: bool
    proves_credentials: bool

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
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.parks = PARKS in facts
        reason.against_endpoint = AGAINST_ENDPOINT in facts
        reason.proves_credentials = PROVES_CREDENTIALS in facts
        return reason


@dataclass(frozen=True, slots=True)
class FlashCallResult:
    """One flash call's verdict; `uuid` is 1 to 128 visible ASCII characters, as BetaTel issued it."""

    uuid: str
    status: Status


@dataclass(frozen=True, slots=True)
class NoResult:
    """The record's body is not a result. `fault` says what is wrong with it, and what was expected."""

    fault: str


@dataclass(frozen=True, slots=True)
class Record:
    """One SQS message, or one EventBridge event given straight to the function.

    Attributes:
        message_id: SQS's id of the message, or the event's id.
        receipt_handle: SQS's handle for this receive; None for an event.
        body: the original, unchanged.
        sent_at: when SQS took the message, in seconds since the epoch.
        receive_count: how often SQS has delivered the message, this time included.
        content: what the body says.
    """

    message_id: str
    receipt_handle: str | None
    body: str
    sent_at: float
    receive_count: int
    content: FlashCallResult | NoResult


# ---- answer → judgement → finding: how the endpoint's words become a fact about a result ----


@dataclass(frozen=True, slots=True)
class Reply:
    """The endpoint's whole reply.

    Attributes:
        http_status: as on the status line, 100 to 999.
        json_object: the body, if it is a JSON object.
        message: the JSON object's `message` or a page's title: printable, free of credentials, at most 120 characters.
        retry_after: the `Retry-After` header, as sent.
        duration_ms: time from the attempt's start to the reply's end, in milliseconds.
    """

    http_status: int
    json_object: Mapping[str, Any] | None
    message: str = ""
    retry_after: str | None = None
    duration_ms: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class NoReply:
    """The attempt failed before a whole reply was there.

    Attributes:
        reason: why.
        detail: a sentence for people; it quotes nothing from the endpoint.
        duration_ms: time from the attempt's start to its failure, in milliseconds.
    """

    reason: Reason
    detail: str
    duration_ms: float = field(default=0.0, compare=False)


Answer = Reply | NoReply


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer means for the delivery of a result.

    Attributes:
        reason: why the delivery failed; None if it is confirmed.
        detail: 1 to 256 printable ASCII characters.
        http_status: the reply's; None without a reply.
        retry_after: the reply's `Retry-After` header, as sent.
        duration_ms: the attempt's, in milliseconds.
    """

    reason: Reason | None
    detail: str
    http_status: int | None = None
    retry_after: str | None = None
    duration_ms: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class NotAsked:
    """No attempt was made. `detail` says why in 1 to 256 printable ASCII characters."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The endpoint has confirmed this uuid with this status, at the time `at`, in seconds since the epoch."""

    status: Status
    at: float


Finding = Judgement | NotAsked | Confirmed


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
    """A record with its outcome.

    Attributes:
        record: the record.
        outcome: what became of it.
        age_s: its age when that was decided, in seconds.
        duration_ms: how long the attempt took, in milliseconds; None without one.
    """

    record: Record
    outcome: Outcome
    age_s: float
    duration_ms: float | None = None

    @property
    def name(self) -> str:
        """The outcome's name: delivered, duplicate, deferred or parked."""
        return type(self.outcome).__name__.lower()

    def fields(self) -> dict[str, object]:
        """Return what a log line or an event says of it."""
        record, outcome, content = self.record, self.outcome, self.record.content
        result = content if isinstance(content, FlashCallResult) else None
        fields = {
            "uuid": result and result.uuid,
            "status": result and result.status,
            "outcome": self.name,
            **{key: getattr(outcome, key, None) for key in ("reason", "detail", "http_status", "retry_in_s")},
            "receive_count": record.receive_count,
            "duration_ms": None if self.duration_ms is None else round(self.duration_ms, 1),
            "age_s": round(self.age_s, 1),
            "message_id": record.message_id,
        }
        return {name: value for name, value in fields.items() if value is not None}


class GateEvent(StrEnum):
    """A change of what the gate admits. The value is its name in the log."""

    ENDPOINT_FAILING = "endpoint.failing"
    ENDPOINT_RECOVERED = "endpoint.recovered"
    CREDENTIALS_REJECTED = "credentials.rejected"
    CREDENTIALS_ACCEPTED = "credentials.accepted"

    @property
    def is_recovery(self) -> bool:
        """Whether it is a recovery."""
        return self in (GateEvent.ENDPOINT_RECOVERED, GateEvent.CREDENTIALS_ACCEPTED)


def error_code(error: BaseException | None) -> str:
    """Return AWS's code for an error of one of its services, or the exception's name if AWS sent no reply."""
    reply = getattr(error, "response", None) or {}  # botocore sets None where it got no reply
    return str(reply.get("Error", {}).get("Code", type(error).__name__))


def printable(text: str, limit: int = 256) -> str:
    """Return text as 1 to `limit` printable ASCII characters, as SQS attributes and log lines want it."""
    if 0 < len(text) <= limit and text.isascii() and text.isprintable() and text == text.strip():
        return text
    ascii_text = text.encode("ascii", "backslashreplace").decode("ascii")
    clean = "".join(c if " " <= c <= "~" else " " for c in ascii_text).strip() or "-"
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
