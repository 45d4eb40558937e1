"""The ways in which an endpoint can fail its clients, each as a script that the stand-in plays.

A script is an iterator of steps. Bytes are sent as they are; a number is a pause in seconds (`math.inf`: for
ever); an `Act` does something to the result or to the connection. A script that ends leaves the connection
open for the next request, and one whose client goes away is dropped where it stands.
"""

import functools
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus

TYPE_JSON = "application/json"
TYPE_HTML = "text/html; charset=utf-8"
Headers = tuple[tuple[str, str], ...]

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_BODILESS = frozenset({100, 101, 102, 103, 204, 304})


class Act(Enum):
    """What a script can do beside sending and waiting."""

    ACCEPT = "count the result as accepted, if the request deserves it"
    CLOSE = "send what is buffered, then end the connection in good order"
    RESET = "tear the connection down at once with a TCP RST"


Step = bytes | float | Act


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply. `status` goes into the status line unchecked, so it may be any number."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    def head(self) -> bytes:
        """The status line and the headers, with the empty line that ends them."""
        lines = [f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status not in _BODILESS:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode()

    def wire(self) -> bytes:
        """The whole reply as it is sent."""
        return self.head() + self.body


def json_reply(status: int, value: object, headers: Headers = ()) -> Reply:
    """A reply whose body is `value` as JSON."""
    return Reply(status, json.dumps(value).encode(), (("Content-Type", TYPE_JSON), *headers))


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way to answer.

    Attributes:
        name: What the stand-in notes as the request's answer, unless there is a `status`.
        script: Given the reply that the contract asks for and the request's headers, what happens instead.
        status: The HTTP status that the client is sure to see, if there is one.
        on_connect: The connection is reset before anything is read from it. Only a spell can have this.
    """

    name: str
    script: Callable[[Reply, Headers], Iterator[Step]] = field(repr=False)
    status: int | None = None
    on_connect: bool = False


def answer(
    status: int,
    body: Mapping[str, object] | Sequence[object] | str | bytes | None = None,
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
) -> Behaviour:
    """Whatever was asked, answer with the given status and body. It never counts as accepted.

    A mapping or a list is sent as JSON, text and bytes as they are. `content_type` is by default what fits:
    JSON for JSON, HTML for text and bytes, and none where there is no body.
    """
    if body is None:
        payload, fitting = b"", None
    elif isinstance(body, bytes):
        payload, fitting = body, TYPE_HTML
    elif isinstance(body, str):
        payload, fitting = body.encode(), TYPE_HTML
    else:
        payload, fitting = json.dumps(body).encode(), TYPE_JSON
    kind = content_type or fitting
    typed = {"Content-Type": kind} if kind else {}
    reply = Reply(status, payload, tuple((typed | dict(headers or {})).items()))

    def script(_proper: Reply, _headers: Headers) -> Iterator[Step]:
        yield reply.wire()

    return Behaviour(f"answer {status}", script, status)


def error(status: int, *, html: bool = False, retry_after: int | str | None = None) -> Behaviour:
    """An error as the API words it, or as a proxy before it would (`html`).

    `retry_after` is the header's value: seconds, or an HTTP date.
    """
    phrase = _PHRASES.get(status, "Error")
    page = f"<html><body><h1>{status} {phrase}</h1></body></html>"
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return answer(status, page if html else {"message": phrase}, headers)


def redirect(status: int, location: str) -> Behaviour:
    """A redirect, which would carry the credentials to `location` if it were followed."""
    return answer(status, None, {"Location": location})


def status_line(code: int) -> Behaviour:
    """The proper reply, but under a status such as 150, 600 or 999; then the connection is closed.

    Below 200 only the head is sent: what would follow a real 1xx never comes.
    """

    def script(proper: Reply, _headers: Headers) -> Iterator[Step]:
        if code < HTTPStatus.OK:
            yield f"HTTP/1.1 {code} Standing By\r\n\r\n".encode()
        else:
            yield Reply(code, proper.body, proper.headers).wire()
        yield Act.CLOSE

    return Behaviour(f"status_line {code}", script, code)


def echo_headers(status: int = 400) -> Behaviour:
    """An error that quotes the request's headers, credentials and all, as debugging servers do."""

    def script(_proper: Reply, headers: Headers) -> Iterator[Step]:
        yield json_reply(status, {"message": "Bad headers", "headers": dict(headers)}).wire()

    return Behaviour("echo_headers", script, status)


def hang() -> Behaviour:
    """No answer, ever; the connection stays open."""
    return _scripted("hang", lambda _: (math.inf,))


def late(seconds: float) -> Behaviour:
    """The proper answer after that many seconds. A client that has left by then has had nothing accepted."""
    return _scripted("late", lambda proper: (seconds, Act.ACCEPT, proper.wire()))


def lost() -> Behaviour:
    """The result is accepted, but the reply is lost: the connection is closed without one."""
    return _scripted("lost", lambda _: (Act.ACCEPT, Act.CLOSE))


def close_early() -> Behaviour:
    """The connection is closed in good order (FIN) without a reply, and nothing is accepted."""
    return _scripted("close_early", lambda _: (Act.CLOSE,))


def close_idle(after: float = 0.05) -> Behaviour:
    """The proper answer; `after` seconds later the idle connection is closed, as tired servers do."""
    return _scripted("close_idle", lambda proper: (Act.ACCEPT, proper.wire(), after, Act.CLOSE))


def reset() -> Behaviour:
    """A TCP RST once the request has been read."""
    return _scripted("reset", lambda _: (Act.RESET,))


def reset_on_connect() -> Behaviour:
    """For spells: a TCP RST when a connection is accepted, before TLS, or a request comes on an open one.

    The client may learn of it while it connects or when it first reads or writes.
    """
    return _scripted("reset_on_connect", lambda _: (Act.RESET,), on_connect=True)


def half_reply() -> Behaviour:
    """A reply that breaks off in the middle of its body."""
    return _scripted("half_reply", lambda proper: (proper.head() + proper.body[: len(proper.body) // 2], Act.CLOSE))


def not_http() -> Behaviour:
    """Another protocol's greeting; then the connection is closed."""
    return _scripted("not_http", lambda _: (b"SSH-2.0-OpenSSH_9.6\r\n", Act.CLOSE))


def drip_headers(seconds_per_byte: float = 1.0) -> Behaviour:
    """The proper answer, its head byte by byte. It counts as accepted only with the last of it."""
    return _scripted("drip_headers", lambda proper: _drip(b"", proper.head(), proper.body, seconds_per_byte))


def drip_body(seconds_per_byte: float = 1.0) -> Behaviour:
    """The proper answer, its body byte by byte. It counts as accepted only with the last of it."""
    return _scripted("drip_body", lambda proper: _drip(proper.head(), proper.body, b"", seconds_per_byte))


def gzip_bomb(decompressed_bytes: int = 200_000_000) -> Behaviour:
    """A small 200 that inflates to at least this size: a JSON object that would confirm the result."""
    body = _bomb(decompressed_bytes)
    reply = Reply(200, body, (("Content-Type", TYPE_JSON), ("Content-Encoding", "gzip")))
    return _scripted("gzip_bomb", lambda _: (reply.wire(),))


def huge(size: int = 10_000_000) -> Behaviour:
    """A 200 of `size` bytes, which is a JSON object that would confirm the result."""
    start, end = b'{"message": "OK"', b"}"
    body = start + b" " * (size - len(start) - len(end)) + end
    reply = Reply(200, body, (("Content-Type", TYPE_JSON),))
    return _scripted("huge", lambda _: (reply.wire(),))


def _scripted(name: str, steps: Callable[[Reply], Iterable[Step]], *, on_connect: bool = False) -> Behaviour:
    return Behaviour(name, lambda proper, _headers: iter(steps(proper)), on_connect=on_connect)


def _drip(before: bytes, slow: bytes, after: bytes, seconds_per_byte: float) -> Iterator[Step]:
    yield before
    for at in range(len(slow) - 1):
        yield slow[at : at + 1]
        yield seconds_per_byte
    yield Act.ACCEPT
    yield slow[-1:] + after


@functools.cache
def _bomb(size: int) -> bytes:
    """A gzip member of at least `size` bytes, deflated a MiB at a time.

    After a full flush deflate refers to nothing before it, so one deflated MiB can be repeated; only the
    checksum has to see all of the data.
    """
    start, block, end = b'{"message": "OK"', b" " * 2**20, b"}"
    times = -(-size // len(block))
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    first = deflate.compress(start) + deflate.flush(zlib.Z_FULL_FLUSH)
    repeated = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    last = deflate.compress(end) + deflate.flush(zlib.Z_FINISH)
    checksum = zlib.crc32(start)
    for _ in range(times):
        checksum = zlib.crc32(block, checksum)
    length = len(start) + times * len(block) + len(end)
    trailer = struct.pack("<LL", zlib.crc32(end, checksum), length & 0xFFFFFFFF)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + first + repeated * times + last + trailer
