"""Connections of urllib3 to the endpoint, kept for later attempts. A whole attempt is bounded, not each wait in it.

urllib3's time-outs bound each wait for the socket, so a reply that drips a byte a second would never time out.
"""

import contextlib
import functools
import http.client
import math
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from urllib3.connection import HTTPConnection, HTTPSConnection, port_by_scheme
from urllib3.util import ALPN_PROTOCOLS, Url

from flash_call_relay.budget import Deadline, wall_clock

MAX_WIRE_BYTES = 256 * 1024  # of one reply as it is sent, with its head
MAX_IDLE_S = 60.0  # a NAT gateway drops idle connections silently after 350 s


class UnfitReplyError(http.client.HTTPException):
    """The endpoint's reply is not one that the relay reads. The message says why."""


class StaleConnectionError(Exception):
    """A kept connection has ended before it brought a byte of the reply."""


class _BoundedSocket(socket.socket):
    """A socket from which one attempt receives until `deadline`, and `MAX_WIRE_BYTES` at most."""

    deadline = Deadline(math.inf)
    received = 0

    def begin_attempt(self, deadline: Deadline) -> None:
        self.deadline, self.received = deadline, 0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if not (left_s := self.deadline.left_s):
            raise TimeoutError
        self.settimeout(left_s)
        self.received += (size := super().recv_into(*args, **kwargs))
        if self.received > MAX_WIRE_BYTES:
            raise UnfitReplyError("the reply is too large")
        return size


class _BoundedSSLSocket(_BoundedSocket, ssl.SSLSocket):
    pass


class _SSLContext(ssl.SSLContext):
    sslsocket_class = _BoundedSSLSocket

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Do nothing: urllib3 calls it per connection, while other threads use the context (python/cpython#141012)."""


def tls_context() -> ssl.SSLContext:
    """Return the context with which the relay connects to the endpoint.

    It trusts the system's authorities, and checks certificates as strictly on every Python as on the function's own.
    """
    context = _SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ssl.SSLContext.set_alpn_protocols(context, ALPN_PROTOCOLS)
    context.load_default_certs()
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class _HTTPConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = _BoundedSocket(fileno=self.sock.detach())


class Connections:
    """Connections to one server, for any number of threads.

    `timeout_s` bounds one attempt, in seconds. `threads` make attempts at the same time.
    """

    def __init__(self, url: Url, timeout_s: float, threads: int) -> None:
        # Half of an attempt for each address, so that a silent one leaves time for another. Always with a port:
        # http.client would take one from an IPv6 address.
        scheme, connect_s = url.scheme or "https", timeout_s / 2
        address: Any = ((url.host or "").strip("[]"), url.port or port_by_scheme[scheme])
        self._new: Callable[[], HTTPConnection] = functools.partial(_HTTPConnection, *address, timeout=connect_s)
        if scheme == "https":
            self._new = functools.partial(HTTPSConnection, *address, timeout=connect_s, ssl_context=tls_context())
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="connect")
        self._idle: list[tuple[HTTPConnection, float]] = []  # with the time of the last use; the one used last is last

    @contextlib.contextmanager
    def borrow(self, deadline: Deadline, *, kept: bool) -> Iterator[HTTPConnection]:
        """Lend a connection for one attempt, and keep it for another if the attempt raises nothing.

        Lend a new one if `kept` is false, or there is no kept one.

        Raises:
            StaleConnectionError: the attempt may succeed on a new connection.
            OSError, urllib3.exceptions.HTTPError: there is no connection before the deadline.
        """
        reused = self._take() if kept else None
        connection = reused or self._connect(deadline)
        sock = cast("_BoundedSocket", connection.sock)
        sock.begin_attempt(deadline)
        try:
            yield connection
        except BaseException as error:
            connection.close()  # the rest of this reply must not answer the next request
            if reused and not sock.received:
                self._close_idle()  # what ended this connection may have ended the others, too
                if not isinstance(error, TimeoutError):
                    raise StaleConnectionError from error
            raise
        self._idle.append((connection, wall_clock()))

    def _take(self) -> HTTPConnection | None:
        with contextlib.suppress(IndexError):
            while True:
                connection, used_at = self._idle.pop()
                sock, is_recent = connection.sock, 0 <= wall_clock() - used_at <= MAX_IDLE_S
                has_unread = isinstance(sock, ssl.SSLSocket) and sock.pending()  # it would be taken for the next reply
                if connection.is_connected and is_recent and not has_unread:
                    return connection
                connection.close()
        return None

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _connect(self, deadline: Deadline) -> HTTPConnection:
        """Connect in another thread: no time-out bounds the look-up of the name, all addresses and the handshake."""
        connection = self._new()
        connecting = self._threads.submit(connection.connect)
        try:
            connecting.result(timeout=deadline.left_s)
        except BaseException:
            connecting.cancel()
            connecting.add_done_callback(lambda _: connection.close())  # even if it connects later
            raise
        return connection
