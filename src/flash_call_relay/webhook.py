"""A result and credentials into the endpoint's answer: one POST, bounded in time and size."""

import http.client
import json
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.util import parse_url

from flash_call_relay import __version__
from flash_call_relay.budget import Deadline
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import Answer, FlashCallResult, NoReply, Reason, Reply, printable
from flash_call_relay.settings import Settings

MAX_REPLY_BYTES = 64 * 1024
MAX_WIRE_BYTES = 4 * MAX_REPLY_BYTES  # headers, chunks' framing and all
ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")  # layers of compression would cost without bounds
MAX_IDLE_S = 60.0  # a NAT gateway drops idle connections silently after 350 s
ECHO_RUN = 6  # characters
USER_AGENT = f"flash-call-relay/{__version__}"


def tls_context() -> ssl.SSLContext:
    """Return a context that checks certificates as strictly on every Python as on the function's own, 3.13."""
    context = ssl.create_default_context()
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Webhook:
    """The endpoint. As many threads as there are connections may call `post` at the same time."""

    def __init__(self, settings: Settings) -> None:
        target = parse_url(settings.webhook_url)
        self.timeout_s, self._path = settings.request_timeout_seconds, target.request_uri
        tls: dict[str, ssl.SSLContext] = {}
        if target.scheme == "https":
            tls["ssl_context"] = tls_context()
            tls["ssl_context"].sslsocket_class = _BoundedSSLSocket
        size, timeout_s = settings.connections_per_function, self.timeout_s
        self._pool = urllib3.connection_from_url(target.url, maxsize=size, block=True, timeout=timeout_s, **tls)
        self._pool.ConnectionCls = _BoundedHTTPSConnection if tls else _BoundedHTTPConnection

    def post(self, result: FlashCallResult, credentials: Credentials) -> Answer:
        """Make one attempt, of `timeout_s` seconds at most.

        Returns:
            The endpoint's reply, or why there is none. A failure of the endpoint or the network raises nothing.
        """
        began = time.monotonic()
        _attempt.deadline, _attempt.received = Deadline.after(self.timeout_s), 0
        try:
            response = self._pool.urlopen(
                "POST",
                self._path,
                body=json.dumps({"uuid": result.uuid, "status": result.status}).encode(),
                headers={
                    "Content-Type": "application/json",
                    "x-api-key": credentials.api_key,
                    "x-user-id": credentials.user_id,
                    "User-Agent": USER_AGENT,
                },
                retries=False,
                redirect=False,  # urllib3 would send the credentials along, and can lose the connection over a bad one
                pool_timeout=self.timeout_s,
                preload_content=False,
            )
            if response.status < 200:
                response.close()  # the real reply is still to come, and must not answer the next request
            json_object = _json_object(_read(response))
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            return replace(_no_reply(error), duration_ms=(time.monotonic() - began) * 1000)
        return Reply(
            http_status=response.status,
            json_object=json_object,
            duration_ms=(time.monotonic() - began) * 1000,
            retry_after=response.headers.get("Retry-After"),
            message=_message(json_object, credentials),
        )


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    body, whole = bytearray(), False
    readable = response.headers.get("Content-Encoding", "").lower() in ENCODINGS
    try:
        while readable and len(body) <= MAX_REPLY_BYTES and (chunk := response.read(8192, decode_content=True)):
            body += chunk
        whole = readable and len(body) <= MAX_REPLY_BYTES
    except ValueError as error:  # http.client goes by a chunk's negative size
        raise http.client.HTTPException from error
    finally:
        if not whole:
            response.close()  # the rest of this reply must not be read as the next one
        response.release_conn()
    if not whole:
        raise http.client.HTTPException
    return bytes(body)


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body, object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key is repeated, so its value is ambiguous")
    return members


def _message(json_object: dict[str, Any] | None, credentials: Credentials) -> str:
    message = (json_object or {}).get("message")
    if not isinstance(message, str):
        return ""
    values = sorted((credentials.api_key.lower(), credentials.user_id.lower()), key=len, reverse=True)
    # First, since a text can turn into a credential when it is made printable.
    readable = printable(message, limit=MAX_REPLY_BYTES)
    shown = re.sub("|".join(map(re.escape, values)), "***", readable, flags=re.IGNORECASE)
    # An echo that is cut short or encoded still holds some of a credential's characters in a row.
    runs = (value[start : start + ECHO_RUN] for value in values for start in range(len(value) - ECHO_RUN + 1))
    return "(withheld)" if any(run in shown.lower() for run in runs) else printable(shown, 120)


_FAILURES: tuple[tuple[type[Exception], Reason, str], ...] = (
    (TimeoutError, Reason.TIMEOUT, "no whole answer in time"),
    (ssl.SSLError, Reason.TLS_FAILED, "TLS failed"),
    (http.client.HTTPException, Reason.BAD_REPLY, "no whole HTTP reply"),
    (urllib3.exceptions.DecodeError, Reason.BAD_REPLY, "no whole HTTP reply"),
    (urllib3.exceptions.InvalidHeader, Reason.BAD_REPLY, "no whole HTTP reply"),
    (OSError, Reason.CONNECTION_FAILED, "no connection"),
)


def _no_reply(error: BaseException) -> NoReply:
    """Classify a failed attempt by the first known exception in its chain. Quotes nothing that the endpoint sent."""
    cause: BaseException | None = error
    while cause is not None:
        for kind, reason, text in _FAILURES:
            if isinstance(cause, kind):
                words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or ""
                return NoReply(reason, f"{text} ({type(cause).__name__} {words}".rstrip() + ")")
        # urllib3 keeps the cause of a ProtocolError in its arguments.
        cause = next((arg for arg in cause.args if isinstance(arg, Exception)), cause.__cause__ or cause.__context__)
    return NoReply(Reason.CONNECTION_FAILED, f"no connection ({type(error).__name__})")


# ---- the bound on one attempt ----
# urllib3's time-outs bound each wait for the socket, so a reply that drips a byte a second never times out.
# Here, each wait gets the rest of the attempt's time.


class _Attempt(threading.local):
    deadline = Deadline(math.inf)
    received = 0  # bytes


_attempt = _Attempt()
_resolvers = ThreadPoolExecutor(max_workers=100, thread_name_prefix="resolver")  # as many as there can be connections


def _time_left() -> float:
    left_s = _attempt.deadline.left_s
    if not left_s:
        raise TimeoutError
    return left_s


class _BoundedSocket(socket.socket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_time_left())
        _attempt.received += (received := super().recv_into(*args, **kwargs))
        if _attempt.received > MAX_WIRE_BYTES:
            raise http.client.HTTPException
        return received

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_time_left())
        super().sendall(*args, **kwargs)


class _BoundedSSLSocket(_BoundedSocket, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature is ssl's
        self.settimeout(_time_left())
        super().do_handshake(block)


def _connect(kind: Sequence[int], address: Any, timeout_s: float) -> socket.socket:
    sock = _BoundedSocket(*kind)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(timeout_s)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


class _BoundedHTTPConnection(HTTPConnection):
    _used_at = -math.inf

    def _new_conn(self) -> socket.socket:
        try:
            return self._connected()
        except (
            OSError,
            UnicodeError,
        ) as error:  # urllib3 would take a bare reset for one of the request, and go on reading
            raise NewConnectionError(self, "no connection") from error

    def _connected(self) -> socket.socket:
        # A resolver's time-outs are its own, so a thread waits for it.
        looked_up = _resolvers.submit(socket.getaddrinfo, self._dns_host, self.port, type=socket.SOCK_STREAM)
        try:
            addresses = looked_up.result(timeout=_time_left())
        finally:
            looked_up.cancel()
        failure = OSError("the name has no address")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            share_s = _time_left() / (len(addresses) - number)  # a silent address leaves time for the others
            try:
                return _connect((family, kind, protocol), address, share_s)
            except OSError as error:
                failure = error
        raise failure

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._used_at = time.monotonic()
        super().request(*args, **kwargs)

    @property
    def is_connected(self) -> bool:
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return False  # the TLS layer holds bytes that belong to no request
        return super().is_connected and time.monotonic() - self._used_at < MAX_IDLE_S


class _BoundedHTTPSConnection(_BoundedHTTPConnection, HTTPSConnection):
    pass
