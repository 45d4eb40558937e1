"""Send one result in one POST, bounded in time and size, and return the endpoint's answer."""

import functools
import http.client
import io
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
from urllib3.connection import HTTPConnection, HTTPSConnection, port_by_scheme
from urllib3.util import Url, parse_url

from flash_call_relay import __version__
from flash_call_relay.budget import Deadline, wall_clock
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import Answer, FlashCallResult, NoReply, Reason, Reply, printable
from flash_call_relay.settings import Settings

MAX_REPLY_BYTES = 64 * 1024
MAX_WIRE_BYTES = 4 * MAX_REPLY_BYTES  # with headers and chunk framing
COMPRESSIONS = ("gzip", "x-gzip", "deflate")
ENCODINGS = ("", "identity", *COMPRESSIONS)  # several layers could expand without limit
MAX_IDLE_S = 60.0  # a NAT gateway drops idle connections silently after 350 s
ECHO_RUN = 6  # characters
USER_AGENT = f"flash-call-relay/{__version__}"


def tls_context() -> ssl.SSLContext:
    """Return a context that checks certificates as strictly on every Python as on the function's own, 3.13."""
    context = ssl.create_default_context()
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Webhook:
    """The endpoint. Any number of threads may call `post`; each attempt has a connection to itself."""

    def __init__(self, settings: Settings) -> None:
        self.timeout_s = settings.request_timeout_seconds
        self._target = parse_url(settings.webhook_url)
        self._tls = tls_context() if self._target.scheme == "https" else None
        if self._tls:
            self._tls.sslsocket_class = _BoundedSSLSocket
        self._idle: list[_Connection] = []  # the one used last comes last

    def post(self, result: FlashCallResult, credentials: Credentials) -> Answer:
        """Make one attempt, of `timeout_s` seconds at most.

        Returns:
            The endpoint's reply, or why there is none. A failure of the endpoint or the network raises nothing.
        """
        began = time.monotonic()
        _attempt.begin(self.timeout_s)
        connection = self._connection()
        try:
            reply = _exchange(connection, _request(self._target, result, credentials))
            body = _body(reply)
            json_object = _json_object(body)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            connection.close()  # the rest of this reply must not answer the next request
            return replace(_no_reply(error), duration_ms=(time.monotonic() - began) * 1000)
        if reply.will_close or reply.status < 200:
            connection.close()  # after an interim reply, the real one is still to come
        self._idle.append(connection)
        return Reply(
            http_status=reply.status,
            json_object=json_object,
            duration_ms=(time.monotonic() - began) * 1000,
            retry_after=reply.headers.get("Retry-After"),
            message=_message(json_object, body, credentials),
        )

    def connect(self) -> None:
        """Open a connection for a later attempt.

        Raises:
            OSError: if that fails, or takes longer than `timeout_s`.
        """
        _attempt.begin(self.timeout_s)
        connection = self._new_connection()
        connection.open()
        self._idle.append(connection)

    def _connection(self) -> "_Connection":
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_connection()

    def _new_connection(self) -> "_Connection":
        # Without a port, http.client would take one from an IPv6 address.
        host, port = (self._target.host or "").strip("[]"), self._target.port or _default_port(self._target)
        return _HTTPSConnection(host, port, ssl_context=self._tls) if self._tls else _HTTPConnection(host, port)


def _default_port(target: Url) -> int:
    return port_by_scheme[target.scheme or "https"]


def _request(target: Url, result: FlashCallResult, credentials: Credentials) -> bytes:
    body = json.dumps({"uuid": result.uuid, "status": result.status}).encode()
    return b"%sContent-Length: %d\r\n\r\n%s" % (_head(target, credentials), len(body), body)


@functools.lru_cache(maxsize=4)
def _head(target: Url, credentials: Credentials) -> bytes:
    host = (target.host or "").rstrip(".")
    if target.port not in (None, _default_port(target)):
        host = f"{host}:{target.port}"
    return (
        f"POST {target.request_uri} HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Accept-Encoding: identity\r\n"
        "Content-Type: application/json\r\n"
        f"User-Agent: {USER_AGENT}\r\n"
        f"x-api-key: {credentials.api_key}\r\n"
        f"x-user-id: {credentials.user_id}\r\n"
    ).encode("ascii")


def _exchange(connection: "_Connection", request: bytes) -> http.client.HTTPResponse:
    # Not by the connection's own `request` and `getresponse`: they take a third of a POST's CPU (docs/decisions.md).
    if not connection.is_connected:
        connection.open()
    connection.used_at = wall_clock()
    connection.send(request)  # in one piece: two would be two TLS records
    response = http.client.HTTPResponse(connection.sock, method="POST")
    response.begin()
    return response


def _body(response: http.client.HTTPResponse) -> bytes:
    encoding = ", ".join(response.headers.get_all("Content-Encoding", ())).lower()
    lengths = ",".join(response.headers.get_all("Content-Length", ())).split(",")
    if len({length.strip() for length in lengths}) > 1:  # http.client goes by the first header, and ignores a list
        raise http.client.HTTPException
    try:
        body = response.read(MAX_REPLY_BYTES + 1)
    except ValueError as error:  # http.client accepts a negative size of a chunk, and then fails
        raise http.client.HTTPException from error
    is_short = bool(response.length)  # the bytes that are still missing
    if is_short or len(body) > MAX_REPLY_BYTES or encoding not in ENCODINGS:
        raise http.client.HTTPException
    return _decompressed(body, encoding) if encoding in COMPRESSIONS else body


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

    def begin(self, timeout_s: float) -> None:
        self.deadline, self.received = Deadline.after(timeout_s), 0


_attempt = _Attempt()
# As many as ConnectionsPerFunction allows.
_resolvers = ThreadPoolExecutor(max_workers=100, thread_name_prefix="resolver")


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


class _Connection(HTTPConnection):
    used_at = -math.inf  # in seconds of the wall clock

    def open(self) -> None:
        """Connect, with the rest of the attempt's time."""
        self.close()
        self.connect()
        self.used_at = wall_clock()

    def __del__(self) -> None:
        self.close()

    def _new_conn(self) -> socket.socket:
        # The resolver has its own time-outs, so a thread runs it, and the attempt waits no longer than its own time.
        looked_up = _resolvers.submit(socket.getaddrinfo, self._dns_host, self.port, type=socket.SOCK_STREAM)
        try:
            addresses = looked_up.result(timeout=_time_left())
        except UnicodeError as error:
            raise OSError("the name cannot be encoded") from error
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

    @property
    def is_connected(self) -> bool:
        """Whether the next attempt can use the connection."""
        if self.sock is None or not 0 <= wall_clock() - self.used_at <= MAX_IDLE_S:
            return False
        if not isinstance(self.sock, ssl.SSLSocket):
            return super().is_connected
        return (super().is_connected and not self.sock.pending()) or _has_only_tickets(self.sock)


def _has_only_tickets(sock: ssl.SSLSocket) -> bool:
    """Return whether the unread bytes are TLS 1.3 session tickets, which a server sends after the handshake.

    Otherwise they are the end of the connection, or belong to no request.
    """
    sock.settimeout(0)
    try:
        # The rest of a record that came in part would be read after the next request.
        if not _is_whole_records(socket.socket.recv(sock, MAX_REPLY_BYTES, socket.MSG_PEEK)):
            return False
        sock.recv(1)
    except ssl.SSLWantReadError:
        return True
    except OSError:
        return False
    return False


def _is_whole_records(data: bytes) -> bool:
    end = 0
    while end < len(data):
        end += 5 + int.from_bytes(data[end + 3 : end + 5])  # the length of a TLS record ends its header of five bytes
    return end == len(data)


class _HTTPConnection(_Connection, HTTPConnection):
    pass


class _HTTPSConnection(_Connection, HTTPSConnection):
    pass
