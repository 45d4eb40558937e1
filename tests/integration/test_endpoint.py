"""The stand-in endpoint keeps the contract, and misbehaves exactly as asked.

The relay's tests rely on the stand-in, so these tests use raw sockets, and not the relay's client.
"""

import contextlib
import json
import re
import socket
import ssl
from collections.abc import Iterator

import pytest

from local.endpoint.behaviour import (
    Act,
    Behaviour,
    drip,
    echo_headers,
    end,
    end_kept,
    half_reply,
    late,
    lost,
)
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from tests.support.relay import KEY, PATIENCE_S, USER, UUID

RESULT = {"uuid": UUID, "status": "Success"}
HEADERS = {"Content-Type": "application/json", "x-api-key": KEY, "x-user-id": USER}

REQUESTS: dict[str, tuple[int, object, dict[str, str]]] = {
    "a result": (200, RESULT, {}),
    "another way to write JSON's type": (200, RESULT, {"Content-Type": "Application/JSON; charset=utf-8"}),
    "wrong key": (401, RESULT, {"x-api-key": "wrong"}),
    "wrong user": (401, RESULT, {"x-user-id": "wrong"}),
    "text/plain": (400, RESULT, {"Content-Type": "text/plain"}),
    "empty body": (400, b"", {}),
    "deep nesting": (400, b"[" * 100_000, {}),
    "no status": (400, {"uuid": UUID}, {}),
    "number as uuid": (400, {"uuid": 1, "status": "Success"}, {}),
    "further key": (400, {**RESULT, "further": 1}, {}),
    "uuid twice": (400, b'{"uuid": "a", "uuid": "a", "status": "Failed"}', {}),
    "unknown call": (404, {"uuid": "unknown", "status": "Failed"}, {}),
}

PROPER = rb'HTTP/1.1 200 .*\r\n\r\n\{.*"OK"\}'
ENDS: dict[Act, tuple[type, type]] = {  # the error that a client meets, over http and over https
    Act.CLOSE: (type(None), type(None)),
    Act.CUT: (type(None), ssl.SSLError),
    Act.RESET: (ConnectionResetError, OSError),
}
WIRE: list[tuple[Behaviour, bytes, Act]] = [
    *((end(how), b"", how) for how in ENDS),
    *((end_kept(0, how), PROPER, how) for how in ENDS),
    (lost(), b"", Act.CLOSE),
    (half_reply(), rb"HTTP/1.1 200 .*Content-Length: 7\d\r\n\r\n.{20,40}", Act.CLOSE),
    *((behaviour, PROPER, Act.CLOSE) for behaviour in (late(0.01), drip("body", 0.001), drip("head", 0.001))),
    (echo_headers(), rf"HTTP/1.1 400 .*\"x-api-key\": \"{KEY}\".*".encode(), Act.CLOSE),
]


def request(body: object = RESULT, **headers: str) -> bytes:
    """Return the bytes of a request."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {WEBHOOK_PATH} HTTP/1.1", "Host: localhost", f"Content-Length: {len(payload)}"]
    lines += [f"{name}: {value}" for name, value in (HEADERS | headers).items()]
    return "\r\n".join([*lines, "", ""]).encode() + payload


@contextlib.contextmanager
def connected(endpoint: StandIn) -> Iterator[socket.socket]:
    """Connect to the endpoint."""
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=PATIENCE_S) as plain:
        if endpoint.url.startswith("http:"):
            yield plain
            return
        trusting = ssl.create_default_context()
        trusting.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # some versions of Python set it
        with trusting.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as client:
            yield client


def read_all(client: socket.socket) -> tuple[bytes, OSError | None]:
    """Read until the server ends the connection; return what it sent, and the error at the end."""
    said = b""
    try:
        while piece := client.recv(65536):
            said += piece
    except OSError as error:
        return said, error
    return said, None


def exchange(endpoint: StandIn, body: object = RESULT, **headers: str) -> tuple[bytes, OSError | None]:
    """Send one request, the last of its connection; return what `read_all` does."""
    with connected(endpoint) as client:
        client.sendall(request(body, **headers, Connection="close"))
        return read_all(client)


@pytest.mark.parametrize("standin", ["http"], indirect=True)
@pytest.mark.parametrize(("status", "body", "headers"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_gets_the_documented_answer(
    standin: StandIn, status: int, body: object, headers: dict[str, str]
) -> None:
    """A relay that sends a wrong request would pass its tests, or a result that was refused count as delivered."""
    head, _, said = exchange(standin, body, **headers)[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(said) == {**RESULT, "message": "OK"} if status == 200 else [*json.loads(said)] == ["message"]
    standin.override(lost())
    exchange(standin, body, **headers)
    assert standin.accepted == ([(UUID, "Success")] * 2 if status == 200 else [])


@pytest.mark.parametrize(("behaviour", "pattern", "how"), WIRE)
def test_a_behaviour_has_its_bytes_on_the_wire(
    standin: StandIn, behaviour: Behaviour, pattern: bytes, how: Act
) -> None:
    """A test of the relay would meet another failure than its name says."""
    standin.misbehave(UUID, behaviour)
    said, error = exchange(standin)
    assert re.fullmatch(pattern, said, re.DOTALL)
    assert isinstance(error, ENDS[how][standin.url.startswith("https:")])
    assert [one.answer for one in standin.requests] == [behaviour.name]
    confirms = pattern is PROPER or behaviour.name == "lost"
    assert standin.accepted == ([(UUID, "Success")] if confirms else [])


@pytest.mark.parametrize("how", ENDS, ids=lambda how: how.name)
@pytest.mark.parametrize("is_reused", [False, True], ids=["idle", "reused"])
def test_a_kept_connection_ends_after_a_proper_answer(standin: StandIn, how: Act, *, is_reused: bool) -> None:
    """The relay would pass the tests of the most frequent failure of pooled connections without meeting it."""
    standin.misbehave(UUID, *([end_kept(Act.REQUEST, how)] if is_reused else []))
    with connected(standin) as client:
        client.sendall(request())
        assert client.recv(65536).endswith(b'"OK"}')
        if is_reused:
            client.sendall(request())
        else:
            standin.end_connections(how)
        said, error = read_all(client)
    assert said == b""
    assert isinstance(error, ENDS[how][standin.url.startswith("https:")])


def test_a_bug_in_a_behaviour_fails_the_test() -> None:
    """A broken stand-in would look like a broken relay, or like a good one."""

    def script(*_: object) -> Iterator[bytes]:
        yield b"HTTP/1.1 "
        raise ZeroDivisionError

    endpoint = StandIn(api_key=KEY, user_id=USER)
    endpoint.override(Behaviour("broken", script))
    with pytest.raises(RuntimeError, match="stand-in itself"), endpoint:
        exchange(endpoint)
