"""Send one result in one POST, bounded in time and size, and return the endpoint's answer."""

import functools
import http.client
import io
import json
import re
import ssl
import time
from dataclasses import replace
from typing import Any

import urllib3
from urllib3.util import Url, parse_url

from flash_call_relay import __version__
from flash_call_relay.connection import Connections
from flash_call_relay.credentials import Credentials
from flash_call_relay.http_reply import HTTPReply
from flash_call_relay.models import Answer, FlashCallResult, NoReply, Reason, Reply, printable
from flash_call_relay.settings import Settings

MAX_REPLY_BYTES = 64 * 1024
COMPRESSIONS = ("gzip", "x-gzip", "deflate")
ENCODINGS = ("", "identity", *COMPRESSIONS)  # several layers could expand without limit
ECHO_RUN = 6  # characters
USER_AGENT = f"flash-call-relay/{__version__}"


class Webhook:
    """The endpoint. Any number of threads may call `post`; each attempt has a connection to itself."""

    def __init__(self, settings: Settings) -> None:
        self.timeout_s = settings.request_timeout_seconds
        self._target = parse_url(settings.webhook_url)
        self._connections = Connections(self._target)

    def post(self, result: FlashCallResult, credentials: Credentials) -> Answer:
        """Make one attempt, of `timeout_s` seconds at most.

        Returns:
            The endpoint's reply, or why there is none. A failure of the endpoint or the network raises nothing.
        """
        began = time.monotonic()
        request = _request(self._target, self._connections.host_header, result, credentials)
        try:
            reply = self._connections.exchange(request, timeout_s=self.timeout_s)
            body = _body(reply)
        except (urllib3.exceptions.DecodeError, http.client.HTTPException, OSError) as error:
            return replace(_no_reply(error), duration_ms=(time.monotonic() - began) * 1000)
        json_object = _json_object(body)
        return Reply(
            http_status=reply.status,
            json_object=json_object,
            duration_ms=(time.monotonic() - began) * 1000,
            retry_after=reply.headers.get("retry-after"),
            message=_message(json_object, body, credentials),
        )

    def connect(self) -> None:
        """Open a connection for a later attempt.

        Raises:
            OSError: if that fails, or takes longer than `timeout_s`.
        """
        self._connections.open(timeout_s=self.timeout_s)


def _request(target: Url, host: str, result: FlashCallResult, credentials: Credentials) -> bytes:
    body = json.dumps({"uuid": result.uuid, "status": result.status}).encode()
    return b"%sContent-Length: %d\r\n\r\n%s" % (_head(target, host, credentials), len(body), body)


@functools.lru_cache(maxsize=4)
def _head(target: Url, host: str, credentials: Credentials) -> bytes:
    return (
        f"POST {target.request_uri} HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Accept-Encoding: identity\r\n"
        "Content-Type: application/json\r\n"
        f"User-Agent: {USER_AGENT}\r\n"
        f"x-api-key: {credentials.api_key}\r\n"
        f"x-user-id: {credentials.user_id}\r\n"
    ).encode("ascii")


def _body(reply: HTTPReply) -> bytes:
    encoding = reply.headers.get("content-encoding", "").lower()
    if len(reply.body) > MAX_REPLY_BYTES or encoding not in ENCODINGS:
        raise http.client.HTTPException
    return _decompressed(reply.body, encoding) if encoding in COMPRESSIONS else reply.body


def _decompressed(body: bytes, encoding: str) -> bytes:
    reply = urllib3.HTTPResponse(io.BytesIO(body), {"Content-Encoding": encoding}, preload_content=False)
    plain = bytearray()
    while chunk := reply.read(8192, decode_content=True):
        plain += chunk
        if len(plain) > MAX_REPLY_BYTES:
            raise http.client.HTTPException
    return bytes(plain)


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key is repeated, so its value is ambiguous")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_unambiguous)


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


_FAILURES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Reason, str], ...] = (
    (TimeoutError, Reason.TIMEOUT, "no whole answer in time"),
    (ssl.SSLError, Reason.TLS_FAILED, "TLS failed"),
    ((http.client.HTTPException, urllib3.exceptions.DecodeError), Reason.BAD_REPLY, "no whole HTTP reply"),
    (OSError, Reason.CONNECTION_FAILED, "no connection"),
)


def _no_reply(error: Exception) -> NoReply:
    """Classify a failed attempt by the first kind that matches. Quotes nothing that the endpoint sent."""
    reason, text = next((reason, text) for kind, reason, text in _FAILURES if isinstance(error, kind))
    words = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or ""
    return NoReply(reason, f"{text} ({type(error).__name__} {words}".rstrip() + ")")
