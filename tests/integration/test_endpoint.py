"""The stand-in endpoint keeps the contract, and misbehaves exactly as asked.

The relay's other tests believe what it says, so other clients than the relay's try it: urllib3, raw sockets.
"""

import contextlib
import gzip
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import urllib3

from local.endpoint.behaviour import (
    Behaviour,
    answer,
    close_early,
    close_idle,
    drip_body,
    drip_headers,
    echo_headers,
    error,
    gzip_bomb,
    half_reply,
    hang,
    huge,
    late,
    lost,
    not_http,
    redirect,
    reset,
    reset_on_connect,
    status_line,
)
from local.endpoint.standin import WEBHOOK_PATH, StandIn

KEY, USER = "key-4f1c", "user-93aa"
UUID = "01JV5V54KPYK9GB29265EQRZ2P"
RESULT = {"uuid": UUID, "status": "Success"}
CONFIRMED = {**RESULT, "message": "OK"}
PATIENCE = 30.0  # seconds; only a test that fails waits so long

Headers = dict[str, str]
HEADERS = {"Content-Type": "application/json", "x-api-key": KEY, "x-user-id": USER}


@pytest.fixture
def endpoint() -> Iterator[StandIn]:
    """A stand-in that knows one call."""
    with StandIn(api_key=KEY, user_id=USER) as standin:
        standin.issue(UUID)
        yield standin


@pytest.fixture
def client() -> Iterator[urllib3.PoolManager]:
    """A client that neither retries nor follows redirects."""
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
    """A raw connection to the endpoint."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as connection:
        yield connection


def wire(body: bytes = json.dumps(RESULT).encode(), method: str = "POST", headers: Headers = HEADERS) -> bytes:
    """A request as it is sent."""
    lines = [f"{method} {WEBHOOK_PATH} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode() + body


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def exchange(endpoint: StandIn, behaviour: Behaviour) -> bytes:
    """What a raw client that posts a result gets until its connection is closed."""
    endpoint.misbehave(UUID, behaviour)
    with connected(endpoint.url) as connection:
        connection.sendall(wire(headers=HEADERS | {"Connection": "close"}))
        return read_all(connection)


class TestContract:
    """The documented endpoint."""

    @pytest.mark.parametrize("status", ["Success", "Failed"])
    @pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
    def test_confirms_a_result(self, endpoint: StandIn, client: urllib3.PoolManager, status: str, kind: str) -> None:
        """No test of a delivery could be believed: a correct request must get the documented reply."""
        result = {"uuid": UUID, "status": status}
        assert post(client, endpoint.url, result, **{"Content-Type": kind}) == (
            200,
            {**result, "message": "OK"},
        )
        assert endpoint.accepted == [(UUID, status)]

    @pytest.mark.parametrize(
        ("expected", "body", "headers"),
        [
            (401, RESULT, {"x-api-key": "wrong"}),
            (401, RESULT, {"x-user-id": "wrong"}),
            (401, RESULT, {"x-api-key": ""}),
            (401, RESULT, {"x-user-id": ""}),
            (401, RESULT, {"x-api-key": KEY + "\xe9"}),
            (401, b"not json", {"x-api-key": "wrong"}),
            (400, RESULT, {"Content-Type": "text/plain"}),
            (400, RESULT, {"Content-Type": ""}),
            (400, b"", {}),
            (400, b"{", {}),
            (400, b"\xff", {}),
            (400, b"[" * 100_000, {}),
            (400, [RESULT], {}),
            (400, {"uuid": UUID}, {}),
            (400, {"uuid": 1, "status": "Success"}, {}),
            (400, {"uuid": UUID, "status": "success"}, {}),
            (400, {"uuid": UUID, "status": None}, {}),
            (400, {**RESULT, "further": 1}, {}),
            (400, b'{"uuid": "a", "uuid": "a", "status": "Failed"}', {}),
            (404, {"uuid": "unknown", "status": "Failed"}, {}),
        ],
    )
    def test_refuses_what_the_contract_refuses(
        self, endpoint: StandIn, client: urllib3.PoolManager, expected: int, body: object, headers: Headers
    ) -> None:
        """A relay that sends something wrong would pass its tests."""
        status, reply = post(client, endpoint.url, body, **headers)
        assert (status, list(reply)) == (expected, ["message"])
        assert [request.answer for request in endpoint.requests] == [expected]
        assert endpoint.accepted == []

    def test_has_one_path_and_one_method(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """A wrong URL would look like an unknown call, or a wrong method like a delivery."""
        elsewhere = client.request("POST", endpoint.url + "?x=1", body=b"{}", headers=HEADERS)
        assert (elsewhere.status, elsewhere.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        got = client.request("GET", endpoint.url, headers=HEADERS)
        assert (got.status, got.headers["Allow"]) == (405, "POST")
        head = client.request("HEAD", endpoint.url)
        assert (head.status, head.data) == (405, b"")
        assert client.request("GET", endpoint.url).status == 405  # the HEAD has left no body behind

    def test_rotated_credentials_replace_the_old_ones(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """A relay that goes on with replaced credentials would pass its tests."""
        endpoint.rotate("new key", "new user")
        assert post(client, endpoint.url)[0] == 401
        assert post(client, endpoint.url, **{"x-api-key": "new key", "x-user-id": "new user"})[0] == 200

    def test_every_call_can_exist(self, client: urllib3.PoolManager) -> None:
        """A load test would have to announce each of its calls."""
        with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as endpoint:
            assert post(client, endpoint.url)[0] == 200

    def test_connections_are_kept_alive_and_counted(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """A relay that makes a connection for each result would not be noticed."""
        for _ in range(3):
            assert post(client, endpoint.url)[0] == 200
        assert endpoint.connections == 1
        assert endpoint.accepted == [(UUID, "Success")] * 3

    @pytest.mark.parametrize("chop", [1, 7, 10_000])
    def test_requests_may_come_in_any_pieces_and_back_to_back(self, endpoint: StandIn, chop: int) -> None:
        """A client that writes headers and body apart, or does not wait, would get somebody else's answer."""
        both = wire() + wire(b"{}", headers=HEADERS | {"Connection": "close"})
        with connected(endpoint.url) as connection:
            for at in range(0, len(both), chop):
                connection.sendall(both[at : at + chop])
            assert re.findall(rb"HTTP/1.1 (\d+)", read_all(connection)) == [b"200", b"400"]

    def test_what_is_not_http_gets_an_error(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """A broken client would hang, or take the endpoint down for all others."""
        with connected(endpoint.url) as connection:
            connection.sendall(b"EHLO there\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 400 ")
        assert post(client, endpoint.url)[0] == 200

    def test_many_clients_at_once(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """Under load a request would be lost or counted twice."""
        uuids = [f"call-{n}" for n in range(200)]
        endpoint.issue(*uuids)

        def deliver(uuid: str) -> int:
            return post(client, endpoint.url, {"uuid": uuid, "status": "Failed"})[0]

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(deliver, uuids)) == {200}
        assert sorted(endpoint.accepted) == sorted((uuid, "Failed") for uuid in uuids)


class TestMisbehaviour:
    """What a bad day looks like on the wire."""

    @pytest.mark.parametrize(
        ("behaviour", "expected"),
        [
            (
                answer(200, CONFIRMED | {"uuid": "another"}),
                (200, "application/json", CONFIRMED | {"uuid": "another"}),
            ),
            (answer(200, [1]), (200, "application/json", [1])),
            (answer(202, "<p>OK"), (202, "text/html; charset=utf-8", b"<p>OK")),
            (answer(200, b"\0", content_type="image/png"), (200, "image/png", b"\0")),
            (answer(204), (204, None, b"")),
            (answer(200), (200, None, b"")),
            (error(500), (500, "application/json", {"message": "Internal Server Error"})),
            (error(502, html=True), (502, "text/html; charset=utf-8", b"<h1>502 Bad Gateway</h1>")),
        ],
    )
    def test_any_answer(
        self,
        endpoint: StandIn,
        client: urllib3.PoolManager,
        behaviour: Behaviour,
        expected: tuple[int, str, Any],
    ) -> None:
        """The policy's table could not be tested row by row."""
        endpoint.misbehave(UUID, behaviour)
        reply = client.request("POST", endpoint.url, json=RESULT, headers=HEADERS)
        status, kind, body = expected
        assert (reply.status, reply.headers.get("Content-Type")) == (status, kind)
        assert body in reply.data if isinstance(body, bytes) else reply.json() == body
        assert endpoint.accepted == []
        assert post(client, endpoint.url)[0] == 200  # on the same connection
        assert endpoint.connections == 1

    @pytest.mark.parametrize(
        ("behaviour", "name", "value"),
        [
            (error(429, retry_after=120), "Retry-After", "120"),
            (redirect(307, "https://elsewhere.example/"), "Location", "https://elsewhere.example/"),
            (answer(200, {}, {"Content-Type": "text/json"}), "Content-Type", "text/json"),
        ],
    )
    def test_any_header(
        self, endpoint: StandIn, client: urllib3.PoolManager, behaviour: Behaviour, name: str, value: str
    ) -> None:
        """Neither Retry-After nor a redirect could be tested."""
        endpoint.always(UUID, behaviour)
        reply = client.request("POST", endpoint.url, json=RESULT, headers=HEADERS, redirect=False)
        assert reply.headers.getlist(name) == [value]

    @pytest.mark.parametrize(
        ("behaviour", "noted", "pattern"),
        [
            (lost(), "lost", rb""),
            (close_early(), "close_early", rb""),
            (not_http(), "not_http", rb"SSH-.*\r\n"),
            (half_reply(), "half_reply", rb"HTTP/1.1 200 .*Content-Length: 7\d\r\n\r\n.{20,40}"),
            (late(0.01), "late", rb"HTTP/1.1 200 .*\r\n\r\n\{.*\}"),
            (close_idle(0), "close_idle", rb"HTTP/1.1 200 .*\r\n\r\n\{.*\}"),
            (drip_body(0.001), "drip_body", rb"HTTP/1.1 200 .*\r\n\r\n\{.*\}"),
            (drip_headers(0.001), "drip_headers", rb"HTTP/1.1 200 .*\r\n\r\n\{.*\}"),
            (status_line(100), 100, rb"HTTP/1.1 100 .*\r\n\r\n"),
            (status_line(150), 150, rb"HTTP/1.1 150 .*\r\n\r\n"),
            (status_line(600), 600, rb"HTTP/1.1 600 .*\r\n\r\n\{.*\}"),
            (status_line(999), 999, rb"HTTP/1.1 999 .*\r\n\r\n\{.*\}"),
            (echo_headers(), 400, rf"HTTP/1.1 400 .*\"x-api-key\": \"{KEY}\".*".encode()),
        ],
        ids=lambda value: value.name if isinstance(value, Behaviour) else "",
    )
    def test_on_the_wire(self, endpoint: StandIn, behaviour: Behaviour, noted: int | str, pattern: bytes) -> None:
        """A relay would be tested against another failure than the test says."""
        assert re.fullmatch(pattern, exchange(endpoint, behaviour), re.DOTALL)
        assert [request.answer for request in endpoint.requests] == [noted]
        confirms = {"lost", "late", "close_idle", "drip_body", "drip_headers"}
        assert endpoint.accepted == ([(UUID, "Success")] if noted in confirms else [])

    @pytest.mark.parametrize("behaviour", [lost(), late(0), close_idle(0), drip_body(0), drip_headers(0)])
    def test_a_wrong_request_is_not_accepted_in_a_roundabout_way(self, endpoint: StandIn, behaviour: Behaviour) -> None:
        """A result that the endpoint has refused would be counted as delivered."""
        endpoint.rotate("new key", "new user")
        exchange(endpoint, behaviour)
        assert endpoint.accepted == []

    def test_reset_is_a_reset(self, endpoint: StandIn) -> None:
        """A reset connection and one closed in good order could not be told apart."""
        with pytest.raises(ConnectionResetError):
            exchange(endpoint, reset())
        assert [request.answer for request in endpoint.requests] == ["reset"]

    def test_reset_on_connect_comes_before_any_request(self, endpoint: StandIn) -> None:
        """An endpoint that is down could not be acted; an open connection must feel it too."""
        with connected(endpoint.url) as before:
            endpoint.wait_until(lambda e: e.connections == 1, PATIENCE, "the first connection")
            endpoint.spell(reset_on_connect())
            with pytest.raises(ConnectionResetError), connected(endpoint.url) as connection:
                connection.recv(1)
            before.sendall(wire())
            with pytest.raises(ConnectionResetError):
                before.recv(1)
        assert [request.answer for request in endpoint.requests] == ["reset_on_connect"]
        assert endpoint.connections == 2

    @pytest.mark.parametrize("ask", [StandIn.misbehave, StandIn.always])
    def test_reset_on_connect_is_for_spells(self, endpoint: StandIn, ask: Any) -> None:
        """A test that asks for the impossible would pass without it."""
        with pytest.raises(ValueError, match="spell"):
            ask(endpoint, UUID, reset_on_connect())

    def test_the_idle_connection_is_closed_after_a_proper_answer(
        self, endpoint: StandIn, client: urllib3.PoolManager
    ) -> None:
        """The commonest failure of pooled connections could not be acted."""
        endpoint.misbehave(UUID, close_idle(0.01))
        with connected(endpoint.url) as connection:
            connection.sendall(wire())
            assert json.loads(read_all(connection).partition(b"\r\n\r\n")[2]) == CONFIRMED
        assert post(client, endpoint.url)[0] == 200

    @pytest.mark.parametrize(
        ("behaviour", "least", "most"),
        [(gzip_bomb(5_000_000), 1, 50_000), (huge(5_000_000), 5_000_000, 5_000_000)],
    )
    def test_too_much(
        self, endpoint: StandIn, client: urllib3.PoolManager, behaviour: Behaviour, least: int, most: int
    ) -> None:
        """A relay without a limit would pass: all of it must be a reply that only a limit can refuse."""
        endpoint.misbehave(UUID, behaviour)
        sent = client.request("POST", endpoint.url, json=RESULT, headers=HEADERS, decode_content=False).data
        assert least <= len(sent) <= most
        whole = gzip.decompress(sent) if sent.startswith(b"\x1f\x8b") else sent
        assert len(whole) >= 5_000_000
        assert json.loads(whole) == {"message": "OK"}

    def test_a_full_size_bomb_is_small_and_made_once(self, endpoint: StandIn) -> None:
        """Arming the bomb would be what brings the tests to a halt."""
        reply = exchange(endpoint, gzip_bomb())
        inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        size, rest = 0, reply.partition(b"\r\n\r\n")[2]
        assert len(rest) < 1_000_000
        while rest:
            size += len(inflate.decompress(rest, 2**20))
            rest = inflate.unconsumed_tail
        assert inflate.eof
        assert size >= 200_000_000

    def test_a_dripped_answer_holds_back_the_next_one(self, endpoint: StandIn) -> None:
        """Answers would be mixed up on a connection."""
        endpoint.misbehave(UUID, drip_headers(0.0001), late(0.01))
        with connected(endpoint.url) as connection:
            connection.sendall(wire() * 2 + wire(b"{}", headers=HEADERS | {"Connection": "close"}))
            assert re.findall(rb"HTTP/1.1 (\d+)", read_all(connection)) == [b"200", b"200", b"400"]

    def test_queued_behaviours_are_for_one_request_each(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """A test could not say 'fails twice, then works', nor that another call is not affected."""
        endpoint.issue("other")
        endpoint.misbehave(UUID, error(500))
        endpoint.misbehave(UUID, error(429))
        assert post(client, endpoint.url, {"uuid": "other", "status": "Failed"})[0] == 200
        assert [post(client, endpoint.url)[0] for _ in range(3)] == [500, 429, 200]

    def test_spells_come_first_and_then_what_is_queued(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """An outage would use up what a test has in store for a call."""
        endpoint.always(UUID, error(501))
        endpoint.misbehave(UUID, error(502))
        endpoint.spell(error(503), seconds=3600)
        assert [post(client, endpoint.url)[0] for _ in range(2)] == [503, 503]
        endpoint.spell(error(504), seconds=0)  # replaces the other, and is over
        assert [post(client, endpoint.url)[0] for _ in range(3)] == [502, 501, 501]

    def test_healing_ends_all_of_it(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """A test could not say that BetaTel is back."""
        endpoint.always(UUID, error(501))
        endpoint.misbehave(UUID, error(502))
        endpoint.spell(error(503))
        endpoint.heal()
        assert post(client, endpoint.url)[0] == 200


class TestLife:
    """Beginning, end, and what is seen from outside."""

    @pytest.mark.parametrize("behaviour", [hang(), late(3600), drip_body(3600), drip_headers(3600)])
    @pytest.mark.parametrize("stays", [True, False])
    def test_ends_at_once_whatever_is_under_way(self, behaviour: Behaviour, stays: bool) -> None:  # noqa: FBT001
        """A hanging request would hang the tests, leak its thread or keep the port."""
        before = set(threading.enumerate())
        with contextlib.ExitStack() as clients:
            with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as endpoint:
                endpoint.spell(behaviour)
                connection = clients.enter_context(connected(endpoint.url))
                connection.sendall(wire())
                endpoint.wait_until(lambda e: len(e.requests) == 1, PATIENCE, "the request")
                if not stays:
                    connection.close()
            assert endpoint.accepted == []
            assert not {thread.name for thread in set(threading.enumerate()) - before}
            with socket.socket() as again:
                again.bind(("127.0.0.1", urlsplit(endpoint.url).port))

    def test_a_port_that_is_taken_is_an_error(self, endpoint: StandIn) -> None:
        """A test would talk to somebody else's server."""
        taken = urlsplit(endpoint.url).port or 0
        with pytest.raises(OSError, match="in use"), StandIn(api_key=KEY, user_id=USER, port=taken):
            pass

    def test_an_outage_can_be_followed_by_a_return(self, client: urllib3.PoolManager) -> None:
        """'Refused, then back on the same port' could not be acted."""
        with StandIn(api_key=KEY, user_id=USER) as first:
            post(client, first.url)
        with (
            pytest.raises(urllib3.exceptions.NewConnectionError),
            urllib3.PoolManager(retries=False) as other,
        ):
            post(other, first.url)
        with StandIn(api_key=KEY, user_id=USER, port=urlsplit(first.url).port or 0) as second:
            assert post(client, second.url)[0] == 404

    def test_speaks_tls_and_survives_clients_that_distrust_it(self) -> None:
        """Neither https nor a certificate's refusal could be tested."""
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        with (
            StandIn(api_key=KEY, user_id=USER, tls=server, every_call_exists=True) as endpoint,
            urllib3.PoolManager(retries=False, timeout=PATIENCE) as wary,
            urllib3.PoolManager(retries=False, timeout=PATIENCE, ssl_context=trusting) as client,
            connected(endpoint.url),  # says nothing, so its handshake is still under way at the end
            contextlib.ExitStack() as left,
        ):
            with pytest.raises(urllib3.exceptions.SSLError):
                post(wary, endpoint.url)
            for behaviour, failure in (
                (lost(), "closed"),
                (half_reply(), "IncompleteRead"),
                (reset(), "aborted"),  # which Python's ssl may report as an end of file
            ):
                endpoint.misbehave(UUID, behaviour)
                with pytest.raises(urllib3.exceptions.ProtocolError, match=failure):
                    post(client, endpoint.url)
            assert post(client, endpoint.url) == (200, CONFIRMED)
            client.clear()
            endpoint.spell(reset_on_connect())
            # Without TLS: Python 3.11 leaves a socket open that is reset before its handshake.
            with pytest.raises(ConnectionResetError), connected(endpoint.url) as connection:
                connection.recv(1)
            endpoint.spell(hang())
            hanging = trusting.wrap_socket(left.enter_context(connected(endpoint.url)), server_hostname="127.0.0.1")
            left.enter_context(hanging).sendall(wire())
            endpoint.wait_until(lambda e: e.requests[-1].answer == "hang", PATIENCE, "a request that hangs")

    def test_requests_are_kept_as_sent_and_shown_masked(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """A test could not see what the relay sends, or a failing one would print credentials."""
        post(client, endpoint.url, RESULT, **{"X-Api-Key": "other", "x-api-key": ""})
        (request,) = endpoint.requests
        assert (request.method, request.path, request.answer) == ("POST", WEBHOOK_PATH, 401)
        assert (request.uuid, request.status, json.loads(request.body)) == (UUID, "Success", RESULT)
        assert {("X-Api-Key", "other"), ("x-user-id", USER)} <= set(request.headers)
        assert ("X-Api-Key", "***") in request.masked()["headers"]
        for shown in (repr(request), repr(endpoint), str(request), repr(endpoint.requests)):
            assert not {word for word in ("other", USER, KEY) if word in shown}

    def test_waiting_ends_with_the_condition(self, endpoint: StandIn) -> None:
        """Tests would have to sleep for luck."""
        with ThreadPoolExecutor(1) as pool, connected(endpoint.url) as connection:
            waiting = pool.submit(endpoint.wait_until, lambda e: len(e.accepted) == 2, PATIENCE, "two results")
            for _ in range(2):
                connection.sendall(wire())
            waiting.result(PATIENCE)

    @pytest.mark.parametrize("timeout", [0, 0.01])
    def test_waiting_in_vain_says_for_what(self, endpoint: StandIn, timeout: float) -> None:
        """A test that fails would not say why."""
        with pytest.raises(TimeoutError, match=r"^a miracle: not within"):
            endpoint.wait_until(lambda _: False, timeout, "a miracle")

    def test_a_bug_of_its_own_is_not_swallowed(self) -> None:
        """A broken stand-in would look like a broken relay, or like a good one."""

        def script(*_: object) -> Iterator[bytes]:
            yield b"HTTP/1.1 "
            raise ZeroDivisionError

        with (
            pytest.raises(RuntimeError, match="stand-in itself"),
            StandIn(api_key=KEY, user_id=USER) as endpoint,
        ):
            exchange(endpoint, Behaviour("broken", script))


class TestControl:
    """Steering it over HTTP, in the process or from another one."""

    def ask(self, client: urllib3.PoolManager, endpoint_url: str, name: str, body: object = None) -> tuple[int, Any]:
        """GET without a body, else POST."""
        url = endpoint_url.replace(WEBHOOK_PATH, f"/_standin/{name}")
        reply = client.request("GET" if body is None else "POST", url, json=body)
        return reply.status, reply.json()

    def test_steering(self, endpoint: StandIn, client: urllib3.PoolManager) -> None:
        """The demo could not act an outage, and what steers it would count as traffic."""
        new = {"uuid": "new", "status": "Failed"}
        assert post(client, endpoint.url, new)[0] == 404
        assert self.ask(client, endpoint.url, "calls", {"uuid": "new"})[0] == 200
        assert self.ask(client, endpoint.url, "spell", {"status": 503, "seconds": 3600})[0] == 200
        assert post(client, endpoint.url, new)[0] == 503
        assert self.ask(client, endpoint.url, "heal", {})[0] == 200
        assert post(client, endpoint.url, new)[0] == 200
        assert self.ask(client, endpoint.url, "spell", {"status": 500})[0] == 200
        assert post(client, endpoint.url, new)[0] == 500
        status, seen = self.ask(client, endpoint.url, "requests")
        assert (status, [request["answer"] for request in seen]) == (200, [404, 503, 200, 500])
        assert json.loads(seen[0]["body"]) == new
        assert KEY not in json.dumps(seen)
        assert len(endpoint.requests) == 4

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("calls", {}),
            ("calls", {"uuid": 1}),
            ("spell", {"status": 100}),
            ("spell", {"status": "500"}),
            ("spell", {"status": 500, "seconds": "30"}),
            ("requests", {}),
            ("heal", None),
            ("elsewhere", {}),
        ],
    )
    def test_what_it_does_not_understand_is_an_error(
        self, endpoint: StandIn, client: urllib3.PoolManager, name: str, body: object
    ) -> None:
        """A typing error in the demo would go unnoticed."""
        assert self.ask(client, endpoint.url, name, body)[0] == 400
        assert post(client, endpoint.url)[0] == 200

    @pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
    def test_as_a_process(self, tmp_path: Path, ending: signal.Signals) -> None:
        """The demo's endpoint would not start, would chatter, or would not end when it is told to."""
        credentials = tmp_path / "credentials.json"
        credentials.write_text(json.dumps({"api_key": KEY, "user_id": USER}))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}{WEBHOOK_PATH}"
        patient = urllib3.Retry(connect=12, backoff_factor=0.02, backoff_max=5)
        with (
            self.run("--port", str(port), "--credentials", str(credentials), "--every-call-exists") as process,
            urllib3.PoolManager(retries=patient, timeout=PATIENCE) as client,
        ):
            try:
                assert post(client, url) == (200, CONFIRMED)
                assert self.ask(client, url, "requests")[1][0]["answer"] == 200
                process.send_signal(ending)
                assert process.communicate(timeout=PATIENCE) == (b"", b"")
            finally:
                process.kill()
        assert process.returncode == 0

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            ("{}", b"api_key"),
            ("[", b"api_key"),
            (None, b"No such file"),
            ('{"api_key":"a","user_id":"b"}', b"in use"),
        ],
    )
    def test_a_process_that_cannot_start_says_why(
        self, endpoint: StandIn, tmp_path: Path, content: str | None, complaint: bytes
    ) -> None:
        """Whoever starts the demo would be shown a traceback."""
        credentials = tmp_path / "credentials.json"
        if content is not None:
            credentials.write_text(content)
        port = str(urlsplit(endpoint.url).port)
        with self.run("--port", port, "--credentials", str(credentials)) as process:
            error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 2
        assert complaint in error
        assert b"Traceback" not in error

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the module as a process."""
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "local.endpoint.standin", *arguments],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
