"""One client's connection to the stand-in: parse its requests, and run the script of each answer."""

import asyncio
import contextlib
import math
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import httptools

from local.endpoint.behaviour import Act, Headers, Reply, Step, json_reply


def reset_on_close(client: socket.socket) -> None:
    """Have the close of a socket send RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # linger for 0 s


@dataclass(slots=True)
class Response:
    """The answer to one request: a script, or the reply if there is none."""

    reply: Reply
    pair: tuple[str, str] | None = None  # the uuid and status that the script may accept
    script: Iterator[Step] | None = None
    keep_alive: bool = True


class Connection(asyncio.Protocol):
    """One client's connection. It answers pipelined requests one after the other, in order.

    Args:
        respond: decides the answer to a request: its method, path, headers and body.
        accept: takes the uuid and status of an accepted result.
        connections: the open connections; this one adds and removes itself.
    """

    def __init__(
        self,
        respond: Callable[[str, str, Headers, bytes], Response],
        accept: Callable[[tuple[str, str]], None],
        connections: "set[Connection]",
    ) -> None:
        self._respond, self._accept, self._connections = respond, accept, connections
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[str, str, Headers, bytes, bool]] = deque()
        self._response: Response | None = None  # the one whose script is running
        self._timer: asyncio.TimerHandle | None = None
        self._awaits_request = False  # that script
        self._url, self._headers, self._body = b"", list[tuple[str, str]](), list[bytes]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End the script that is running."""
        self._connections.discard(self)
        self.gone.set_result(None)
        self._waiting.clear()
        self._response = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse the bytes and answer the requests that are complete."""
        understood = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:  # a bug here
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            understood = False
        if self._awaits_request and self._response and self._response.script and self._waiting:
            self._awaits_request = False
            self._run(self._response, self._response.script)
        self._answer_waiting()  # outside the parser, which would report a bug here as the client's
        if not understood:
            if self._response is None and not self._transport.is_closing():
                self._transport.write(json_reply(400, {"message": "Not understood"}).wire())
            self._transport.close()

    def reset(self) -> None:
        """Reset the connection (TCP RST)."""
        client = self._transport.get_extra_info("socket")
        if client is not None:
            with contextlib.suppress(OSError):  # it has ended already
                reset_on_close(client)
        self._transport.abort()

    def end(self, how: Act) -> None:
        """End the connection in this way."""
        if how is Act.RESET:
            self.reset()
        elif how is Act.CUT:
            self._transport.get_extra_info("socket").shutdown(socket.SHUT_WR)  # the rest is the client's
        else:
            self._transport.close()

    # ---- the parser's callbacks ----

    def on_url(self, url: bytes) -> None:
        """Take a part of the path."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Queue the request."""
        method, path = self._parser.get_method().decode("latin-1"), self._url.decode("latin-1")
        body = b"".join(self._body)
        self._waiting.append((method, path, tuple(self._headers), body, self._parser.should_keep_alive()))
        self._url, self._headers, self._body = b"", [], []

    # ---- the answers ----

    def _answer_waiting(self) -> None:
        while self._waiting and self._response is None and not self._transport.is_closing():
            method, path, headers, body, keep_alive = self._waiting.popleft()
            self._response = self._respond(method, path, headers, body)
            self._response.keep_alive = keep_alive
            if self._response.script is None:
                reply = self._response.reply
                self._transport.write(reply.head() if method == "HEAD" else reply.wire())
                self._end_response()
            else:
                self._run(self._response, self._response.script)

    def _run(self, response: Response, script: Iterator[Step]) -> None:
        """Run a script until it pauses or ends."""
        for step in script:
            if isinstance(step, bytes):
                self._transport.write(step)
            elif step is Act.ACCEPT:
                if response.pair:
                    self._accept(response.pair)
            elif step is Act.REQUEST:
                if not self._waiting:
                    self._awaits_request = True
                    return
            elif isinstance(step, Act):
                self.end(step)
                return
            else:
                if step < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(step, self._resume, response, script)
                return
        self._end_response()

    def _resume(self, response: Response, script: Iterator[Step]) -> None:
        self._timer = None
        self._run(response, script)
        self._answer_waiting()

    def _end_response(self) -> None:
        if self._response is not None and not self._response.keep_alive:
            self._transport.close()
        self._response = None
