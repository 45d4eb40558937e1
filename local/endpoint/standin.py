"""A stand-in for BetaTel's webhook endpoint, which keeps the documented contract and can misbehave.

It speaks HTTP/1.1 over real sockets from its own thread, so synchronous tests use it as a context manager:

    with StandIn(api_key="key", user_id="user") as endpoint:
        endpoint.issue("01JV5V54KPYK9GB29265EQRZ2P")
        endpoint.misbehave("01JV5V54KPYK9GB29265EQRZ2P", error(500), hang())
        ...                                     # whatever posts to endpoint.url
        endpoint.wait_until(lambda e: bool(e.accepted), timeout=10, what="a delivery")

or from a process of its own (`python -m local.endpoint.standin --help`), which is steered over HTTP:

    GET  /_standin/requests                                 what was asked so far, credentials masked
    POST /_standin/calls    {"uuid": "01JV..."}             this call exists
    POST /_standin/spell    {"status": 500, "seconds": 30}  every request gets this; `seconds` is optional
    POST /_standin/heal                                     behave again
"""

import argparse
import asyncio
import contextlib
import hmac
import json
import math
import signal
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, cast

import httptools

from local.endpoint.behaviour import (
    TYPE_HTML,
    TYPE_JSON,
    Act,
    Behaviour,
    Headers,
    Reply,
    Step,
    error,
    json_reply,
)

WEBHOOK_PATH = "/api/v1/connect-hub/call/flash/webhook"

_CONTROL = "/_standin/"
_CREDENTIALS = frozenset({"x-api-key", "x-user-id"})
_STATUSES = frozenset({"Success", "Failed"})
_SPELLS = range(200, 1000)  # the statuses that can be asked for over HTTP
_LINGER_NOT = struct.pack("ii", 1, 0)  # closing a socket that lingers for 0 s sends RST instead of FIN
_TLS_GOODBYE_SECONDS = 1.0  # how long a closed TLS connection waits for the client's close_notify


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the stand-in has seen.

    Attributes:
        at: When it was read, as `time.time()`.
        method: As sent.
        path: As sent, with the query if there was one.
        headers: Names and values as sent, credentials too; the repr masks those.
        body: As sent.
        uuid: The body's `uuid`, if the body is a JSON object in which it is a string.
        status: The body's `status`, likewise.
        answer: The HTTP status that was given, or the name of the behaviour that gave none, such as "reset".
    """

    at: float
    method: str
    path: str
    headers: Headers
    body: bytes
    uuid: str | None
    status: str | None
    answer: int | str

    def masked(self) -> dict[str, Any]:
        """The fields, without the values of the credentials."""
        headers = [(name, "***" if name.lower() in _CREDENTIALS else value) for name, value in self.headers]
        return asdict(self) | {"headers": tuple(headers)}

    def __repr__(self) -> str:
        """Safe to show when a test fails."""
        return f"Request({', '.join(f'{name}={value!r}' for name, value in self.masked().items())})"


class StandIn:
    """The endpoint, running while the context is entered. Every method may be called from any thread.

    Where several behaviours apply to a request, a spell comes first, then what `misbehave` has queued for the
    uuid, then `always`. They come before the contract, so a request with wrong credentials gets them too.

    Args:
        api_key: The `x-api-key` that is accepted.
        user_id: The `x-user-id` that is accepted.
        host: The address to listen on.
        port: The port to listen on; 0 for any that is free.
        tls: A server's context, for https.
        every_call_exists: No call is unknown, issued or not.

    Attributes:
        url: Where to post results, once started; empty before.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        api_key: str,
        user_id: str,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        every_call_exists: bool = False,
    ) -> None:
        self.url = ""
        self._host, self._port, self._tls = host, port, tls
        self._every_call_exists = every_call_exists
        self._credentials = (api_key.encode(), user_id.encode())
        self._issued: set[str] = set()
        self._queued: dict[str, deque[Behaviour]] = {}
        self._always: dict[str, Behaviour] = {}
        self._spell: Behaviour | None = None
        self._spell_ends = math.inf
        self._requests: list[Request] = []
        self._accepted: list[tuple[str, str]] = []
        self._connections = 0
        self._changed = threading.Condition()  # guards all of the above
        self._changes = 0
        self._ready = threading.Event()
        self._open: set[_Connection] = set()  # from here on touched by the loop's thread only
        self._bug: BaseException | None = None

    def __repr__(self) -> str:
        """No credential."""
        return f"StandIn(url={self.url!r}, connections={self._connections}, requests={len(self._requests)})"

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            OSError: The port is taken, or the address is not this machine's.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._listener = socket.create_server((self._host, self._port), family=family, backlog=1024)
        self._listener.settimeout(0)
        host = f"[{self._host}]" if ":" in self._host else self._host
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://{host}:{self._listener.getsockname()[1]}{WEBHOOK_PATH}"
        self._ready.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="stand-in", daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End everything at once: open connections are reset.

        Raises:
            RuntimeError: The stand-in itself has a bug that has shown.
        """
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._bug and exc_info[0] is None:
            raise RuntimeError("the stand-in itself has failed") from self._bug

    @property
    def requests(self) -> list[Request]:
        """Every request seen so far, in the order in which they were read."""
        with self._changed:
            return self._requests.copy()

    @property
    def accepted(self) -> list[tuple[str, str]]:
        """The uuid and status of every result accepted so far, copies too.

        It is noted before the reply is sent, so a client that has the reply finds it here.
        """
        with self._changed:
            return self._accepted.copy()

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted so far, those that were reset at once included."""
        return self._connections

    def issue(self, *uuids: str) -> None:
        """These calls exist."""
        with self._changed:
            self._issued.update(uuids)

    def rotate(self, api_key: str, user_id: str) -> None:
        """From now on only these credentials are accepted."""
        with self._changed:
            self._credentials = (api_key.encode(), user_id.encode())

    def misbehave(self, uuid: str, *behaviours: Behaviour) -> None:
        """The next requests for this uuid get these, one each, in this order, after those queued already."""
        _refuse_on_connect(behaviours)
        with self._changed:
            self._queued.setdefault(uuid, deque()).extend(behaviours)

    def always(self, uuid: str, behaviour: Behaviour) -> None:
        """Every request for this uuid gets this until `heal`."""
        _refuse_on_connect((behaviour,))
        with self._changed:
            self._always[uuid] = behaviour

    def spell(self, behaviour: Behaviour, seconds: float | None = None) -> None:
        """Every request gets this, for so many seconds or until `heal`. A new spell replaces the old one."""
        with self._changed:
            self._spell = behaviour
            self._spell_ends = math.inf if seconds is None else time.monotonic() + seconds

    def heal(self) -> None:
        """Behave again, whatever was asked for. Answers that are under way go on as they are."""
        with self._changed:
            self._spell = None
            self._queued.clear()
            self._always.clear()

    def wait_until(self, condition: Callable[["StandIn"], bool], timeout: float, what: str) -> None:
        """Wait until the condition holds. It is tested now and whenever a request or a connection comes in.

        Raises:
            TimeoutError: It did not hold within `timeout` seconds; the message names `what` was waited for.
        """
        deadline = time.monotonic() + timeout
        while True:
            seen = self._changes
            if condition(self):
                return
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{what}: not within {timeout} s")
                if self._changes == seen:
                    self._changed.wait(left)

    # What follows runs in the loop's thread.

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._note_bug)
        greetings: set[asyncio.Task[None]] = set()
        self._loop.add_reader(self._listener, self._take_connections, greetings)
        self._ready.set()
        await self._stop.wait()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await asyncio.sleep(0)  # a task that is cancelled before its first step would leave its socket open
        for task in greetings:
            task.cancel()
        await asyncio.gather(*greetings, return_exceptions=True)
        for connection in self._open:
            connection.reset()
        await asyncio.gather(*[connection.gone for connection in self._open])

    def _take_connections(self, greetings: set[asyncio.Task[None]]) -> None:
        # Not asyncio's own server: it hands a connection over after the TLS handshake, too late to reset it.
        while True:
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            with self._changed:
                self._connections += 1
                self._notify()
                spell = self._current_spell()
            if spell is not None and spell.on_connect:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                client.close()
                continue
            client.settimeout(0)
            task = self._loop.create_task(self._greet(client))
            greetings.add(task)
            task.add_done_callback(greetings.discard)

    async def _greet(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a client that leaves, or that does not trust our certificate
            await self._loop.connect_accepted_socket(
                lambda: _Connection(self._respond, self._accept, self._open),
                client,
                ssl=self._tls,
                ssl_shutdown_timeout=_TLS_GOODBYE_SECONDS if self._tls else None,
            )

    def _note_bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A client's misdeeds end its connection and do not come here.
        self._bug = self._bug or context.get("exception") or RuntimeError(context["message"])

    def _notify(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def _current_spell(self) -> Behaviour | None:
        if self._spell is not None and time.monotonic() >= self._spell_ends:
            self._spell = None
        return self._spell

    def _behaviour(self, uuid: str | None) -> Behaviour | None:
        spell = self._current_spell()
        if spell is not None or uuid is None:
            return spell
        if queued := self._queued.get(uuid):
            return queued.popleft()
        return self._always.get(uuid)

    def _respond(self, method: str, path: str, headers: Headers, body: bytes) -> "_Turn":
        """Decide what one request gets, and note it."""
        if path.startswith(_CONTROL):
            return _Turn(self._control(method, path.removeprefix(_CONTROL), body))
        result = _parse(body) if method == "POST" and path == WEBHOOK_PATH else None
        uuid, status = _text(result, "uuid"), _text(result, "status")
        with self._changed:
            proper = self._contract(method, path, headers, result)
            behaviour = self._behaviour(uuid)
            name = proper.status if behaviour is None else behaviour.status or behaviour.name
            self._requests.append(Request(time.time(), method, path, headers, body, uuid, status, name))
            self._notify()
            claim = None
            if proper.status == HTTPStatus.OK and uuid is not None and status is not None:
                claim = (uuid, status)
            if behaviour is not None:
                return _Turn(proper, claim, behaviour.script(proper, headers))
            if claim:
                self._accepted.append(claim)
        return _Turn(proper)

    def _accept(self, claim: tuple[str, str]) -> None:
        with self._changed:
            self._accepted.append(claim)
            self._notify()

    def _contract(self, method: str, path: str, headers: Headers, result: object) -> Reply:
        """The documented reply."""
        if path != WEBHOOK_PATH:
            page = b"<html><body><h1>404 Not Found</h1></body></html>"
            return Reply(404, page, (("Content-Type", TYPE_HTML),))
        if method != "POST":
            return json_reply(405, {"message": "Method Not Allowed"}, (("Allow", "POST"),))
        sent: dict[str, str] = {}
        for name, value in headers:
            key = name.lower()
            sent[key] = f"{sent[key]}, {value}" if key in sent else value
        api_key, user_id = self._credentials
        right = hmac.compare_digest(sent.get("x-api-key", "").encode(), api_key)
        right &= hmac.compare_digest(sent.get("x-user-id", "").encode(), user_id)
        if not right:
            return json_reply(401, {"message": "Unauthorized"})
        is_json = sent.get("content-type", "").partition(";")[0].strip().lower() == TYPE_JSON
        exact = isinstance(result, dict) and result.keys() == {"uuid", "status"}
        uuid = _text(result, "uuid")
        if not is_json or not exact or uuid is None or _text(result, "status") not in _STATUSES:
            return json_reply(400, {"message": "Expected application/json, an object of uuid and status"})
        if not self._every_call_exists and uuid not in self._issued:
            return json_reply(404, {"message": "The flash call does not exist"})
        return json_reply(200, {"uuid": uuid, "status": _text(result, "status"), "message": "OK"})

    def _control(self, method: str, name: str, body: bytes) -> Reply:
        wanted = _parse(body)
        fields = cast("dict[str, object]", wanted) if isinstance(wanted, dict) else {}
        match method, name, fields:
            case "GET", "requests", _:
                seen = [seen.masked() | {"body": seen.body.decode(errors="replace")} for seen in self.requests]
                return json_reply(200, seen)
            case "POST", "calls", {"uuid": str(uuid)}:
                self.issue(uuid)
            case "POST", "spell", {"status": int(status), **rest} if status in _SPELLS:
                seconds = rest.get("seconds")
                if not isinstance(seconds, int | float | None):
                    return json_reply(400, {"message": "seconds must be a number"})
                self.spell(error(status), seconds)
            case "POST", "heal", _:
                self.heal()
            case _:
                return json_reply(400, {"message": f"Not understood: {method} {_CONTROL}{name}"})
        return json_reply(200, {"message": "OK"})


@dataclass(slots=True)
class _Turn:
    """What one request gets: the reply at once, or the script in its place."""

    reply: Reply
    claim: tuple[str, str] | None = None  # the result that the script may accept
    script: Iterator[Step] | None = None
    keep_alive: bool = True


class _Connection(asyncio.Protocol):
    """One client's connection. Pipelined requests are answered one by one, in order."""

    def __init__(
        self,
        respond: Callable[[str, str, Headers, bytes], _Turn],
        accept: Callable[[tuple[str, str]], None],
        siblings: "set[_Connection]",
    ) -> None:
        self._respond, self._accept, self._siblings = respond, accept, siblings
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[str, str, Headers, bytes, bool]] = deque()
        self._turn: _Turn | None = None  # whose script is being played
        self._timer: asyncio.TimerHandle | None = None
        self._url, self._headers, self._body = b"", list[tuple[str, str]](), list[bytes]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._siblings.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._siblings.discard(self)
        self.gone.set_result(None)
        self._waiting.clear()
        self._turn = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        understood = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:  # a bug of ours
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            understood = False
        self._go_on()  # outside of the parser, which would take our bugs for the client's
        if not understood:
            if self._turn is None and not self._transport.is_closing():
                self._transport.write(json_reply(400, {"message": "Not understood"}).wire())
            self._transport.close()

    def reset(self) -> None:
        """Tear the connection down with a TCP RST."""
        client = self._transport.get_extra_info("socket")
        if client is not None:
            with contextlib.suppress(OSError):  # it is gone already
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()

    # The parser's callbacks.

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method, path = self._parser.get_method().decode("latin-1"), self._url.decode("latin-1")
        body = b"".join(self._body)
        self._waiting.append((method, path, tuple(self._headers), body, self._parser.should_keep_alive()))
        self._url, self._headers, self._body = b"", [], []

    # One request at a time.

    def _go_on(self) -> None:
        while self._waiting and self._turn is None and not self._transport.is_closing():
            method, path, headers, body, keep_alive = self._waiting.popleft()
            self._turn = self._respond(method, path, headers, body)
            self._turn.keep_alive = keep_alive
            if self._turn.script is None:
                reply = self._turn.reply
                self._transport.write(reply.head() if method == "HEAD" else reply.wire())
                self._end_turn()
            else:
                self._play(self._turn, self._turn.script)

    def _play(self, turn: _Turn, script: Iterator[Step]) -> None:
        """Go on with a script until it pauses or ends."""
        for step in script:
            if isinstance(step, bytes):
                self._transport.write(step)
            elif step is Act.ACCEPT:
                if turn.claim:
                    self._accept(turn.claim)
            elif step is Act.CLOSE:
                self._transport.close()
                return
            elif step is Act.RESET:
                self.reset()
                return
            else:
                if step < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(step, self._resume, turn, script)
                return
        self._end_turn()

    def _resume(self, turn: _Turn, script: Iterator[Step]) -> None:
        self._timer = None
        self._play(turn, script)
        self._go_on()

    def _end_turn(self) -> None:
        if self._turn is not None and not self._turn.keep_alive:
            self._transport.close()
        self._turn = None


def _refuse_on_connect(behaviours: Sequence[Behaviour]) -> None:
    for behaviour in behaviours:
        if behaviour.on_connect:
            raise ValueError(f"{behaviour.name} comes before there is a uuid: give it to spell()")


def _parse(body: bytes) -> object:
    """The JSON value, or None if it is none."""
    try:
        return cast("object", json.loads(body.decode(), object_pairs_hook=_object))
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, in which a repeated key is an error."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is repeated")
    return value


def _text(value: object, key: str) -> str | None:
    text = value.get(key) if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m local.endpoint.standin", description="BetaTel's endpoint, acted.")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--credentials", type=Path, required=True, help='JSON of "api_key" and "user_id"')
    parser.add_argument("--every-call-exists", action="store_true", help="no call is unknown")
    parser.add_argument("--certificate", type=Path, help="PEM, for https; with --key")
    parser.add_argument("--key", type=Path, help="PEM")
    options = parser.parse_args()
    try:
        accepted = _parse(options.credentials.read_bytes())
    except OSError as unreadable:
        parser.error(str(unreadable))
    api_key, user_id = _text(accepted, "api_key"), _text(accepted, "user_id")
    if not api_key or not user_id:
        parser.error(f"{options.credentials} must hold a JSON object with the strings api_key and user_id")
    # Blocked before the thread starts: it inherits the mask, so the signal can arrive nowhere but in sigwait.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)
    exists = options.every_call_exists
    standin = StandIn(api_key=api_key, user_id=user_id, port=options.port, tls=tls, every_call_exists=exists)
    try:
        with standin:
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except OSError as taken:
        parser.error(f"port {options.port}: {taken}")


if __name__ == "__main__":
    main()
