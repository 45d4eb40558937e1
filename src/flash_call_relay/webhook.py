"""Send one result in one POST, bounded in time and size, and return the endpoint's answer."""

import functools
import http.client
import json
import re
import ssl
import time
from typing import Any

import urllib3

from flash_call_relay import __version__
from flash_call_relay.budget import Deadline
from flash_call_relay.connections import Connections
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import FlashCallResult, Judgement, Reason, Reply
from flash_call_relay.settings import Settings
from flash_call_relay.text import InvalidJSONError, decode_json, printable

MAX_REPLY_BYTES = 64 * 1024  # of a body, decompressed
ECHO_RUN = 6  # characters
USER_AGENT = f"flash-call-relay/{__version__}"


class Webhook:
    """The endpoint. Any number of threads may call `post`; each attempt has a connection to itself."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.request_timeout_seconds
        url = urllib3.util.parse_url(settings.webhook_url)
        self._path = url.request_uri
        self._connections = Connections(url, self._timeout_s, settings.connections_per_function)

    def post(self, result: FlashCallResult, credentials: Credentials) -> Reply | Judgement:
        """Make one attempt, of `RequestTimeoutSeconds` at most.

        Returns:
            The endpoint's whole reply, or why there is none. A failure of the endpoint or the network raises nothing.
        """
        began = time.monotonic()
        document = json.dumps({"uuid": result.uuid, "status": result.status})
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "x-api-key": credentials.api_key,
            "x-user-id": credentials.user_id,
        }
        try:
            with self._connections.borrow(Deadline(began + self._timeout_s)) as connection:
                # A connection, unlike a pool, follows no redirect and repeats nothing.
                connection.request("POST", self._path, document, headers, preload_content=False)
                reply = connection.getresponse()
                body = _read(reply)
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError, OverflowError) as error:
            return _no_reply(error, duration_ms=(time.monotonic() - began) * 1000)
        json_object = _json_object(body)
        return Reply(
            http_status=reply.status,
            json_object=json_object,
            message=_message(json_object, body, credentials),
            retry_after=reply.headers.get("Retry-After"),
            duration_ms=(time.monotonic() - began) * 1000,
        )


def _read(reply: urllib3.HTTPResponse) -> bytes:
    """Return the whole body, decompressed.

    Raises:
        http.client.HTTPException: the body is too large, or the reply is an interim one. http.client skips only the
            status 100. After another one, the real reply would answer the connection's next request.
    """
    body: bytes = reply.read(MAX_REPLY_BYTES + 1)
    if len(body) > MAX_REPLY_BYTES or reply.status < 200:
        raise http.client.HTTPException
    return body


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = decode_json(body)
    except InvalidJSONError:
        return None
    return document if isinstance(document, dict) else None


_TITLE = re.compile(r"<title\b[^<>]{0,100}>([^<]+)", re.IGNORECASE)


def _message(json_object: dict[str, Any] | None, body: bytes, credentials: Credentials) -> str:
    """Return the API's own message, or the title of a page that came instead; free of credentials."""
    if json_object is not None:
        message = json_object.get("message")
    else:
        title = _TITLE.search(body.decode(errors="replace"))
        message = title and title[1].strip()
    if not message or not isinstance(message, str):
        return ""
    echo, runs = _echoes(credentials)
    # Made printable first, because a line break becomes a space, and a credential may hold a space.
    shown = echo.sub("***", printable(message, limit=MAX_REPLY_BYTES))
    parts = (shown[start : start + ECHO_RUN].lower() for start in range(len(shown) - ECHO_RUN + 1))
    return printable(shown, 120) if runs.isdisjoint(parts) else "(withheld)"


@functools.lru_cache(maxsize=4)
def _echoes(credentials: Credentials) -> tuple[re.Pattern[str], frozenset[str]]:
    """Return a pattern for whole credentials, and each six characters in a row of them, in lower case.

    The six characters find an echo that is cut short or encoded. A pattern of them would take seconds for a long reply.
    """
    values = sorted((credentials.api_key, credentials.user_id), key=len, reverse=True)
    runs = {value[start : start + ECHO_RUN].lower() for value in values for start in range(len(value) - ECHO_RUN + 1)}
    return re.compile("|".join(map(re.escape, values)), re.IGNORECASE), frozenset(runs)


_FAILURES: tuple[tuple[type[Exception], Reason, str], ...] = (
    (TimeoutError, Reason.TIMEOUT, "no whole answer in time"),
    (ssl.SSLError, Reason.TLS_FAILED, "TLS failed"),
    (http.client.HTTPException, Reason.BAD_REPLY, "no whole HTTP reply"),
    (OSError, Reason.CONNECTION_FAILED, "no connection"),
    (Exception, Reason.BAD_REPLY, "no whole HTTP reply"),  # wrong sizes, lengths and encodings
)


def _no_reply(error: Exception, duration_ms: float) -> Judgement:
    """Classify a failed attempt by the first kind that matches. Quotes nothing that the endpoint sent."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # urllib3 wraps most errors
    reason, text = next((reason, text) for kind, reason, text in _FAILURES if isinstance(cause, kind))
    words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or ""
    detail = printable(f"{text} ({type(cause).__name__} {words}".rstrip() + ")")
    return Judgement(reason, detail, duration_ms=duration_ms)
