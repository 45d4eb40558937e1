"""The frozen values that flow through the relay, in the order in which they come about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Status = Literal["Success", "Failed"]
OTHER: dict[str, Status] = {"Success": "Failed", "Failed": "Success"}


class Reason(StrEnum):
    """Why a record is deferred or parked: a closed vocabulary."""

    CONTRADICTED = "contradicted"
    UNCONFIRMED = "unconfirmed"
    REJECTED = "rejected"
    UNKNOWN_CALL = "unknown_call"
    CREDENTIALS_REJECTED = "credentials_rejected"
    THROTTLED = "throttled"
    ENDPOINT_MISCONFIGURED = "endpoint_misconfigured"
    ENDPOINT_ERROR = "endpoint_error"
    TIMEOUT = "timeout"
    CONNECTION_FAILED = "connection_failed"
    TLS_FAILED = "tls_failed"
    BAD_REPLY = "bad_reply"
    ENDPOINT_FAILING = "endpoint_failing"
    OUT_OF_TIME = "out_of_time"
    CREDENTIALS_UNAVAILABLE = "credentials_unavailable"
    RELAY_ERROR = "relay_error"
    INVALID_EVENT = "invalid_event"
    CONFLICTING_STATUS = "conflicting_status"
    RETRIES_EXHAUSTED = "retries_exhausted"


@dataclass(frozen=True, slots=True)
class FlashCallResult:
    """One flash call's verdict; `uuid` is 1 to 128 visible ASCII characters, as BetaTel issued it."""

    uuid: str
    status: Status


@dataclass(frozen=True, slots=True)
class NoResult:
    """The record's body is no result; `fault` is a sentence that says what is wrong."""

    fault: str


@dataclass(frozen=True, slots=True)
class Record:
    """One message, or one event given straight to the function (which has no `receipt_handle`).

    `body` is the original, unchanged; `sent_at` is when SQS took it, in seconds since the epoch; `receive_count` is how
    often SQS has handed it out, this time included; `content` is what the body says.
    """

    message_id: str
    receipt_handle: str | None
    body: str
    sent_at: float
    receive_count: int
    content: FlashCallResult | NoResult


# ---- findings: what is known of a result when policy decides ----


@dataclass(frozen=True, slots=True)
class Reply:
    """The endpoint's whole reply.

    Attributes:
        http_status: as on the status line, 100 to 999.
        json_object: the body, if it is a JSON object.
        message: the reply's own words: printable, free of credentials, at most 120 characters.
        retry_after: the `Retry-After` header, as sent.
        duration_ms: how long the attempt took; no part of what was said.
    """

    http_status: int
    json_object: Mapping[str, Any] | None
    message: str = ""
    retry_after: str | None = None
    duration_ms: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class NoReply:
    """There is no reply to go by: the attempt failed, or none was made (`duration_ms` is None)."""

    reason: Reason
    detail: str
    duration_ms: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A result of this uuid is confirmed already: this status, at `at` (seconds since the epoch)."""

    status: Status
    at: float


Answer = Reply | NoReply
Finding = Answer | Confirmed


# ---- outcomes: what became of a record in this invocation; a detail is 1 to 256 printable ASCII characters ----


@dataclass(frozen=True, slots=True)
class Delivered:
    """The endpoint confirmed the result."""

    http_status: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same result is confirmed already."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """The record is tried again in `retry_in_s` whole seconds; None: after the queue's visibility time-out."""

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
class Settled:
    """A record, its outcome, its age at that moment, and how long the endpoint was asked (None: not at all)."""

    record: Record
    outcome: Outcome
    age_s: float
    duration_ms: float | None = None


def error_code(error: BaseException | None) -> str:
    """Return what AWS calls an error of one of its services; the exception's own name where there was no reply."""
    answer = getattr(error, "response", None) or {}  # None: botocore had no reply
    return str(answer.get("Error", {}).get("Code", type(error).__name__))


def printable(text: str, limit: int = 256) -> str:
    """Return text as 1 to `limit` printable ASCII characters, as SQS attributes and log lines want it."""
    ascii_text = text.encode("ascii", "backslashreplace").decode("ascii")
    clean = "".join(c if " " <= c <= "~" else " " for c in ascii_text).strip() or "-"
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
