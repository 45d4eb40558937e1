"""A server on a loopback port, which answers each request by a script: that of the stand-in, and of the soak."""

import contextlib
import math
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from local.endpoint.behaviour import Act, Headers, Step, json_reply

Accept = Callable[[], None]
# Takes a request's method, path, headers and body; returns the script of the answer, and what `Act.ACCEPT` calls in it.
Respond = Callable[[str, str, Headers, bytes], tuple[Iterator[Step], Accept]]


class Server:
    """The server, which runs while the context is entered.

    Args:
        respond: decides the answer to a request.
        tls: a server's context, for https.
        port: the loopback port to listen on; 0 for any free one, which is here once it runs.
        admits: is called for each new connection, which is reset if the value is false.
    """

    def __init__(
        self,
        respond: Respond,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        admits: Callable[[], bool] = lambda: True,
    ) -> None:
        self.port = port
        self._respond, self._tls, self._admits = respond, tls, admits
        self._open: set[Connection] = set()
        self._bug: Exception | None = None

    def __enter__(self) -> Self:
        """Listen on the port.

        Raises:
            OSError: the port is taken.
        """
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._take_connections, name="server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop, and reset the open connections.

        Raises:
            RuntimeError: an answer has failed by a bug.
        """
        self._stopped.set()
        with socket.socket() as waking:
            waking.connect(("127.0.0.1", self.port))
            self._thread.join()
        self.end_connections(Act.RESET, also_writing=True)
        if self._bug and (not exc_info or exc_info[0] is None):
            raise RuntimeError("the stand-in itself, or another local server, has failed") from self._bug

    def end_connections(self, how: Act, *, also_writing: bool = False) -> None:
        """End the open connections in this way; return when it is done."""
        connections = self._open.copy()
        for connection in connections:
            connection.end(how, also_writing=also_writing)
        for connection in connections:
            if how is not Act.CUT and connection.ident:  # the client ends what is cut; one may not have begun
                connection.join()

    def _take_connections(self) -> None:
        with self._listener:
            while True:
                client, _ = self._listener.accept()
                if self._stopped.is_set():
                    client.close()
                    return
                if self._admits():
                    self._serve(client)
                else:
                    _reset_on_close(client)
                    client.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            connection = Connection(client, self._tls, self._respond, self._is_over)
        except OSError:  # the client has left
            client.close()
            return
        self._open.add(connection)
        connection.start()

    def _is_over(self, connection: "Connection", bug: Exception | None) -> None:
        self._open.discard(connection)
        self._bug = self._bug or bug


def _reset_on_close(client: socket.socket) -> None:
    """Have the close of a socket send RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # linger for 0 s


class Connection(threading.Thread):
    """One client's connection, in a thread of its own. It answers pipelined requests in order.

    Args:
        client: the accepted socket.
        tls: the server's context, for https.
        respond: decides the answer to a request.
        is_over: takes the connection at its end, and a bug that ended it.
    """

    def __init__(
        self,
        client: socket.socket,
        tls: ssl.SSLContext | None,
        respond: Respond,
        is_over: Callable[["Connection", Exception | None], None],
    ) -> None:
        super().__init__(name="stand-in's connection", daemon=True)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False) if tls else client
        self._respond, self._is_over = respond, is_over
        self._how: Act | None = None  # in which it ends
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until one of both sides ends the connection."""
        bug = None
        try:
            with self._client, self._client.makefile("rb") as self._file, contextlib.suppress(OSError):
                if isinstance(self._client, ssl.SSLSocket):
                    self._client.do_handshake()
                while self._answer_next():
                    pass
                self._finish()
        except Exception as error:  # noqa: BLE001 - `Server` raises it
            bug = error
        self._is_over(self, bug)

    def end(self, how: Act, *, also_writing: bool = False) -> None:
        """End the connection in this way, from another thread: nothing more is read, or with `Act.CUT` sent."""
        self._how = how
        self._ended.set()
        part = socket.SHUT_RDWR if also_writing else socket.SHUT_WR if how is Act.CUT else socket.SHUT_RD
        with contextlib.suppress(OSError):  # it has ended already
            self._raw(socket.socket.shutdown, part)

    def _raw(self, method: Callable[..., Any], *arguments: object) -> Any:
        return method(self._client, *arguments)  # of the TCP socket, under TLS, too

    def _answer_next(self) -> bool:
        """Answer the next request; return whether the connection stays open."""
        try:
            request = self._read()
        except ValueError:
            self._client.sendall(json_reply(400, {"message": "Not understood"}).wire())
            return False
        if request is None or self._how:
            return False
        try:
            script, accept = self._respond(*request)
        except OSError as error:
            raise RuntimeError("not the client's error") from error
        return self._run(script, accept) and ("connection", "close") not in {
            (name.lower(), value.lower()) for name, value in request[2]
        }

    def _read(self) -> tuple[str, str, Headers, bytes] | None:
        """Return the method, path, headers and body of the next request; None if there is none."""
        if not (start := self._file.peek(1)[:1]):
            return None
        if not start.isalpha():
            raise ValueError("another protocol, which may have no lines")
        lines = list(iter(lambda: self._file.readline().decode("latin-1").rstrip("\r\n"), ""))
        method, path, _ = lines[0].split(" ")
        pairs = [line.partition(":")[::2] for line in lines[1:]]
        headers = tuple((name, value.strip()) for name, value in pairs)
        length = int({name.lower(): value for name, value in headers}.get("content-length", "0"))
        body = self._file.read(length)
        return (method, path, headers, body) if len(body) == length else None

    def _run(self, script: Iterator[Step], accept: Accept) -> bool:
        """Run a script; return whether the connection stays open."""
        for step in script:
            if isinstance(step, bytes):
                self._client.sendall(step)
            elif step is Act.ACCEPT:
                accept()
            elif step is Act.REQUEST:
                if self._read() is None:
                    return False
            elif isinstance(step, Act):
                self._how = step
            elif self._client_leaves_within(step):
                return False
            if self._how:
                return False
        return True

    def _client_leaves_within(self, seconds: float) -> bool:
        limit_s = None if seconds == math.inf else seconds
        poller = select.poll()
        poller.register(self._client, select.POLLIN)
        if not poller.poll(None if limit_s is None else limit_s * 1000):
            return False
        if not self._raw(socket.socket.recv, 1, socket.MSG_PEEK):
            return True
        self._ended.wait(limit_s)  # the client has sent its next request
        return False

    def _finish(self) -> None:
        if self._how is Act.RESET:
            _reset_on_close(self._client)
        elif self._how is Act.CUT:
            self._raw(socket.socket.shutdown, socket.SHUT_WR)
            while self._raw(socket.socket.recv, 65536):  # the rest is the client's
                pass
        elif isinstance(self._client, ssl.SSLSocket):
            self._raw(socket.socket.shutdown, socket.SHUT_RD)  # else it waits for the client's close_notify
            self._client.unwrap()
