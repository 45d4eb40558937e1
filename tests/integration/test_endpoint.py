"""The stand-in endpoint keeps the contract, and misbehaves exactly as asked.

The relay's tests rely on the stand-in, so these tests use other clients than the relay's: urllib3 and raw sockets.
"""

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import urllib3

from local.endpoint.behaviour import (
    Act,
    Behaviour,
    drip,
    echo_headers,
    end,
    end_kept,
    error,
    half_reply,
    hang,
    late,
    lost,
)
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from local.processes import wait_until

KEY, USER = "key-4f1c", "user-93aa"
UUID = "01JV5V54KPYK9GB29265EQRZ2P"
RESULT = {"uuid": UUID, "status": "Success"}
CONFIRMED = {**RESULT, "message": "OK"}
PATIENCE = 60.0  # seconds; only a failing test waits this long

Headers = dict[str, str]
HEADERS = {"Content-Type": "application/json", "x-api-key": KEY, "x-user-id": USER}

WRONG_REQUESTS: dict[str, tuple[int, object, Headers]] = {
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

WIRE: list[tuple[Behaviour, int | str, bytes]] = [
    (lost(), "lost", rb""),
    (end(Act.CLOSE), "close", rb""),
    (half_reply(), "half_reply", rb"HTTP/1.1 200 .*Content-Length: 7\d\r\n\r\n.{20,40}"),
    (late(0.01), "late", rb"HTTP/1.1 200 .*\r\n\r\n\{.*\}"),
    (end_kept(0), "close when idle", rb"HTTP/1.1 200 .*\r\n\r\n\{.*\}"),
    (drip("body", 0.001), "dripping body", rb"HTTP/1.1 200 .*\r\n\r\n\{.*\}"),
    (drip("head", 0.001), "dripping head", rb"HTTP/1.1 200 .*\r\n\r\n\{.*\}"),
    (echo_headers(), 400, rf"HTTP/1.1 400 .*\"x-api-key\": \"{KEY}\".*".encode()),
]


@pytest.fixture
def endpoint() -> Iterator[StandIn]:
    """Run a stand-in that knows one call."""
    with StandIn(api_key=KEY, user_id=USER) as standin:
        standin.issue(UUID)
        yield standin


@pytest.fixture
def client() -> Iterator[urllib3.PoolManager]:
    """Return a client that neither retries nor follows redirects."""
    with urllib3.PoolManager(retries=False, timeout=PATIENCE) as pool:
        yield pool


def post(client: urllib3.PoolManager, url: str, body: object = RESULT, **headers: str) -> tuple[int, Any]:
    """Post a result and return the status and the reply's JSON."""
    sent = {name: value for name, value in (HEADERS | headers).items() if value}
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = client.request("POST", url, body=payload, headers=sent)
    return reply.status, reply.json()


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """Open a raw connection to the endpoint."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as connection:
        yield connection


def wire(body: bytes = json.dumps(RESULT).encode(), method: str = "POST", headers: Headers = HEADERS) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {WEBHOOK_PATH} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode() + body


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def exchange(endpoint: StandIn, behaviour: Behaviour) -> bytes:
    """Return the bytes that a raw client gets for a result until its connection is closed."""
    endpoint.misbehave(UUID, behaviour)
    with connected(endpoint.url) as connection:
        connection.sendall(wire(headers=HEADERS | {"Connection": "close"}))
        return read_all(connection)


class TestContract:
    """The documented endpoint."""

    @pytest.mark.parametrize("status", ["Success", "Failed"])
    @pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
    def test_a_correct_request_gets_the_documented_reply(
        self, endpoint: StandIn, client: urllib3.PoolManager, status: str, kind: str
    ) -> None:
        """The tests of a delivery would prove nothing."""
        result = {"uuid": UUID, "status": status}
        assert post(client, endpoint.url, result, **{"Content-Type": kind}) == (
            200,
            {**result, "message": "OK"},
        )
        assert endpoint.accepted == [(UUID, status)]

    @pytest.mark.parametrize(("expected", "body", "headers"), WRONG_REQUESTS.values(), ids=WRONG_REQUESTS)
    def test_a_wrong_request_gets_the_documented_error(
        self, endpoint: StandIn, client: urllib3.PoolManager, expected: int, body: object, headers: Headers
    ) -> None:
        """A relay that sends a wrong request would pass its tests."""
        status, reply = post(client, endpoint.url, body, **headers)
        assert (status, list(reply)) == (expected, ["message"])
        assert [request.answer for request in endpoint.requests] == [expected]
        assert endpoint.accepted == []


class TestMisbehaviour:
    """The failures that the stand-in imitates."""

    @pytest.mark.parametrize(("behaviour", "noted", "pattern"), WIRE, ids=[str(noted) for _, noted, _ in WIRE])
    def test_a_behaviour_has_its_bytes_on_the_wire(
        self, endpoint: StandIn, behaviour: Behaviour, noted: int | str, pattern: bytes
    ) -> None:
        """A test of the relay would meet another failure than its name says."""
        assert re.fullmatch(pattern, exchange(endpoint, behaviour), re.DOTALL)
        assert [request.answer for request in endpoint.requests] == [noted]
        confirms = {"lost", "late", "close when idle", "dripping body", "dripping head"}
        assert endpoint.accepted == ([(UUID, "Success")] if noted in confirms else [])

    def test_a_behaviour_accepts_no_wrong_request(self, endpoint: StandIn) -> None:
        """A result that the endpoint refused would count as delivered."""
        endpoint.rotate("new key", "new user")
        exchange(endpoint, lost())
        assert endpoint.accepted == []

    def test_reset_sends_a_tcp_reset(self, endpoint: StandIn) -> None:
        """The tests could not tell a reset from a connection closed in good order."""
        with pytest.raises(ConnectionResetError):
            exchange(endpoint, end(Act.RESET))
        assert [request.answer for request in endpoint.requests] == ["reset"]

    @pytest.mark.parametrize("how", [Act.CLOSE, Act.CUT, Act.RESET], ids=lambda how: how.name)
    @pytest.mark.parametrize("is_reused", [False, True], ids=["idle", "reused"])
    def test_a_kept_connection_ends_after_a_proper_answer(
        self, endpoint: StandIn, client: urllib3.PoolManager, how: Act, *, is_reused: bool
    ) -> None:
        """No test could imitate the most frequent failure of pooled connections."""
        endpoint.misbehave(UUID, *([end_kept(Act.REQUEST, how)] if is_reused else []))
        with connected(endpoint.url) as connection:
            connection.sendall(wire())
            assert json.loads(connection.recv(65536).partition(b"\r\n\r\n")[2]) == CONFIRMED
            if is_reused:
                connection.sendall(wire())
            else:
                endpoint.end_connections(how)
            with pytest.raises(ConnectionResetError) if how is Act.RESET else contextlib.nullcontext():
                assert connection.recv(1) == b""
        assert post(client, endpoint.url)[0] == 200
        assert len(endpoint.requests) == 2

    def test_an_override_comes_before_queued_behaviours(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """An outage would use up the behaviours that a test queued for a call."""
        endpoint.always(UUID, error(501))
        endpoint.misbehave(UUID, error(502))
        endpoint.override(error(503), seconds=3600)
        assert [post(client, endpoint.url)[0] for _ in range(2)] == [503, 503]
        endpoint.override(error(504), seconds=0)  # replaces the other, and is over
        assert [post(client, endpoint.url)[0] for _ in range(3)] == [502, 501, 501]


class TestLifecycle:
    """Start, end, TLS and inspection."""

    @pytest.mark.parametrize("behaviour", [hang(), late(3600), drip("body", 3600), drip("head", 3600)])
    @pytest.mark.parametrize("stays", [True, False], ids=["client stays", "client leaves"])
    def test_a_stand_in_ends_while_a_request_is_under_way(self, behaviour: Behaviour, stays: bool) -> None:  # noqa: FBT001
        """A hanging request would hang the tests, leak its thread or keep the port."""
        before = set(threading.enumerate())
        with contextlib.ExitStack() as clients:
            with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as endpoint:
                endpoint.override(behaviour)
                connection = clients.enter_context(connected(endpoint.url))
                connection.sendall(wire())
                assert wait_until(lambda: len(endpoint.requests) == 1, PATIENCE)
                if not stays:
                    connection.close()
            assert endpoint.accepted == []
            assert not {thread.name for thread in set(threading.enumerate()) - before}
            assert (endpoint.fileno(), endpoint._open) == (-1, {})

    @pytest.mark.parametrize("how", [Act.CLOSE, Act.CUT, Act.RESET], ids=lambda how: how.name)
    def test_a_connection_ends_under_tls_as_asked(self, how: Act) -> None:
        """The tests over https could not tell an orderly end from a connection that is cut or reset."""
        authority, server = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        hello = partial(trusting.wrap_socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        with (
            StandIn(api_key=KEY, user_id=USER, tls=server, every_call_exists=True) as endpoint,
            connected(endpoint.url),  # says nothing, so its handshake is still under way at the end
            connected(endpoint.url) as plain,
            hello(plain) as connection,
        ):
            endpoint.override(end_kept(0, how))
            connection.sendall(wire())
            if how is Act.CLOSE:
                assert read_all(connection).endswith(b"}")  # with a close_notify
            else:
                with pytest.raises(ssl.SSLEOFError if how is Act.CUT else OSError):
                    read_all(connection)

    def test_requests_are_kept_as_sent_and_printed_without_headers(
        self, endpoint: StandIn, client: urllib3.PoolManager
    ) -> None:
        """A test could not see the relay's request, or its failure would print credentials."""
        post(client, endpoint.url, RESULT, **{"X-Api-Key": "other", "x-api-key": ""})
        (request,) = endpoint.requests
        assert (request.method, request.path, request.answer) == ("POST", WEBHOOK_PATH, 401)
        assert (request.uuid, request.status, json.loads(request.body)) == (UUID, "Success", RESULT)
        assert {("X-Api-Key", "other"), ("x-user-id", USER)} <= set(request.headers)
        assert not {word for word in ("other", USER, KEY) if word in repr([request, endpoint])}

    def test_a_bug_in_a_behaviour_fails_the_test(self) -> None:
        """A broken stand-in would look like a broken relay, or like a good one."""

        def script(*_: object) -> Iterator[bytes]:
            yield b"HTTP/1.1 "
            raise ZeroDivisionError

        with (
            pytest.raises(RuntimeError, match="stand-in itself"),
            StandIn(api_key=KEY, user_id=USER) as endpoint,
        ):
            exchange(endpoint, Behaviour("broken", script))
