"""Read what a reply says: its JSON object, a message without credentials, and the wait that it asks for."""

import contextlib
import functools
import io
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3

from flash_call_relay.connections import UnfitReplyError
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import Reply
from flash_call_relay.text import InvalidJSONError, decode_json, printable

MAX_BYTES = 64 * 1024  # of a body, decompressed
MAX_RETRY_AFTER_S = 900.0
ECHO_RUN = 6  # characters


def read_body(response: urllib3.HTTPResponse) -> bytes:
    """Return the whole body, decompressed. A body that is not coded as its headers say is returned as it is.

    Raises:
        UnfitReplyError: the body is larger than `MAX_BYTES`.
        urllib3.exceptions.HTTPError, http.client.HTTPException: it is not whole.
    """
    body = raw = response.read(MAX_BYTES + 1, decode_content=False)
    if len(raw) <= MAX_BYTES and response.length_remaining:
        response.read(1, decode_content=False)  # only at its end urllib3 reports a body that is cut short
    if coding := response.headers.get("Content-Encoding"):
        coded = urllib3.HTTPResponse(io.BytesIO(raw), {"Content-Encoding": coding}, preload_content=False)
        with contextlib.suppress(urllib3.exceptions.DecodeError):
            body = coded.read(MAX_BYTES + 1)
    if max(len(raw), len(body)) > MAX_BYTES:
        raise UnfitReplyError("the reply is too large")
    return body


def parse(http_status: int, headers: Mapping[str, str], body: bytes, credentials: Credentials) -> Reply:
    """Return what a whole reply says."""
    json_object, wait_s = _json_object(body), retry_after_s(headers.get("Retry-After"), time.time())
    return Reply(http_status, json_object, _masked(_message(json_object, body), credentials), wait_s=wait_s)


def retry_after_s(value: str | None, now: float) -> float | None:
    """Return the wait that a `Retry-After` header asks for, as a number of seconds or as an HTTP date.

    0 to 900 seconds; None for a header that is missing or cannot be read. `now` is in seconds since the epoch.
    """
    text = (value or "").strip()
    number = text.partition(",")[0]  # a proxy may have repeated the header
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", number):
        return min(float(number), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, min(math.ceil(moment.timestamp() - now), MAX_RETRY_AFTER_S))
    except (ValueError, TypeError, OverflowError):
        return None


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = decode_json(body)
    except InvalidJSONError:
        return None
    return document if isinstance(document, dict) else None


_TITLE = re.compile(r"<title\b[^<>]{0,100}>([^<]+)", re.IGNORECASE)


def _message(json_object: dict[str, Any] | None, body: bytes) -> str:
    """Return the API's own message, or the title of a page that came instead."""
    if json_object is None:
        title = _TITLE.search(body.decode(errors="replace"))
        return title[1].strip() if title else ""
    message = json_object.get("message")
    return message if isinstance(message, str) else ""


def _masked(text: str, credentials: Credentials) -> str:
    """Return text that the endpoint sent, printable and free of credentials, 120 characters at most."""
    if not text:
        return ""
    values = sorted((credentials.api_key, credentials.user_id), key=len, reverse=True)
    # Made printable first, because a line break becomes a space, and a credential may hold a space.
    shown = re.sub("|".join(map(re.escape, values)), "***", printable(text, limit=MAX_BYTES), flags=re.IGNORECASE)
    # Six characters in a row of a credential are an echo that is cut short or encoded. A pattern would take seconds.
    return printable(shown, 120) if _runs(*values).isdisjoint(_runs(shown)) else "(withheld)"


@functools.lru_cache(maxsize=16)
def _runs(*texts: str) -> set[str]:
    return {text[at : at + ECHO_RUN].lower() for text in texts for at in range(len(text) - ECHO_RUN + 1)}
