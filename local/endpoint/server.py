"""A server on a loopback port, which answers each request by a script: that of the stand-in, and of the soak."""

import contextlib
import math
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Any, Self

from local.endpoint.behaviour import Act, Headers, Step, json_reply

# Takes a request's method, path, headers and body; returns the script of the answer.
Respond = Callable[[str, str, Headers, bytes], Iterator[Step]]


class Server(TCPServer):
    """The server, which listens and serves while the context is entered.

    Args:
        respond: decides the answer to a request.
        tls: a server's context, for https.
        port: the loopback port to listen on; 0 for any free one, which is here afterwards.

    Attributes:
        connections: how many it has accepted.
    """

    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, respond: Respond, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.respond, self._tls, self.port, self.connections = respond, tls, port, 0
        self._open: dict[socket.socket, threading.Thread] = {}
        self.ends: dict[socket.socket, Act] = {}  # the open connections that are to end, and the way
        self._bug: Exception | None = None

    def __enter__(self) -> Self:
        """Serve.

        Raises:
            OSError: the port is taken.
        """
        super().__init__(("127.0.0.1", self.port), Connection)
        self.port = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and reset the open connections.

        Raises:
            RuntimeError: an answer has failed by a bug.
        """
        self.shutdown()
        self._thread.join()
        self.server_close()
        self.end_connections(Act.RESET, also_writing=True)
        if self._bug:
            raise RuntimeError("the stand-in itself, or another local server, has failed") from self._bug

    def end_connections(self, how: Act, *, also_writing: bool = False) -> None:
        """End the open connections in this way, so that nothing more is read, or with `Act.CUT` sent; wait for it."""
        threads = self._open.copy()
        part = socket.SHUT_RDWR if also_writing else socket.SHUT_WR if how is Act.CUT else socket.SHUT_RD
        for client in threads:
            self.ends[client] = how
            with contextlib.suppress(OSError):  # it has ended already
                socket.socket.shutdown(client, part)  # of TCP, under TLS, too
        for thread in threads.values():
            if how is not Act.CUT:  # the client ends what is cut
                thread.join()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its thread makes the handshake of TLS."""
        client, address = super().get_request()
        if self._tls:
            self._tls.options |= ssl.OP_IGNORE_UNEXPECTED_EOF  # else its own end of reading sends an alert
            client = self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        self.connections += 1
        thread = threading.Thread(target=self._serve, args=(request, client_address), name="connection", daemon=True)
        self._open[request] = thread
        thread.start()

    def _serve(self, client: socket.socket, address: Any) -> None:
        try:
            with client, contextlib.suppress(OSError):
                self.finish_request(client, address)
        except Exception as error:  # noqa: BLE001 - `__exit__` raises it
            self._bug = error
        self.ends.pop(client, None)
        del self._open[client]


def reset_on_close(client: socket.socket) -> None:
    """Have the close of a socket send RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # linger for 0 s


class Connection(BaseHTTPRequestHandler):
    """One client's connection. It answers pipelined requests in order."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """Make the handshake of TLS."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def handle_one_request(self) -> None:
        """Answer the next request, unless the client speaks another protocol, which may have no lines."""
        self.close_connection = True
        if (start := self.rfile.peek(1)[:1]).isalpha():  # type: ignore[attr-defined] # it is a BufferedReader
            super().handle_one_request()
        elif start:
            self.wfile.write(json_reply(400, {"message": "Not understood"}).wire())

    def do_POST(self) -> None:
        """Answer a request, and keep the connection open unless the script or the client ends it."""
        if (body := self._body()) is None or self._how:
            self.close_connection = True
            return
        script = self.server.respond(self.command, self.path, tuple(self.headers.items()), body)
        self.close_connection |= not self._run(script)

    do_GET = do_POST  # noqa: N815 - a name of http.server

    def _body(self) -> bytes | None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        return body if len(body) == length else None

    @property
    def _how(self) -> Act | None:
        return self.server.ends.get(self.request)

    def _run(self, script: Iterator[Step]) -> bool:
        """Run a script; return whether the connection stays open."""
        for step in script:
            if isinstance(step, bytes):
                self.wfile.write(step)
            elif step is Act.REQUEST:
                self.raw_requestline = self.rfile.readline()
                if not self.raw_requestline or not self.parse_request() or self._body() is None:
                    return False
            elif isinstance(step, Act):
                self.server.ends[self.request] = step
            elif select.select([self.request], [], [], None if step == math.inf else step)[0]:
                return False  # the client has left, or does not wait for the answer
            if self._how:
                return False
        return True

    def finish(self) -> None:
        """End the connection."""
        super().finish()
        client = self.request
        if self._how is Act.RESET:
            reset_on_close(client)
        elif self._how is Act.CUT:
            socket.socket.shutdown(client, socket.SHUT_WR)
            while socket.socket.recv(client, 65536):  # the rest is the client's
                pass
        elif isinstance(client, ssl.SSLSocket):
            socket.socket.shutdown(client, socket.SHUT_RD)  # else it waits for the client's close_notify
            client.unwrap()

    def log_message(self, *_: object) -> None:
        """Print nothing."""
