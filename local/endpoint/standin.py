"""A stand-in for BetaTel's webhook endpoint, which keeps the documented contract and misbehaves on request.

It serves HTTP/1.1 on real sockets from a thread of its own, so synchronous tests use it as a context manager:

    with StandIn(api_key="key", user_id="user") as endpoint:
        endpoint.issue("01JV5V54KPYK9GB29265EQRZ2P")
        endpoint.misbehave("01JV5V54KPYK9GB29265EQRZ2P", error(500), hang())
        ...                                     # code that POSTs to endpoint.url
        endpoint.wait_until(lambda e: bool(e.accepted), timeout=10, what="a delivery")

It also runs as a process (`python -m local.endpoint.standin --help`), which is controlled over HTTP:

    GET  /_standin/requests                                 list the requests so far, credentials masked
    POST /_standin/calls    {"uuid": "01JV..."}             make this call known
    POST /_standin/override {"status": 500, "seconds": 30}  answer this to every request; `seconds` is optional
    POST /_standin/limit    {"per_second": 5}               answer 429 to the requests above this rate
    POST /_standin/heal                                     keep the contract again
"""

import asyncio
import contextlib
import hmac
import json
import math
import signal
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, cast

from local.command import Parser, whole
from local.endpoint.behaviour import TYPE_HTML, TYPE_JSON, Act, Behaviour, Headers, Reply, error, json_reply, late
from local.endpoint.connection import Connection, Response, reset_on_close

WEBHOOK_PATH = "/api/v1/connect-hub/call/flash/webhook"

_CONTROL = "/_standin/"
_CREDENTIALS = frozenset({"x-api-key", "x-user-id"})
_STATUSES = frozenset({"Success", "Failed"})
_OVERRIDES = range(200, 1000)  # the statuses that can be set over HTTP


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the stand-in.

    Attributes:
        at: when it was read, in seconds since the epoch.
        method: as sent.
        path: as sent, with its query.
        headers: names and values as sent, credentials included; the repr masks these.
        body: as sent.
        uuid: the body's `uuid`; None unless the body is a JSON object in which it is a string.
        status: the body's `status`; None unless the body is a JSON object in which it is a string.
        answer: the HTTP status of the answer, or the name of the behaviour that gave none, such as "reset".
        wait_s: how long the answer, a 429 or 503, asks the client to send nothing (`Retry-After` in seconds).
    """

    at: float
    method: str
    path: str
    headers: Headers
    body: bytes
    uuid: str | None
    status: str | None
    answer: int | str
    wait_s: int = 0

    def masked(self) -> dict[str, Any]:
        """Return the fields, with the credentials masked."""
        headers = [(name, "***" if name.lower() in _CREDENTIALS else value) for name, value in self.headers]
        return asdict(self) | {"headers": tuple(headers)}

    def __repr__(self) -> str:
        """Show no credential when a test fails."""
        return f"Request({', '.join(f'{name}={value!r}' for name, value in self.masked().items())})"


class StandIn:
    """The endpoint, which runs while the context is entered. Any thread may call any method.

    The first of these that is set answers a request: `limit`, `override`, the next behaviour that `misbehave` queued
    for its uuid, `always`, the contract. So a request with wrong credentials may get any of these behaviours, too.

    Args:
        api_key: the `x-api-key` that the endpoint accepts.
        user_id: the `x-user-id` that the endpoint accepts.
        port: the loopback port to listen on; 0 for any free one.
        tls: a server's context, for https.
        every_call_exists: the endpoint knows each call without `issue`.

    Attributes:
        url: where to POST results; empty before the start.
        limited: the number of requests that `limit` has refused.
    """

    def __init__(
        self,
        *,
        api_key: str,
        user_id: str,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        every_call_exists: bool = False,
    ) -> None:
        self.url = ""
        self._port, self._tls = port, tls
        self._every_call_exists = every_call_exists
        self._credentials = (api_key.encode(), user_id.encode())
        self._issued: set[str] = set()
        self._queued: dict[str, deque[Behaviour]] = {}
        self._always: dict[str, Behaviour] = {}
        self._override: Behaviour | None = None
        self._override_ends = math.inf
        self._limit: tuple[float, int | None] | None = None
        self._booked_until, self.limited = 0.0, 0
        self._requests: list[Request] = []
        self._accepted: list[tuple[str, str]] = []
        self._connections = 0
        self._changed = threading.Condition()  # guards all of the above
        self._changes = 0
        self._ready = threading.Event()
        self._open: set[Connection] = set()  # only the event loop's thread uses this and what follows
        self._bug: BaseException | None = None

    def __repr__(self) -> str:
        """Show no credential."""
        return f"StandIn(url={self.url!r}, connections={self._connections}, requests={len(self._requests)})"

    def __enter__(self) -> Self:
        """Start to listen.

        Raises:
            OSError: the port is taken.
        """
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        self._listener.settimeout(0)
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}{WEBHOOK_PATH}"
        self._ready.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="stand-in", daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop, and reset the open connections.

        Raises:
            RuntimeError: the stand-in has met a bug of its own.
        """
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._bug and exc_info[0] is None:
            raise RuntimeError("the stand-in itself has failed") from self._bug

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order in which the stand-in read them."""
        with self._changed:
            return self._requests.copy()

    @property
    def accepted(self) -> list[tuple[str, str]]:
        """The uuid and status of each accepted result, copies too; listed before the reply is sent."""
        with self._changed:
            return self._accepted.copy()

    @property
    def connections(self) -> int:
        """The number of TCP connections so far, including those that were reset immediately."""
        return self._connections

    def issue(self, *uuids: str) -> None:
        """Make these calls known to the endpoint."""
        with self._changed:
            self._issued.update(uuids)

    def rotate(self, api_key: str, user_id: str) -> None:
        """Accept only these credentials from now on."""
        with self._changed:
            self._credentials = (api_key.encode(), user_id.encode())

    def misbehave(self, uuid: str, *behaviours: Behaviour) -> None:
        """Queue behaviours for the next requests of this uuid: one for each request, in this order."""
        _refuse_on_connect(behaviours)
        with self._changed:
            self._queued.setdefault(uuid, deque()).extend(behaviours)

    def always(self, uuid: str, behaviour: Behaviour) -> None:
        """Behave so for each request of this uuid, until `heal`."""
        _refuse_on_connect((behaviour,))
        with self._changed:
            self._always[uuid] = behaviour

    def override(self, behaviour: Behaviour, seconds: float | None = None) -> None:
        """Behave so for every request, for some seconds or until `heal`. A new override replaces the old one."""
        with self._changed:
            self._override = behaviour
            self._override_ends = math.inf if seconds is None else time.monotonic() + seconds

    def limit(self, per_second: float | None, retry_after: int | None = None) -> None:
        """Answer 429 to the requests above this rate, until `heal` or a limit of None.

        The requests of a second may come at once. `Retry-After` is `retry_after`, or else the time until one more is
        allowed, at least 1 s.
        """
        with self._changed:
            self._limit = None if per_second is None else (per_second, retry_after)

    def heal(self) -> None:
        """Keep the contract again. Answers that have begun do not change."""
        with self._changed:
            self._limit = None
            self._override = None
            self._queued.clear()
            self._always.clear()

    def end_connections(self, how: Act) -> None:
        """End the open connections in this way; return when it is done."""

        async def end() -> None:
            for connection in [*self._open]:
                connection.end(how)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()

    def wait_until(self, condition: Callable[["StandIn"], bool], timeout: float, what: str) -> None:
        """Wait until the condition holds; check it now, and at each request and connection.

        Args:
            condition: takes the stand-in.
            timeout: in seconds.
            what: names the condition in the error.

        Raises:
            TimeoutError: the condition did not hold in time.
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

    # The methods from here on run in the event loop's thread.

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._note_bug)
        handshakes: set[asyncio.Task[None]] = set()
        self._loop.add_reader(self._listener, self._take_connections, handshakes)
        self._ready.set()
        await self._stop.wait()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await asyncio.sleep(0)  # a task cancelled before its first step would leave its socket open
        for task in handshakes:
            task.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)
        for connection in self._open:
            connection.reset()
        await asyncio.gather(*[connection.gone for connection in self._open])

    def _take_connections(self, handshakes: set[asyncio.Task[None]]) -> None:
        # asyncio's own server reports a connection only after the TLS handshake, too late to reset it.
        while True:
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            with self._changed:
                override = self._current_override()
                is_reset = override is not None and override.on_connect
                if is_reset:  # before it counts, so that who waits for it finds it reset
                    reset_on_close(client)
                    client.close()
                self._connections += 1
                self._notify()
            if is_reset:
                continue
            client.settimeout(0)
            task = self._loop.create_task(self._shake_hands(client))
            handshakes.add(task)
            task.add_done_callback(handshakes.discard)

    async def _shake_hands(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client disconnects, or does not trust the certificate
            await self._loop.connect_accepted_socket(
                lambda: Connection(self._respond, self._accept, self._open),
                client,
                ssl=self._tls,
            )

    def _note_bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A client's error ends its connection and is not reported here.
        self._bug = self._bug or context.get("exception") or RuntimeError(context["message"])

    def _notify(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def _current_override(self) -> Behaviour | None:
        if self._override is not None and time.monotonic() >= self._override_ends:
            self._override = None
        return self._override

    def _refusal(self) -> Behaviour | None:
        """Return the answer to a request above the limit; None for another one, and count it."""
        if self._limit is None:
            return None
        (per_second, retry_after), now = self._limit, time.monotonic()
        booked_s, cost_s = max(0.0, self._booked_until - now), 1 / per_second
        if (over_s := booked_s + cost_s - max(1.0, cost_s)) > 0:
            self.limited += 1
            return error(429, retry_after=retry_after or max(1, math.ceil(over_s)))
        self._booked_until = now + booked_s + cost_s
        return None

    def _behaviour(self, uuid: str | None) -> Behaviour | None:
        override = self._refusal() or self._current_override()
        if override is not None or uuid is None:
            return override
        if queued := self._queued.get(uuid):
            return queued.popleft()
        return self._always.get(uuid)

    def _respond(self, method: str, path: str, headers: Headers, body: bytes) -> Response:
        """Decide the answer to a request, and record the request."""
        if path.startswith(_CONTROL):
            return Response(self._control(method, path.removeprefix(_CONTROL), body))
        result = _parse(body) if method == "POST" and path == WEBHOOK_PATH else None
        uuid, status = _text(result, "uuid"), _text(result, "status")
        with self._changed:
            proper = self._contract(method, path, headers, result)
            behaviour = self._behaviour(uuid)
            name = proper.status if behaviour is None else behaviour.status or behaviour.name
            wait_s = behaviour.wait_s if behaviour else 0
            self._requests.append(Request(time.time(), method, path, headers, body, uuid, status, name, wait_s))
            self._notify()
            pair = None
            if proper.status == HTTPStatus.OK and uuid is not None and status is not None:
                pair = (uuid, status)
            if behaviour is not None:
                return Response(proper, pair, behaviour.script(proper, headers))
            if pair:
                self._accepted.append(pair)
        return Response(proper)

    def _accept(self, pair: tuple[str, str]) -> None:
        with self._changed:
            self._accepted.append(pair)
            self._notify()

    def _contract(self, method: str, path: str, headers: Headers, result: object) -> Reply:
        """Return the documented reply."""
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
            case "POST", "override", {"status": int(status), **rest} if status in _OVERRIDES:
                seconds = rest.get("seconds")
                if not isinstance(seconds, int | float | None):
                    return json_reply(400, {"message": "seconds must be a number"})
                self.override(error(status), seconds)
            case "POST", "limit", {"per_second": int(per_second) | float(per_second)} if per_second > 0:
                self.limit(per_second)
            case "POST", "heal", _:
                self.heal()
            case _:
                return json_reply(400, {"message": f"Not understood: {method} {_CONTROL}{name}"})
        return json_reply(200, {"message": "OK"})


def _refuse_on_connect(behaviours: Sequence[Behaviour]) -> None:
    for behaviour in behaviours:
        if behaviour.on_connect:
            raise ValueError(f"{behaviour.name} comes before there is a uuid: give it to override()")


def _parse(body: bytes) -> object:
    """Return the JSON value; None if the body is not JSON."""
    try:
        return cast("object", json.loads(body.decode(), object_pairs_hook=_object))
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object; refuse one that repeats a key."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is repeated")
    return value


def _text(value: object, key: str) -> str | None:
    text = value.get(key) if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = Parser(prog="python -m local.endpoint.standin", description="A stand-in for BetaTel's endpoint.")
    parser.add_argument("--port", type=whole(1, 65_535), required=True, help="on 127.0.0.1")
    parser.add_argument("--credentials", type=Path, required=True, help='JSON file with "api_key" and "user_id"')
    parser.add_argument("--every-call-exists", action="store_true", help="know each call")
    parser.add_argument("--latency-ms", type=whole(0), default=0, help="delay of each answer in milliseconds")
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
    # The stand-in's thread inherits this mask, so only sigwait gets the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)
    known = options.every_call_exists
    try:
        with StandIn(api_key=api_key, user_id=user_id, port=options.port, tls=tls, every_call_exists=known) as standin:
            if options.latency_ms:
                standin.override(late(options.latency_ms / 1000))
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except OSError as taken:
        parser.error(f"port {options.port}: {taken}")


if __name__ == "__main__":
    main()
