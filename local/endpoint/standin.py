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
    POST /_standin/heal                                     keep the contract again
"""

import contextlib
import json
import math
import signal
import ssl
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from local.command import Parser, whole
from local.endpoint.behaviour import Act, Behaviour, Headers, Reply, Step, error, json_reply, late
from local.endpoint.server import Accept, Server
from local.processes import listens, start_server
from sandbox.endpoint import contract

WEBHOOK_PATH = contract.WEBHOOK_PATH

_CONTROL = "/_standin/"
_CREDENTIALS = frozenset({"x-api-key", "x-user-id"})


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
        self._scheme, self._server = "https" if tls else "http", Server(self._respond, tls, port, self._admits)
        self._every_call_exists = every_call_exists
        self._credentials = (api_key, user_id)
        self._issued: set[str] = set()
        self._queued: dict[str, deque[Behaviour]] = {}
        self._always: dict[str, Behaviour] = {}
        self._override: Behaviour | None = None
        self._override_ends = math.inf
        self._limit: int | None = None
        self._seconds, self.limited = Counter[int](), 0
        self._requests: list[Request] = []
        self._accepted: list[tuple[str, str]] = []
        self._connections = 0
        self._changed = threading.Condition()  # guards all of the above

    def __repr__(self) -> str:
        """Show no credential."""
        return f"StandIn(url={self.url!r}, connections={self._connections}, requests={len(self._requests)})"

    def __enter__(self) -> Self:
        """Listen on the port; raise an OSError if it is taken."""
        self._server.__enter__()
        self.url = f"{self._scheme}://127.0.0.1:{self._server.port}{WEBHOOK_PATH}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop, and reset the open connections; raise a RuntimeError if the stand-in has met a bug of its own."""
        self._server.__exit__(*exc_info)

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
            self._credentials = (api_key, user_id)

    def misbehave(self, uuid: str, *behaviours: Behaviour) -> None:
        """Queue behaviours for the next requests of this uuid: one for each request, in this order."""
        with self._changed:
            self._queued.setdefault(uuid, deque()).extend(behaviours)

    def always(self, uuid: str, behaviour: Behaviour) -> None:
        """Behave so for each request of this uuid, until `heal`."""
        with self._changed:
            self._always[uuid] = behaviour

    def override(self, behaviour: Behaviour, seconds: float | None = None) -> None:
        """Behave so for every request, for some seconds or until `heal`. A new override replaces the old one."""
        with self._changed:
            self._override = behaviour
            self._override_ends = math.inf if seconds is None else time.monotonic() + seconds

    def limit(self, per_second: int | None, retry_after: int = 1) -> None:
        """Answer 429 to the requests above this rate, until `heal` or a limit of None."""
        with self._changed:
            self._limit, self._refusal = per_second, error(429, retry_after=retry_after)

    def heal(self) -> None:
        """Keep the contract again. Answers that have begun do not change."""
        with self._changed:
            self._limit = None
            self._override = None
            self._queued.clear()
            self._always.clear()

    def end_connections(self, how: Act) -> None:
        """End the open connections in this way; return when it is done."""
        self._server.end_connections(how)

    def wait_until(self, condition: Callable[["StandIn"], bool], timeout: float, what: str) -> None:
        """Wait until the condition holds; check it now, and at each request and connection.

        Args:
            condition: takes the stand-in.
            timeout: in seconds.
            what: names the condition in the error.

        Raises:
            TimeoutError: the condition did not hold in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError(f"{what}: not within {timeout} s")

    def _admits(self) -> bool:
        with self._changed:
            self._connections += 1
            self._changed.notify_all()
            override = self._current_override()
            return override is None or not override.on_connect

    def _current_override(self) -> Behaviour | None:
        return self._override if time.monotonic() < self._override_ends else None

    def _behaviour(self, uuid: str | None) -> Behaviour | None:
        if self._limit is not None:
            second = int(time.monotonic())
            self._seconds[second] += 1
            if self._seconds[second] > self._limit:
                self.limited += 1
                return self._refusal
        override = self._current_override()
        if override is not None or uuid is None:
            return override
        if queued := self._queued.get(uuid):
            return queued.popleft()
        return self._always.get(uuid)

    def _respond(self, method: str, path: str, headers: Headers, body: bytes) -> tuple[Iterator[Step], Accept]:
        """Decide the answer to a request, and record the request."""
        if path.startswith(_CONTROL):
            return iter((self._control(method, path.removeprefix(_CONTROL), body).wire(),)), lambda: None
        result = contract.parse(body) if method == "POST" and path == WEBHOOK_PATH else None
        uuid, status = contract.text(result, "uuid"), contract.text(result, "status")
        with self._changed:
            answer = contract.answer(method, path, headers, body, credentials=self._credentials, knows=self._knows)
            proper = Reply(answer.status, answer.body, answer.headers)
            behaviour = self._behaviour(uuid) or Behaviour("", _keep_contract, proper.status)
            name, wait_s = behaviour.status or behaviour.name, behaviour.wait_s
            self._requests.append(Request(time.time(), method, path, headers, body, uuid, status, name, wait_s))
            self._changed.notify_all()

        def accept() -> None:
            if answer.accepted:
                with self._changed:
                    self._accepted.append(answer.accepted)
                    self._changed.notify_all()

        return behaviour.script(proper, headers), accept

    def _knows(self, uuid: str) -> bool:
        return self._every_call_exists or uuid in self._issued

    def _control(self, method: str, name: str, body: bytes) -> Reply:
        match method, name, contract.parse(body):
            case "GET", "requests", _:
                seen = [seen.masked() | {"body": seen.body.decode(errors="replace")} for seen in self.requests]
                return json_reply(200, seen)
            case "POST", "calls", {"uuid": str(uuid)}:
                self.issue(uuid)
            case "POST", "override", {"status": int(status), "seconds": int(seconds)} if status >= HTTPStatus.OK:
                self.override(error(status), seconds)
            case "POST", "override", {"status": int(status), **rest} if status >= HTTPStatus.OK and not rest:
                self.override(error(status))
            case "POST", "heal", _:
                self.heal()
            case _:
                return json_reply(400, {"message": f"Not understood: {method} {_CONTROL}{name}"})
        return json_reply(200, {"message": "OK"})


def _keep_contract(proper: Reply, _headers: Headers) -> Iterator[Step]:
    return iter((Act.ACCEPT, proper.wire()))


def start_process(
    ending: contextlib.ExitStack, directory: Path, port: int, credentials: dict[str, str], *options: str, **how: Any
) -> int:
    """Start a stand-in as a process and wait until it listens; return its pid.

    Args:
        ending: ends the process.
        directory: for the file of the credentials and the log.
        port: the loopback port.
        credentials: the `api_key` and the `user_id` that the stand-in accepts.
        options: further options of the command below.
        how: further arguments of `Popen`.
    """
    path = directory / "credentials.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(credentials))
    command = [sys.executable, "-m", "local.endpoint.standin", "--port", str(port), "--credentials", str(path)]
    log = directory / "endpoint.log"
    return start_server(ending, "stand-in endpoint", [*command, *options], log, lambda: listens(port), **how).pid


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
        credentials, tls = json.loads(options.credentials.read_text()), None
        if options.certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(options.certificate, options.key)
        standin = StandIn(**credentials, port=options.port, tls=tls, every_call_exists=options.every_call_exists)
        # The stand-in's threads inherit this mask, so only sigwait gets the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        with standin:
            if options.latency_ms:
                standin.override(late(options.latency_ms / 1000))
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except (OSError, TypeError, ValueError) as error:
        parser.error(f"cannot start: {error}")


if __name__ == "__main__":
    main()
