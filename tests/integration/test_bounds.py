"""An attempt is bounded from the DNS lookup to the last byte, and stale connections are replaced."""

import contextlib
import errno
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from urllib3.connection import HTTPConnection
from urllib3.util import parse_url

from flash_call_relay import connection as module
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import NoReply, Reason, Reply
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import answer, close_idle
from local.endpoint.standin import StandIn
from local.processes import held_port
from tests.support.relay import (
    CONFIRMED,
    CREDENTIALS,
    KEY,
    PATIENCE_S,
    SUCCESS,
    USER,
    UUID,
    trusted_tls,
    webhook_settings,
)


@pytest.mark.parametrize("passed_s", [61, -3600], ids=["after a minute", "the clock was put back"])
def test_a_connection_idle_for_a_minute_is_replaced(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, passed_s: float
) -> None:
    """The next result would wait for its time-out on a connection that a NAT gateway has dropped."""
    webhook = Webhook(webhook_settings(standin.url))
    for _ in range(3):
        assert webhook.post(SUCCESS, CREDENTIALS) == CONFIRMED
    assert standin.connections == 1
    now = time.time()
    monkeypatch.setattr(module, "wall_clock", lambda: now + passed_s)
    assert webhook.post(SUCCESS, CREDENTIALS) == CONFIRMED
    assert standin.connections == 2


def test_a_connection_that_the_server_closed_while_idle_is_replaced(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each quiet minute, the first attempt would fail, and its result would be late."""
    opened: list[int] = []
    connect = socket.socket.connect

    def noted(connection: socket.socket, address: Any) -> None:
        opened.append(connection.fileno())
        connect(connection, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    webhook = Webhook(webhook_settings(standin.url))
    standin.misbehave(UUID, close_idle())
    assert webhook.post(SUCCESS, CREDENTIALS) == CONFIRMED
    assert select.select(opened, [], [], PATIENCE_S)[0], "the server closes the connection"
    assert webhook.post(SUCCESS, CREDENTIALS) == CONFIRMED
    assert standin.connections == len(opened) == 2


def test_a_connection_that_holds_part_of_a_tls_record_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a reply that nobody asked for would arrive later, and confirm the next result."""
    tls, sent = trusted_tls(tmp_path, monkeypatch), threading.Event()

    def serve(listener: socket.socket, connections: contextlib.ExitStack) -> None:
        for name in (b"1", b"2"):
            client = connections.enter_context(tls.wrap_socket(listener.accept()[0], server_side=True))
            client.recv(4096)
            client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"connection":%s}' % name)
            socket.socket.sendall(client, b"\x17\x03\x03\x01\x00" + b"x" * 20)  # 20 of a record's 256 bytes
            sent.set()

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        contextlib.ExitStack() as connections,
        ThreadPoolExecutor(1) as thread,
    ):
        listener.settimeout(PATIENCE_S)
        served = thread.submit(serve, listener, connections)
        webhook = Webhook(webhook_settings(f"https://127.0.0.1:{listener.getsockname()[1]}/"))
        assert webhook.post(SUCCESS, CREDENTIALS) == Reply(200, {"connection": 1})
        assert sent.wait(PATIENCE_S)
        assert webhook.post(SUCCESS, CREDENTIALS) == Reply(200, {"connection": 2})
        served.result(PATIENCE_S)


@pytest.mark.parametrize("standin", ["http"], indirect=True)
def test_a_long_message_is_searched_for_a_long_key_in_time(standin: StandIn) -> None:
    """A long error message would stop all threads for seconds, and the function could exceed its time-out."""
    long_key = "".join(f"key{number}" for number in range(1000, 2500))
    standin.misbehave(UUID, answer(400, {"message": "key" * 20_000}))
    began = time.thread_time()  # of this thread's work only, however busy the machine is
    said = Webhook(webhook_settings(standin.url)).post(SUCCESS, Credentials(long_key, USER))
    assert isinstance(said, Reply)
    assert said.message.startswith("keykey")
    assert time.thread_time() - began < 1


def test_a_hanging_resolver_times_out(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of DNS would hold the function until Lambda kills it, and the whole batch would come back."""
    answered = threading.Event()
    look_up = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        answered.wait(PATIENCE_S)
        return look_up(*args, **kwargs)

    webhook = Webhook(webhook_settings(standin.url, timeout_s=1))
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", slow)
        answer = webhook.post(SUCCESS, CREDENTIALS)
        answered.set()
    assert isinstance(answer, NoReply)
    assert answer.reason is Reason.TIMEOUT
    webhook.timeout_s = 20  # the test machine may stall
    assert webhook.post(SUCCESS, CREDENTIALS) == CONFIRMED


def test_a_dead_address_is_followed_by_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One dead address of several would stop all deliveries."""
    with StandIn(api_key=KEY, user_id=USER) as endpoint, held_port() as port:
        endpoint.issue(UUID)
        (good,) = socket.getaddrinfo(
            "127.0.0.1", int(endpoint.url.split(":")[2].split("/")[0]), type=socket.SOCK_STREAM
        )
        dead = (*good[:4], ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [dead, dead, good])
        assert Webhook(webhook_settings(endpoint.url)).post(SUCCESS, CREDENTIALS) == CONFIRMED
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [dead])
        answer = Webhook(webhook_settings(endpoint.url)).post(SUCCESS, CREDENTIALS)
        assert isinstance(answer, NoReply)
        assert answer.reason is Reason.CONNECTION_FAILED


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EPIPE, errno.ENETUNREACH], ids=errno.errorcode.get)
def test_a_connection_that_fails_while_it_is_made_is_connection_failed(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The relay would take a refused connection for its own bug, and the result would wait longer."""

    def refuse(*_: Any) -> Any:
        raise OSError(number, "as told")

    webhook = Webhook(webhook_settings(standin.url))
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        answer = webhook.post(SUCCESS, CREDENTIALS)
    assert isinstance(answer, NoReply)
    assert answer.reason is Reason.CONNECTION_FAILED
    assert webhook.post(SUCCESS, CREDENTIALS) == CONFIRMED


def test_urllib3_connects_by_new_conn_to_dns_host(standin: StandIn) -> None:
    """After an upgrade of urllib3, nothing would bound an attempt, and nobody would notice."""
    hosts = []

    class Noting(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            hosts.append(self._dns_host)
            return super()._new_conn()

    address = parse_url(standin.url)
    with contextlib.closing(Noting("127.0.0.1", address.port)) as connection:
        connection.connect()
    assert hosts == ["127.0.0.1"]
