"""One POST as BetaTel documents it, and an answer for any reply."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from flash_call_relay import __version__
from flash_call_relay.models import Reason, Reply
from local.endpoint.behaviour import Act, Behaviour, answer
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from tests.support.relay import CONFIRMED, KEY, USER, UUID, client, post

over_http = pytest.mark.parametrize("standin", ["http"], indirect=True)  # TLS does not matter for these


def test_the_request_has_the_documented_path_headers_and_body(standin: StandIn) -> None:
    """BetaTel would refuse every result, or learn more than it should."""
    post(client(standin.url + "?tenant=a%20b"))
    (request,) = standin.requests
    assert (request.method, request.path) == ("POST", WEBHOOK_PATH + "?tenant=a%20b")
    assert sorted(request.headers) == [
        ("Accept-Encoding", "identity"),
        ("Content-Length", str(len(request.body))),
        ("Content-Type", "application/json"),
        ("Host", urlsplit(standin.url).netloc),
        ("User-Agent", f"flash-call-relay/{__version__}"),
        ("x-api-key", KEY),
        ("x-user-id", USER),
    ]
    assert json.loads(request.body) == {"uuid": UUID, "status": "Success"}


@over_http
@pytest.mark.parametrize(
    ("authority", "address", "host"),
    [
        ("[::1]", ("::1", 80), "[::1]"),
        ("[::1]:8787", ("::1", 8787), "[::1]:8787"),
        ("localhost", ("localhost", 80), "localhost"),
    ],
    ids=["IPv6", "IPv6 and a port", "a name"],
)
def test_the_configured_host_and_port_are_asked(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, authority: str, address: tuple[str, int], host: str
) -> None:
    """An IPv6 address without a port would be split into a host and a port, and no result would be delivered."""
    real = socket.getaddrinfo("127.0.0.1", urlsplit(standin.url).port, type=socket.SOCK_STREAM)
    asked: list[tuple[str, int]] = []

    def look_up(name: str, port: int, *_: object) -> Any:
        asked.append((name, port))
        return real

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert post(client(f"http://{authority}{WEBHOOK_PATH}")) == CONFIRMED
    assert asked == [address]
    assert dict(standin.requests[0].headers)["Host"] == host


@over_http
def test_the_status_and_the_wait_of_a_reply_that_is_cut_short_are_read(standin: StandIn) -> None:
    """The relay would go on asking an endpoint that has asked it to wait, or a 2xx could not confirm by its status."""
    cut = b"HTTP/1.1 429 Wait\r\nRetry-After: 120\r\nContent-Length: 9\r\n\r\n{"
    standin.misbehave(UUID, Behaviour("cut", lambda *_: iter((cut, Act.CLOSE))))
    said = post(client(standin.url))
    assert (said.http_status, said.failure, said.wait_s) == (429, Reason.BAD_REPLY, 120)


@pytest.mark.parametrize(("status", "location"), [(301, ""), (308, ""), (302, "http://["), (307, "https://x:y")])
def test_a_redirect_is_not_followed(standin: StandIn, status: int, location: str) -> None:
    """The credentials would go to any host that a redirect names, or a broken name would cost a connection."""
    webhook = client(standin.url)
    with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as other:
        standin.misbehave(UUID, answer(status, None, {"Location": location or other.url}))
        assert post(webhook) == Reply(status, None)
        assert (other.connections, len(standin.requests)) == (0, 1)
    assert post(webhook) == CONFIRMED
