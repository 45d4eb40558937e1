"""The ways in which an endpoint can fail its clients, each as a script that the stand-in runs.

A script is an iterator of steps. The stand-in sends bytes unchanged; a number is a pause in seconds (`math.inf`: for
ever); an `Act` accepts the result or ends the connection. After a script the connection is open for the next request.
A script ends early if its client closes the connection.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from http import HTTPStatus

TYPE_JSON = "application/json"
TYPE_HTML = "text/html; charset=utf-8"
Headers = tuple[tuple[str, str], ...]

_JSON = {"Content-Type": TYPE_JSON}
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_BODILESS = frozenset({100, 101, 102, 103, 204, 304})


class Act(Enum):
    """A step that is neither bytes nor a pause."""

    ACCEPT = "count the result as accepted, if the request keeps the contract"
    REQUEST = "wait for the connection's next request, read it, and do not answer it"
    CLOSE = "send what is buffered, then close the connection (TLS's close_notify, TCP FIN)"
    CUT = "close the connection's sending half without TLS's close_notify (TCP FIN)"
    RESET = "reset the connection (TCP RST)"


Step = bytes | float | Act


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply. `status` may be any number."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    def head(self) -> bytes:
        """Return the status line and the headers, with the empty line that ends them."""
        lines = [f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status not in _BODILESS:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode()

    def wire(self) -> bytes:
        """Return the whole reply as bytes."""
        return self.head() + self.body


def json_reply(status: int, value: object, headers: Headers = ()) -> Reply:
    """Return a reply whose body is `value` as JSON."""
    return Reply(status, json.dumps(value).encode(), (("Content-Type", TYPE_JSON), *headers))


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way to answer a request.

    Attributes:
        name: the request's `answer` in the stand-in's list of requests: the HTTP status, or what happens instead.
        script: takes the proper reply and the request's headers, and returns the steps that replace the reply.
    """

    name: int | str
    script: Callable[[Reply, Headers], Iterator[Step]] = field(repr=False)


def answer(
    status: int,
    body: Mapping[str, object] | Sequence[object] | str | bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """Answer any request with a status and a body, and accept nothing.

    Args:
        status: the HTTP status.
        body: a mapping or a list, sent as JSON; text or bytes, sent unchanged as HTML; None for no body.
        headers: further headers, or another `Content-Type`.
    """
    payload, content_type = b"", {}
    if isinstance(body, str | bytes):
        payload, content_type = body if isinstance(body, bytes) else body.encode(), {"Content-Type": TYPE_HTML}
    elif body is not None:
        payload, content_type = json.dumps(body).encode(), _JSON
    reply = Reply(status, payload, tuple((content_type | dict(headers or {})).items()))
    return _scripted(status, lambda _: (reply.wire(),))


def error(status: int, *, html: bool = False, retry_after: int | str | None = None) -> Behaviour:
    """Answer with an error: the API's JSON, or a proxy's page with `html`.

    `retry_after` is the value of the header: seconds, or an HTTP date.
    """
    phrase = _PHRASES.get(status, "Error")
    page = f"<html><body><h1>{status} {phrase}</h1></body></html>"
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return answer(status, page if html else {"message": phrase}, headers)


def after(condition: Callable[[], object], behaviour: Behaviour) -> Behaviour:
    """Behave so once a condition holds; until then, do not answer."""

    def script(proper: Reply, headers: Headers) -> Iterator[Step]:
        while not condition():
            yield 0.005
        yield from behaviour.script(proper, headers)

    return replace(behaviour, script=script)


def echo_headers(status: int = 400) -> Behaviour:
    """Answer with an error that quotes the request's headers, credentials included."""

    def script(_proper: Reply, headers: Headers) -> Iterator[Step]:
        yield json_reply(status, {"message": "Bad headers", "headers": dict(headers)}).wire()

    return Behaviour(status, script)


def hang() -> Behaviour:
    """Never answer; leave the connection open."""
    return _scripted("hang", lambda _: (math.inf,))


def late(seconds: float) -> Behaviour:
    """Accept and answer properly after a delay in seconds, if the client is still connected."""
    return _scripted("late", lambda proper: (seconds, Act.ACCEPT, proper.wire()))


def lost() -> Behaviour:
    """Accept the result, but close the connection without a reply."""
    return _scripted("lost", lambda _: (Act.ACCEPT, Act.CLOSE))


def end(how: Act) -> Behaviour:
    """End the connection without a reply, and accept nothing."""
    return _scripted(how.name.lower(), lambda _: (how,))


def end_kept(after: float | Act = 0.05, how: Act = Act.CLOSE) -> Behaviour:
    """Answer properly; end the kept connection `after` seconds later, or at its next request (`Act.REQUEST`)."""
    when = "reused" if after is Act.REQUEST else "idle"
    return _scripted(f"{how.name} when {when}".lower(), lambda proper: (Act.ACCEPT, proper.wire(), after, how))


def half_reply() -> Behaviour:
    """Close the connection in the middle of the reply's body."""
    return _scripted("half_reply", lambda proper: (proper.head() + proper.body[: len(proper.body) // 2], Act.CLOSE))


def drip(part: str, seconds_per_byte: float) -> Behaviour:
    """Answer properly, but send this part, `head` or `body`, byte by byte; accept before its last byte."""

    def steps(proper: Reply) -> Iterator[Step]:
        head, body = proper.head(), proper.body
        before, slow, after = (b"", head, body) if part == "head" else (head, body, b"")
        yield before
        for at in range(len(slow) - 1):
            yield slow[at : at + 1]
            yield seconds_per_byte
        yield Act.ACCEPT
        yield slow[-1:] + after

    return _scripted(f"dripping {part}", steps)


def _scripted(name: int | str, steps: Callable[[Reply], Iterable[Step]]) -> Behaviour:
    return Behaviour(name, lambda proper, _headers: iter(steps(proper)))
