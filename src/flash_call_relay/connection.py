"""HTTP exchanges over kept connections, each bounded in time and bytes.

urllib3's time-outs bound each wait for the socket, so a reply that drips a byte a second never times out. Here, each
wait gets the rest of the exchange's time.
"""

import contextlib
import functools
import http.client
import math
import os
import socket
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection, port_by_scheme
from urllib3.util import ALPN_PROTOCOLS, Url

from flash_call_relay.budget import Deadline, wall_clock
from flash_call_relay.http_reply import MAX_WIRE_BYTES, HTTPReply, read_reply

MAX_IDLE_S = 60.0  # a NAT gateway drops idle connections silently after 350 s


def tls_context(cafile: str | None = None) -> ssl.SSLContext:
    """Return a context that checks certificates as strictly on every Python as on the function's own, 3.13."""
    context = ssl.create_default_context(cafile=cafile)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


@functools.cache
def _shared_context(cafile: str | None, _default: str | None) -> ssl.SSLContext:
    # Loading the authorities takes 15 ms of a whole CPU, so all connections with the same ones share a context.
    context = tls_context(cafile)
    context.sslsocket_class = _BoundedSSLSocket
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    # urllib3 repeats that for each connection, and so frees memory that other threads read (python/cpython#141012).
    context.set_alpn_protocols = lambda _: None  # type: ignore[method-assign, assignment]
    return context


class Connections:
    """Connections to one server. Any number of threads may use them; each exchange has one to itself.

    Args:
        url: of the server.
        cafile: the certificate authorities to trust with https; None for the system's.
    """

    def __init__(self, url: Url, cafile: str | None = None) -> None:
        default = port_by_scheme[url.scheme or "https"]
        # Without a port, http.client would take one from an IPv6 address.
        self._host, self._port = (url.host or "").strip("[]"), url.port or default
        self._tls = _shared_context(cafile, os.environ.get("SSL_CERT_FILE")) if url.scheme == "https" else None
        self._idle: list[_Connection] = []  # the one used last comes last
        # 100, because ConnectionsPerFunction allows as many connections. Each server has threads of its own, because a
        # dead DNS keeps all of them busy.
        self._resolvers = ThreadPoolExecutor(max_workers=100, thread_name_prefix="resolver")
        host = (url.host or "").rstrip(".")
        self.host_header = host if self._port == default else f"{host}:{self._port}"

    def exchange(self, request: bytes, *, timeout_s: float) -> HTTPReply:
        """Send a request; return the reply.

        Args:
            request: its head and body.
            timeout_s: for the whole exchange, from the look-up of the name to the last byte, in seconds.

        Raises:
            OSError, http.client.HTTPException: if it fails, or takes too long.
        """
        _bound.begin(timeout_s)
        connection = self._take()
        try:
            reply = _exchange(connection, request)
        except Exception:
            connection.close()  # the rest of this reply must not answer the next request
            raise
        self._idle.append(connection)
        return reply

    def open(self, *, timeout_s: float) -> None:
        """Open a connection for a later exchange.

        Raises:
            OSError: if that fails, or takes longer than `timeout_s`.
        """
        _bound.begin(timeout_s)
        connection = self._new()
        connection.open()
        self._idle.append(connection)

    def _take(self) -> "_Connection":
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _new(self) -> "_Connection":
        connection: _Connection = (
            _HTTPSConnection(self._host, self._port, ssl_context=self._tls)
            if self._tls
            else _HTTPConnection(self._host, self._port)
        )
        connection.resolvers = self._resolvers
        return connection


def _exchange(connection: "_Connection", request: bytes) -> HTTPReply:
    # Not by the connection's own `request` and `getresponse`: they take a third of a POST's CPU (docs/decisions.md).
    if not connection.is_connected:
        connection.open()
    connection.used_at = wall_clock()
    connection.send(request)  # in one piece: two would be two TLS records
    with connection.sock.makefile("rb") as wire:  # an open file would keep the socket open
        reply, is_last = read_reply(wire)
    if is_last:
        connection.close()
    return reply


class _Bound(threading.local):
    """The rest of this thread's exchange."""

    deadline = Deadline(math.inf)
    received = 0  # bytes

    def begin(self, timeout_s: float) -> None:
        self.deadline, self.received = Deadline.after(timeout_s), 0


_bound = _Bound()


def _time_left() -> float:
    left_s = _bound.deadline.left_s
    if not left_s:
        raise TimeoutError
    return left_s


class _BoundedSocket(socket.socket):
    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # of a socket that could not be made
            self.close()  # without the ResourceWarning: a kept connection ends with its owner

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_time_left())
        _bound.received += (received := super().recv_into(*args, **kwargs))
        if _bound.received > MAX_WIRE_BYTES:
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
    resolvers: ThreadPoolExecutor

    def open(self) -> None:
        """Connect, with the rest of the exchange's time."""
        self.close()
        self.connect()
        self.used_at = wall_clock()

    def _new_conn(self) -> socket.socket:
        # The resolver has its own time-outs, so a thread runs it, and the exchange waits no longer than its own time.
        looked_up = self.resolvers.submit(socket.getaddrinfo, self._dns_host, self.port, type=socket.SOCK_STREAM)
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
        """Whether the next exchange can use the connection."""
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
        if not _is_whole_records(socket.socket.recv(sock, MAX_WIRE_BYTES, socket.MSG_PEEK)):
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
