"""An attempt against any endpoint ends in time with its reason, and the next one gets its own answer."""

import gzip
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import urllib3

from flash_call_relay import connections, gate, handler
from flash_call_relay.models import Reason, Reply
from local.endpoint import behaviour
from local.endpoint.behaviour import Act, Behaviour, Step
from local.endpoint.standin import StandIn
from local.processes import wait_until
from tests.support.payloads import result
from tests.support.relay import (
    CONFIRMED,
    KEY,
    PATIENCE_S,
    USER,
    UUID,
    InProcessRelay,
    client,
    post,
    post_all,
    server_tls,
    trusted_authority,
)

OK = {"message": "OK"}
EMPTY = b"Content-Length: 2\r\n\r\n{}"  # the rest of a reply with an empty object
OF_SIZE = b'{"message": "OK"%s}'
SURPLUS = b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"message": "surplus"}'
ServerTLS = Callable[[trustme.CA], ssl.SSLContext | None]


def raw(*steps: Step) -> Behaviour:
    """Answer with these bytes; the connection stays open without `Act.CLOSE`."""
    return Behaviour("raw", lambda _reply, _headers: iter(steps))


def ok(rest: bytes, *steps: Step) -> Behaviour:
    """Answer with the status 200 and these bytes."""
    return raw(b"HTTP/1.1 200 OK\r\n" + rest, *steps)


def padded(size: int) -> Behaviour:
    """Answer with a confirmation of that many bytes."""
    return ok(b"Content-Length: %d\r\n\r\n%s" % (size, OF_SIZE % (b" " * (size - 17))))


def gzipped(layers: int, body: bytes = b"{}") -> bytes:
    """Return a reply's head and body in that many layers of gzip."""
    for _ in range(layers):
        body = gzip.compress(body)
    return b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (b", ".join([b"gzip"] * layers), len(body), body)


def assert_failed(said: Reply, reason: Reason, words: str = "") -> None:
    """Check that an attempt failed for this reason, in these words, which are fit for the log."""
    assert said.failure is reason
    assert words in said.message
    assert not [word for word in (KEY, USER, "SSH", "hunter2") if word in said.message]


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BAD_REPLIES = {
    "no reply": {
        "100 and no final reply": raw(b"HTTP/1.1 100 Continue\r\n\r\n", Act.CLOSE),
        "closed early": behaviour.end(Act.CLOSE),
        "lost reply": behaviour.lost(),
    },
    "an interim reply": {
        # http.client takes any interim reply but 100 for the reply, so the real one would answer the next request.
        "102, then the reply": raw(b"HTTP/1.1 102 Processing\r\n\r\n" + SURPLUS),
    },
    "the reply is cut short": {
        "no chunks": ok(CHUNKED + b"not chunks\r\n"),
        "half a reply": behaviour.half_reply(),
        "cut in a chunk": ok(CHUNKED + b"3\r\n{}", Act.CLOSE),
    },
    "the reply is too large": {
        "64 KiB and a byte": padded(64 * 1024 + 1),
        "gzip bomb": ok(gzipped(1, OF_SIZE % (b" " * 10_000_000))),
        "3 MB of headers": ok(b"".join(b"X-%d: %s\r\n" % (number, b"x" * 60_000) for number in range(50))),
        "negative chunk": ok(CHUNKED + b"-1\r\n" + b" " * 400_000),
    },
    "the reply has too many codings": {"six layers of gzip": ok(gzipped(6))},
    "too many headers, or too long a line": {
        "endless chunk extension": ok(CHUNKED + b"1;" + b"x" * 400_000),
        "header of 70 kB": behaviour.answer(200, b"{}", {"x": "y" * 70_000}),
        "101 headers": behaviour.answer(200, b"{}", {f"x-{number}": "y" for number in range(101)}),
    },
    "the reply is not HTTP": {
        "not HTTP": raw(b"SSH-2.0-OpenSSH_9.6\r\n", Act.CLOSE),
        "chunk far below 0": ok(CHUNKED + b"-%s\r\n{}" % (b"f" * 20)),
        "two lengths": ok(b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}"),
    },
}
SITUATIONS = {situation: (words, way) for words, ways in BAD_REPLIES.items() for situation, way in ways.items()}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_bad_reply_is_named_and_costs_one_attempt(standin: StandIn, situation: str) -> None:
    """A reply would confirm a result that it does not, fill the memory, or answer the next result."""
    words, way = SITUATIONS[situation]
    webhook = client(standin.url)
    assert post(webhook) == CONFIRMED  # so that the failure happens on a reused connection
    standin.override(way)  # also on the new connection
    assert_failed(post(webhook), Reason.BAD_REPLY, words=words)
    standin.heal()
    assert post(webhook) == CONFIRMED


def drip(head: bytes, piece: bytes) -> Behaviour:
    """Send a head, then pieces, each sooner than the time-out, without end."""

    def steps() -> Iterator[Step]:
        yield head
        while True:
            yield piece
            yield 0.2

    return Behaviour("drip", lambda _reply, _headers: steps())


SLOW = {
    "silence": behaviour.hang(),
    "dripping head": behaviour.drip("head", 0.2),
    "dripping body": behaviour.drip("body", 0.2),
    "endless interim replies": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless trailer": drip(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-A: b\r\n"),
    "body of unknown length": drip(b"HTTP/1.1 200 OK\r\n\r\n{}", b" "),
    "half a body": ok(b"Content-Length: 3\r\n\r\n{}"),
    # Where urllib3 finds no length, the body ends with the connection.
    "no number as length": ok(b"Content-Length: two\r\n\r\n{}"),
    "line without a colon": ok(b"no header\r\n" + EMPTY),
    "204 that says chunked": raw(b"HTTP/1.1 204 No Content\r\n" + CHUNKED),
}


def test_a_slow_reply_ends_at_the_time_out(standin: StandIn) -> None:
    """An endpoint that sends byte by byte would hold a thread without limit."""
    webhook = client(standin.url, timeout_s=1, connections=len(SLOW))
    for uuid, way in SLOW.items():
        standin.misbehave(uuid, way)
    for uuid, said in post_all(webhook, SLOW, timeout_s=1).items():
        assert said.failure is Reason.TIMEOUT, uuid


READ = {
    "no reason": (raw(b"HTTP/1.1 200\r\nCONTENT-LENGTH:17\r\n\r\n" + b'{"message": "OK"}'), 200, OK),
    "not ASCII": (raw(b'HTTP/1.1 200 Tr\xe8s bien\r\nX: \xff\r\nContent-Length: 17\r\n\r\n{"message": "OK"}'), 200, OK),
    "chunks and a trailer": (ok(CHUNKED + b'11;a=b\r\n{"message": "OK"}\r\n0\r\nX-Trailer: a\r\n\r\n'), 200, OK),
    "wide headers": (ok(3 * (b"X: a" + b" " * 60_000 + b"b\r\n") + EMPTY), 200, {}),
    "HTTP/1.0 until it closes": (raw(b'HTTP/1.0 200 OK\r\n\r\n{"message": "OK"}', Act.CLOSE), 200, OK),
    "100, then the reply": (raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + b"HTTP/1.1 400 No\r\n" + EMPTY), 400, {}),
    "204": (raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 17\r\n\r\n"), 204, None),
    "64 KiB": (padded(64 * 1024), 200, OK),
    "gzip": (ok(gzipped(1)), 200, {}),
    # urllib3 reads these more leniently than HTTP allows. An object that is whole cannot be a part of another one.
    "chunk longer than its size": (ok(CHUNKED + b"2\r\n{}}}0\r\n\r\n"), 200, {}),
    "cut before the last chunk": (ok(b"Connection: close\r\n" + CHUNKED + b"2\r\n{}\r\n0", Act.CLOSE), 200, {}),
    "plain, labelled br": (behaviour.answer(200, OK, {"Content-Encoding": "br"}), 200, OK),
    "plain, labelled gzip": (behaviour.answer(200, OK, {"Content-Encoding": "identity, gzip"}), 200, OK),
    "cut head": (raw(b"HTTP/1.1 200 OK\r\nContent-", Act.CLOSE), 200, None),
    "status 600": (raw(b"HTTP/1.1 600 ?\r\n" + EMPTY), 600, {}),
    # Replies that nobody asked for, in the same TLS record; more than http.client reads ahead.
    "a surplus reply": (ok(EMPTY + SURPLUS), 200, {}),
    "200 surplus replies": (ok(EMPTY + SURPLUS * 200), 200, {}),
}


@pytest.mark.parametrize("situation", READ)
def test_a_reply_is_read_and_the_next_attempt_gets_its_own(standin: StandIn, situation: str) -> None:
    """A confirmation from an unusual proxy would be sent for 24 hours, or one reply would confirm another result."""
    way, status, json_object = READ[situation]
    webhook = client(standin.url)
    standin.misbehave(UUID, way)
    said = post(webhook)
    assert (said.http_status, said.json_object) == (status, json_object)
    assert post(webhook) == CONFIRMED


@pytest.mark.parametrize("reads", [False, True], ids=["before the request", "after it"])
@pytest.mark.parametrize(
    ("standin", "how"),
    [("http", Act.RESET), ("http", Act.CUT), ("https", Act.RESET), ("https", Act.CUT), ("https", Act.CLOSE)],
    ids=["http, reset", "http, closed", "https, reset", "https, closed", "https, close_notify"],
    indirect=["standin"],
)
def test_a_kept_connection_that_dies_costs_no_result(
    relay: InProcessRelay, standin: StandIn, monkeypatch: pytest.MonkeyPatch, how: Act, *, reads: bool
) -> None:
    """After a quiet spell results would wait for their next try, and five of them would close the gate for 30 s."""
    relay.configure(WEBHOOK_URL=standin.url)
    if reads:
        standin.override(behaviour.end_kept(Act.REQUEST, how))
    else:  # it ends just after the client has looked whether it is open
        monkeypatch.setattr(urllib3.connection, "wait_for_read", lambda *_, **__: False)
    for batch in range(3):
        if not reads:
            standin.end_connections(how)
        uuids = [f"call-{batch}-{number}" for number in range(10)]
        standin.issue(*uuids)
        assert relay.invoke_with(relay.send(*map(result, uuids))) == []
    assert relay.outcomes() == [("delivered", None)] * 30
    assert relay.lines("endpoint.") == []


def test_kept_connections_that_fell_silent_cost_one_attempt_each_at_most(standin: StandIn) -> None:
    """A NAT gateway that forgets connections would close the gate again and again, a time-out after the other."""
    webhook = client(standin.url, connections=4)
    uuids = [f"call-{number}" for number in range(4)]
    standin.issue(*uuids)
    all_asked = behaviour.after(lambda: len(standin.requests) >= 4, behaviour.late(0))
    standin.override(all_asked)  # so that each gets its own connection
    assert {said.http_status for said in post_all(webhook, uuids).values()} == {200}
    standin.override(behaviour.hang())
    assert_failed(post(webhook, timeout_s=1), Reason.TIMEOUT)
    assert standin.connections == 4
    standin.heal()
    assert post(webhook) == CONFIRMED
    assert standin.connections == 5


def test_a_repetition_heeds_a_request_to_wait(relay: InProcessRelay) -> None:
    """A result would be sent inside a `Retry-After` that the relay has heard, because its connection had died."""
    relay.configure(CONNECTIONS_PER_FUNCTION="2")
    first, second = relay.issue_calls(2)
    relay.endpoint.override(behaviour.after(lambda: len(relay.endpoint.requests) >= 2, behaviour.late(0)))
    relay.invoke_with(relay.send(result(first), result(second)))  # two connections are kept
    relay.endpoint.heal()
    both_asked = behaviour.after(lambda: len(relay.endpoint.requests) >= 4, behaviour.error(429, retry_after=120))
    relay.endpoint.misbehave("throttled", both_asked)
    dies = behaviour.after(lambda: handler.wire().gate.throttling, behaviour.end(Act.CLOSE))
    relay.endpoint.misbehave("dies", dies)
    assert len(relay.invoke_with(relay.send(result("throttled"), result("dies")))) == 2
    assert [request.uuid for request in relay.endpoint.requests[2:]].count("dies") == 1
    assert {line["reason"] for line in relay.lines("result.deferred")} == {"throttled"}


def test_a_trial_takes_a_new_connection(relay: InProcessRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many dead connections, each trial would take another one of them, and the gate would stay closed."""
    monkeypatch.setattr(gate, "BLOCK_S", 0.0)  # as if the time had passed
    relay.configure(CONNECTIONS_PER_FUNCTION="1")
    relay.endpoint.override(behaviour.error(500))
    relay.invoke_with(relay.send(*(result(f"call-{number}") for number in range(5))))
    assert relay.endpoint.connections == 1
    relay.endpoint.heal()
    relay.endpoint.issue("trial")
    assert relay.invoke_with(relay.send(result("trial"))) == []
    assert relay.endpoint.connections == 2


@pytest.mark.parametrize("way", [behaviour.end_kept(), ok(EMPTY, 0.05, SURPLUS)], ids=["closed", "a surplus reply"])
def test_an_idle_connection_on_which_something_came_is_replaced(standin: StandIn, way: Behaviour) -> None:
    """After each quiet minute the first attempt would fail, or a result would be confirmed by another's reply."""
    webhook = client(standin.url)
    standin.misbehave(UUID, way)
    post(webhook)
    ((kept, _),) = webhook._connections._idle
    assert select.select([kept.sock], [], [], PATIENCE_S)[0], "nothing came"
    assert post(webhook) == CONFIRMED
    assert standin.connections == 2


@pytest.mark.parametrize("passed_s", [61, -1], ids=["after a minute", "the clock was put back"])
def test_a_connection_idle_for_a_minute_is_replaced(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, passed_s: float
) -> None:
    """The next result would wait for its time-out on a connection that a NAT gateway has dropped."""
    webhook = client(standin.url)
    now = time.time()
    monkeypatch.setattr(connections, "wall_clock", lambda: now)
    for _ in range(3):
        assert post(webhook) == CONFIRMED
    assert standin.connections == 1
    monkeypatch.setattr(connections, "wall_clock", lambda: now + passed_s)
    assert post(webhook) == CONFIRMED
    assert standin.connections == 2


@pytest.mark.parametrize("standin", ["http"], indirect=True)  # under TLS it may look like an early end
def test_a_reset_connection_is_named(standin: StandIn) -> None:
    """An on-call engineer would look for a failure of the API instead of one of the network."""
    webhook = client(standin.url)
    standin.override(behaviour.end(Act.RESET))
    assert_failed(post(webhook), Reason.CONNECTION_FAILED)
    standin.heal()
    assert post(webhook) == CONFIRMED


def test_a_hanging_resolver_times_out_and_its_connection_gets_no_request(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of DNS would hold the function until Lambda kills it, or a deferred result would still be sent."""
    look_up, go_on = socket.getaddrinfo, threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        go_on.wait(60)
        return look_up(*args, **kwargs)

    webhook = client(standin.url, timeout_s=1)
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert_failed(post(webhook, timeout_s=1), Reason.TIMEOUT)
    go_on.set()
    # The late connection is closed unsent: the stand-in sees it begin and end.
    assert wait_until(lambda: standin.connections == 1, PATIENCE_S)
    assert post(client(standin.url)) == CONFIRMED
    assert len(standin.requests) == 1


@pytest.mark.parametrize("standin", ["http"], indirect=True)
def test_a_silent_address_is_followed_by_the_next_one(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """One dead address of several would stop all deliveries."""
    (good,) = socket.getaddrinfo("127.0.0.1", urlsplit(standin.url).port, type=socket.SOCK_STREAM)
    dead = socket.create_server(("127.0.0.1", 0), backlog=0)  # Linux lets one connection wait, and no further one
    addresses = [(*good[:4], dead.getsockname()), good]
    with dead, socket.create_connection(dead.getsockname()):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert post(client(standin.url, timeout_s=4), timeout_s=4) == CONFIRMED
        addresses.pop()
        assert_failed(post(client(standin.url, timeout_s=1), timeout_s=1), Reason.TIMEOUT)
    assert_failed(post(client(standin.url)), Reason.CONNECTION_FAILED)


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (lambda _: server_tls(trustme.CA()), "unable to get local issuer certificate"),
        (lambda known: server_tls(known, "betatel.example"), "mismatch"),
        (lambda _: None, "TLS failed"),
    ],
    ids=["unknown authority", "wrong host", "plain http"],
)
def test_an_untrusted_server_gets_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: ServerTLS, words: str
) -> None:
    """The credentials would go to an impostor."""
    known = trusted_authority(tmp_path, monkeypatch)
    with StandIn(api_key=KEY, user_id=USER, tls=tls(known)) as bad:
        assert_failed(post(client(bad.url.replace("http://", "https://"))), Reason.TLS_FAILED, words=words)
        assert bad.requests == []


@pytest.mark.parametrize("standin", ["https"], indirect=True)
def test_no_connection_changes_the_tls_context_that_all_share(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL would free memory that another thread's handshake reads, and the function could crash."""
    webhook = client(standin.url)
    monkeypatch.setattr(ssl.SSLContext, "set_alpn_protocols", None)  # a call fails
    assert post(webhook) == CONFIRMED
