"""An attempt ends in time with its reason, whatever fails, and the next attempt works."""

import gzip
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest
import trustme

from flash_call_relay.models import Answer, FlashCallResult, NoReply, Reason, Reply
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import (
    Act,
    Behaviour,
    Step,
    answer,
    close_early,
    drip_body,
    drip_headers,
    gzip_bomb,
    half_reply,
    hang,
    huge,
    lost,
    not_http,
    reset,
    reset_on_connect,
    status_line,
)
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from local.processes import held_port
from tests.support.relay import CONFIRMED, CREDENTIALS, KEY, PATIENCE_S, USER, UUID, webhook_settings

GZIP = {"Content-Encoding": "gzip"}
ServerTLS = Callable[[trustme.CA], ssl.SSLContext | None]


def post_all(webhook: Webhook, uuids: Iterable[str]) -> list[Answer]:
    """Make attempts side by side; an endless attempt fails the test instead of stopping it."""
    said: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    results = [FlashCallResult(uuid, "Success") for uuid in uuids]
    for result in results:
        threading.Thread(target=lambda it=result: said.put(webhook.post(it, CREDENTIALS)), daemon=True).start()
    return [said.get(timeout=PATIENCE_S) for _ in results]


def post(webhook: Webhook) -> Answer:
    """Make one attempt."""
    return post_all(webhook, [UUID])[0]


def one_connection(url: str) -> Webhook:
    """Return a client that has nothing left if a failure costs it its one connection."""
    return Webhook(webhook_settings(url, connections=1))


def assert_failed(said: Answer, *reasons: Reason) -> None:
    """Check that an answer has one of these reasons, and a detail that is fit for the log."""
    assert isinstance(said, NoReply)
    assert said.reason in reasons
    assert said.detail
    assert not [word for word in (KEY, USER, "SSH", "hunter2") if word in said.detail]


@pytest.mark.parametrize(
    ("behaviour", "reasons"),
    [
        (reset(), {Reason.CONNECTION_FAILED, Reason.BAD_REPLY}),  # under TLS, Python may report an end of file
        (close_early(), {Reason.BAD_REPLY}),
        (lost(), {Reason.BAD_REPLY}),
        (half_reply(), {Reason.BAD_REPLY}),
        (not_http(), {Reason.BAD_REPLY}),
        (status_line(100), {Reason.BAD_REPLY}),
        (status_line(150), {Reason.BAD_REPLY}),
        (huge(), {Reason.BAD_REPLY}),
        (huge(64 * 1024 + 1), {Reason.BAD_REPLY}),
        (gzip_bomb(), {Reason.BAD_REPLY}),
        (answer(200, b"no gzip", GZIP), {Reason.BAD_REPLY}),
        (answer(200, b"no gzip" * 10_000, GZIP), {Reason.BAD_REPLY}),
        (answer(200, b"{}", {"x": "y" * 70_000}), {Reason.BAD_REPLY}),
        (answer(200, b"{}", {f"x-{number}": "y" for number in range(101)}), {Reason.BAD_REPLY}),
        (answer(200, b"not chunks\r\n", {"Transfer-Encoding": "chunked"}), {Reason.BAD_REPLY}),
    ],
    ids=[
        *("reset", "closed early", "lost reply", "half a reply", "not HTTP", "HTTP 100", "HTTP 150", "10 MB"),
        "64 KiB and a byte",
        *("gzip bomb", "no gzip", "much that is no gzip", "a header of 70 kB", "101 headers", "no chunks"),
    ],
)
def test_each_failure_has_its_reason_and_costs_one_attempt(
    standin: StandIn, behaviour: Behaviour, reasons: set[Reason]
) -> None:
    """A failure of BetaTel would hang or crash the relay, get a wrong reason, or break the connection for good."""
    webhook = one_connection(standin.url)
    assert post(webhook) == CONFIRMED  # so that the failure happens on a reused connection
    standin.misbehave(UUID, behaviour)
    assert_failed(post(webhook), *reasons)
    assert post(webhook) == CONFIRMED


def test_a_reply_that_drips_times_out(standin: StandIn) -> None:
    """An endpoint that sends byte by byte would hold a thread without limit."""
    # Each gap between two bytes is shorter than the time-out, but the whole reply takes much longer.
    ways = {"hangs": hang(), "drips-headers": drip_headers(0.2), "drips-body": drip_body(0.2)}
    webhook = Webhook(webhook_settings(standin.url, connections=len(ways), timeout_s=1))
    standin.issue(*ways)
    for uuid, behaviour in ways.items():
        standin.misbehave(uuid, behaviour)
    for said in post_all(webhook, ways):
        assert_failed(said, Reason.TIMEOUT)
    webhook.timeout_s = 20  # the test machine may stall
    assert {getattr(said, "http_status", None) for said in post_all(webhook, ways)} == {200}


@pytest.mark.parametrize("standin", ["http"], indirect=True)
def test_a_reset_connection_is_connection_failed(standin: StandIn) -> None:
    """An on-call engineer would look for a failure of the API instead of one of the network."""
    standin.misbehave(UUID, reset())
    assert_failed(post(one_connection(standin.url)), Reason.CONNECTION_FAILED)


def test_a_reply_of_exactly_64_kib_is_read(standin: StandIn) -> None:
    """The relay would refuse a long confirmation and send its result again and again."""
    webhook = one_connection(standin.url)
    standin.misbehave(UUID, huge(64 * 1024))
    assert getattr(post(webhook), "json_object", None) == {"message": "OK"}
    assert post(webhook) == CONFIRMED


@pytest.mark.parametrize("standin", ["http"], indirect=True)  # under TLS, Python leaves a reset socket open
def test_a_connection_that_is_reset_on_connect_is_an_answer(standin: StandIn) -> None:
    """An endpoint that sheds load would crash the relay."""
    webhook = one_connection(standin.url)
    standin.override(reset_on_connect())
    for _ in range(3):
        # The reason depends on when the client learns of the reset.
        assert_failed(post(webhook), Reason.CONNECTION_FAILED, Reason.TLS_FAILED, Reason.BAD_REPLY)
    standin.heal()
    assert post(webhook) == CONFIRMED


def test_a_server_that_accepts_and_stays_silent_times_out() -> None:
    """A TLS handshake that never ends would hold a thread for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        webhook = Webhook(webhook_settings(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=1))
        assert_failed(post(webhook), Reason.TIMEOUT)


@pytest.mark.parametrize("standin", ["http"], indirect=True)  # the lookup comes before TLS
def test_a_failing_resolver_is_connection_failed(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of DNS, or a typing error in the host name, would look like a bug of the relay."""
    webhook = one_connection(standin.url)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as outage:
        outage.setattr(socket, "getaddrinfo", refuse)
        said = post(webhook)
    assert_failed(said, Reason.CONNECTION_FAILED)
    assert "not known" in getattr(said, "detail", "")
    assert post(webhook) == CONFIRMED


def certificate(authority: trustme.CA, *names: str, not_after: datetime | None = None) -> ssl.SSLContext:
    """Return the TLS context of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, not_after=not_after).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("first", "reason", "words"),
    [
        (lambda _: certificate(trustme.CA(), "127.0.0.1"), Reason.TLS_FAILED, "unable to get local issuer certificate"),
        (lambda known: certificate(known, "betatel.example"), Reason.TLS_FAILED, "mismatch"),
        (
            lambda known: certificate(known, "127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)),
            Reason.TLS_FAILED,
            "certificate has expired",
        ),
        (lambda _: None, Reason.TLS_FAILED, "TLS failed"),
        (None, Reason.CONNECTION_FAILED, "refused"),
    ],
    ids=["unknown authority", "wrong host", "expired", "plain http", "port refused"],
)
def test_an_untrusted_server_gets_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: ServerTLS | None, reason: Reason, words: str
) -> None:
    """The credentials would go to an impostor, or results would keep waiting after the fix of a certificate or port."""
    known = trustme.CA()
    known.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with held_port() as port:
        webhook = one_connection(f"https://127.0.0.1:{port}{WEBHOOK_PATH}")
        if first:
            with StandIn(api_key=KEY, user_id=USER, port=port, tls=first(known)) as bad:
                said = post(webhook)
            assert bad.requests == []
        else:
            said = post(webhook)
        assert_failed(said, reason)
        assert isinstance(said, NoReply)
        assert words in said.detail
        with StandIn(api_key=KEY, user_id=USER, port=port, tls=certificate(known, "127.0.0.1")) as good:
            good.issue(UUID)
            assert post(webhook) == CONFIRMED


def raw(*steps: Step) -> Behaviour:
    """Answer with these bytes; the connection stays open without `Act.CLOSE`."""
    return Behaviour("raw", lambda _reply, _headers: iter(steps))


def test_the_reply_after_interim_ones_is_the_answer(standin: StandIn) -> None:
    """A proxy that hints early would defer every result, or each would get the answer to the result before it."""
    webhook = one_connection(standin.url)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2
    standin.misbehave(UUID, raw(hints + b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}"))
    assert getattr(post(webhook), "http_status", None) == 400
    assert post(webhook) == CONFIRMED


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200\r\nCONTENT-LENGTH:17\r\n\r\n%s",
        b"HTTP/1.1 200 OK\nContent-Length: 17 \n\n%s",
        b"HTTP/1.0 200 OK\r\nContent-Length: 17, 17\r\nContent-Length: 17\r\n\r\n%s",
        b"HTTP/1.1 200 Tr\xe8s bien\r\nX-Note: caf\xe9: \xff\r\nX-Empty:\r\nContent-Length: 17\r\n\r\n%s",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n11;a=b\r\n%s\r\n0\r\nX-Trailer: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + 2 * b"Transfer-Encoding: chunked\r\n" + b"\r\n11\r\n%s\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 17,17\r\n\r\n%s",
        b"HTTP/1.1 200 OK\r\nX-Policy: a;\n  b;\r\n\tc\r\nContent-Length: 17\r\nX-Last: a\r\n :\r\n\r\n%s",
        b"HTTP/1.1 200 OK\r\n Content-Length: 1\r\nContent-Length: 17\r\n\r\n%s",
        # A pattern that takes seconds for one of them leaves no time for the rest of the reply.
        b"HTTP/1.1 200 OK\r\n" + 3 * (b"X-Wide: a" + b" " * 60_000 + b"b\r\n") + b"Content-Length: 17\r\n\r\n%s",
    ],
    ids=[
        *("no reason", "bare line feeds", "one length three times", "not ASCII", "chunks and a trailer"),
        *("chunked said twice", "identity", "folded headers", "folded before the first header", "wide headers"),
    ],
)
def test_each_form_of_a_reply_that_servers_send_is_read(standin: StandIn, reply: bytes) -> None:
    """A confirmation from an unusual proxy would count as no reply, so the result would be sent for ten days."""
    webhook = one_connection(standin.url)
    standin.misbehave(UUID, raw(reply % b'{"message": "OK"}'))
    assert getattr(post(webhook), "json_object", None) == {"message": "OK"}
    assert post(webhook) == CONFIRMED


@pytest.mark.parametrize("header", [b"Transfer-Encoding: chunked", b"Content-Length: 17"], ids=["chunked", "a length"])
def test_a_204_ends_with_its_head(standin: StandIn, header: bytes) -> None:
    """With `Confirmation` `http-status`, an attempt would wait for a body until its time-out and confirm nothing."""
    webhook = one_connection(standin.url)
    standin.misbehave(UUID, raw(b"HTTP/1.1 204 No Content\r\n%s\r\n\r\n" % header))
    assert post(webhook) == Reply(204, None)
    assert post(webhook) == CONFIRMED


@pytest.mark.parametrize("rest", [b"", b"\r\n", b"\r\n0"], ids=["in a chunk", "between two", "in a size"])
def test_chunks_that_are_cut_short_are_bad_reply(standin: StandIn, rest: bytes) -> None:
    """The first part of a reply would confirm a result."""
    webhook = one_connection(standin.url)
    standin.misbehave(UUID, raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}" + rest, Act.CLOSE))
    assert_failed(post(webhook), Reason.BAD_REPLY)
    assert post(webhook) == CONFIRMED


def gzipped(layers: int) -> bytes:
    """Return an empty body in that many layers of gzip."""
    body = b""
    for _ in range(layers):
        body = gzip.compress(body)
    return body


@pytest.mark.parametrize(
    "reply",
    [
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + b" " * 400_000,
        b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\n-%s\r\n{}" % (b"f" * 20),
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}}}0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 400_000,
        b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(gzipped(2)), gzipped(2)),
        b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Encoding: identity\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
        b"Content-Length: 2, 30\r\n\r\n{}",
        b"Content-Length: two\r\n\r\n{}",
        b"Content-Length: -2\r\n\r\n{}",
        b"Content-Length: %s2\r\n\r\n{}" % (b"0" * 5_000),
        b"Content-Length: 10000000000000\r\n\r\n{}" + b" " * 300_000,
        b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Content-Length: 2\r\n 0\r\n\r\n{}" + b" " * 30,
        b"no header\r\nContent-Length: 2\r\n\r\n{}",
        b"".join(b"X-%d: %s\r\n" % (number, b"x" * 60_000) for number in range(50)) + b"Content-Length: 2\r\n\r\n{}",
    ],
    ids=[
        "negative chunk",
        "chunk below -1",
        "chunk far below 0",
        "chunk longer than its size",
        "chunk with a prefix",
        "chunk extension",
        "layers of gzip",
        "unknown encoding",
        "two encodings",
        "two lengths",
        "two lengths in a list",
        "no number as length",
        "negative length",
        "length with many digits",
        "length of 10 TB",
        "gzip as transfer encoding",
        "folded length",
        "line without a colon",
        "headers without end",
    ],
)
def test_a_hostile_reply_is_bad_reply(standin: StandIn, reply: bytes) -> None:
    """One bad reply would use up the function's memory or CPU, and fail the whole batch."""
    webhook = one_connection(standin.url)
    standin.misbehave(UUID, raw(b"HTTP/1.1 200 OK\r\n" + reply))
    assert_failed(post(webhook), Reason.BAD_REPLY)
    assert post(webhook) == CONFIRMED
