"""A stand-in for BetaTel's webhook endpoint, which keeps the documented contract and misbehaves on request.

It serves HTTP/1.1 on real sockets from a thread of its own, so synchronous tests use it as a context manager:

    with StandIn(api_key="key", user_id="user") as endpoint:
        endpoint.issue("01JV5V54KPYK9GB29265EQRZ2P")
        endpoint.misbehave("01JV5V54KPYK9GB29265EQRZ2P", error(500), lost())
        ...                                     # code that POSTs to endpoint.url
        assert endpoint.accepted == [("01JV5V54KPYK9GB29265EQRZ2P", "Success")]
"""

import math
import secrets
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from local.endpoint.behaviour import Act, Behaviour, Headers, Reply, Step
from local.endpoint.server import Server
from sandbox.endpoint import contract

WEBHOOK_PATH = contract.WEBHOOK_PATH


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the stand-in.

    Attributes:
        at: when it was read, in seconds since the epoch.
        method: as sent.
        path: as sent, with its query.
        headers: names and values as sent, credentials included, so the repr leaves them out.
        body: as sent.
        uuid: the body's `uuid`; None unless the body is a JSON object in which it is a string.
        status: the body's `status`; None unless the body is a JSON object in which it is a string.
        answer: the HTTP status of the answer, or the name of the behaviour that gave none, such as "reset".
    """

    at: float
    method: str
    path: str
    headers: Headers = field(repr=False)
    body: bytes
    uuid: str | None
    status: str | None
    answer: int | str


class StandIn(Server):
    """The endpoint, which runs while the context is entered. Any thread may call any method.

    The first of these that is set answers a request: `override`, the next behaviour that `misbehave` queued for its
    uuid, `always`, the contract. So a request with wrong credentials may get any of these behaviours, too.

    Args:
        api_key: the `x-api-key` that the endpoint accepts; made up by default.
        user_id: the `x-user-id` that the endpoint accepts; made up by default.
        port: the loopback port to listen on; 0 for any free one.
        tls: a server's context, for https.
        every_call_exists: the endpoint knows each call without `issue`.

    Attributes:
        credentials: the `x-api-key` and the `x-user-id` that the endpoint accepts.
        requests: the requests so far, in the order in which the stand-in read them.
        accepted: the uuid and status of each accepted result, copies too; listed before the reply is sent.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        user_id: str | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        every_call_exists: bool = False,
    ) -> None:
        super().__init__(self._respond, tls, port)
        self._every_call_exists = every_call_exists
        self.rotate(api_key, user_id)
        self.requests: list[Request] = []
        self.accepted: list[tuple[str, str]] = []
        self._issued: set[str] = set()
        self._queued: dict[str, deque[Behaviour]] = {}
        self._always: dict[str, Behaviour] = {}
        self._override: Behaviour | None = None
        self._override_ends = 0.0
        self._lock = threading.Lock()  # one request after the other is decided and recorded

    @property
    def url(self) -> str:
        """Where to POST results."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{WEBHOOK_PATH}"

    def issue(self, *uuids: str) -> None:
        """Make these calls known to the endpoint."""
        self._issued.update(uuids)

    def rotate(self, api_key: str | None = None, user_id: str | None = None) -> tuple[str, str]:
        """Accept only these credentials from now on, made up by default; return them."""
        self.credentials = api_key or secrets.token_urlsafe(24), user_id or secrets.token_urlsafe(12)
        return self.credentials

    def misbehave(self, uuid: str, *behaviours: Behaviour) -> None:
        """Queue behaviours for the next requests of this uuid: one for each request, in this order."""
        self._queued.setdefault(uuid, deque()).extend(behaviours)

    def always(self, uuid: str, behaviour: Behaviour) -> None:
        """Behave so for each request of this uuid, until `heal`."""
        self._always[uuid] = behaviour

    def override(self, behaviour: Behaviour, seconds: float | None = None) -> None:
        """Behave so for every request, for some seconds or until `heal`. A new override replaces the old one."""
        self._override = behaviour
        self._override_ends = math.inf if seconds is None else time.monotonic() + seconds

    def heal(self) -> None:
        """Keep the contract again. Answers that have begun do not change."""
        self._override, self._override_ends = None, 0.0
        self._queued.clear()
        self._always.clear()

    def _behaviour(self, uuid: str | None) -> Behaviour | None:
        if time.monotonic() < self._override_ends:
            return self._override
        if queued := self._queued.get(uuid or ""):
            return queued.popleft()
        return self._always.get(uuid or "")

    def _respond(self, method: str, path: str, headers: Headers, body: bytes) -> Iterator[Step]:
        """Decide the answer to a request, and record the request."""
        result = contract.parse(body) if method == "POST" and path == WEBHOOK_PATH else None
        uuid, status = contract.text(result, "uuid"), contract.text(result, "status")
        with self._lock:
            knows = (lambda _: True) if self._every_call_exists else self._issued.__contains__
            answer = contract.answer(method, path, headers, body, credentials=self.credentials, knows=knows)
            proper = Reply(answer.status, answer.body, answer.headers)
            kept = Behaviour(proper.status, lambda *_: iter((Act.ACCEPT, proper.wire())))
            behaviour = self._behaviour(uuid) or kept
            self.requests.append(Request(time.time(), method, path, headers, body, uuid, status, behaviour.name))
        for step in behaviour.script(proper, headers):
            if step is not Act.ACCEPT:
                yield step
            elif answer.accepted:
                self.accepted.append(answer.accepted)
