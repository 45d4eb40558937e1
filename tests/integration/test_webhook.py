"""One POST as BetaTel documents it, and an answer for any reply."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from flash_call_relay import __version__
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import FlashCallResult, Reply
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import Act, Behaviour, answer, error, redirect
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from tests.support.relay import CONFIRMED, CREDENTIALS, KEY, SUCCESS, USER, UUID, post, webhook_settings

over_http = pytest.mark.parametrize("standin", ["http"], indirect=True)  # TLS does not matter for these


@pytest.fixture
def webhook(standin: StandIn) -> Webhook:
    """Return a client of the stand-in with four connections."""
    return Webhook(webhook_settings(standin.url, connections=4))


@pytest.mark.parametrize("status", ["Success", "Failed"])
def test_the_request_has_the_documented_path_headers_and_body(standin: StandIn, webhook: Webhook, status: Any) -> None:
    """BetaTel would refuse every result, or learn more than it should."""
    post(webhook, FlashCallResult(UUID, status), CREDENTIALS)
    (request,) = standin.requests
    assert (request.method, request.path) == ("POST", WEBHOOK_PATH)
    assert dict(request.headers) == {
        "Host": urlsplit(standin.url).netloc,
        "Accept-Encoding": "identity",
        "Content-Length": str(len(request.body)),
        "Content-Type": "application/json",
        "x-api-key": KEY,
        "x-user-id": USER,
        "User-Agent": f"flash-call-relay/{__version__}",
    }
    assert len(request.headers) == 7
    assert json.loads(request.body) == {"uuid": UUID, "status": status}
    assert standin.accepted == [(UUID, status)]


def test_the_query_of_the_configured_url_is_sent(standin: StandIn) -> None:
    """The relay could not use an endpoint that needs a query parameter."""
    post(Webhook(webhook_settings(standin.url + "?tenant=a%20b")), SUCCESS, CREDENTIALS)
    assert standin.requests[0].path == WEBHOOK_PATH + "?tenant=a%20b"


@over_http
@pytest.mark.parametrize(
    ("authority", "address", "host"),
    [
        ("[::1]", ("::1", 80), "[::1]"),
        ("[::1]:8787", ("::1", 8787), "[::1]:8787"),
        ("localhost", ("localhost", 80), "localhost"),
        ("localhost:80", ("localhost", 80), "localhost"),
    ],
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
    webhook = Webhook(webhook_settings(f"http://{authority}{WEBHOOK_PATH}"))
    assert post(webhook, SUCCESS, CREDENTIALS) == CONFIRMED
    assert asked == [address]
    assert dict(standin.requests[0].headers)["Host"] == host


def test_attempts_one_after_another_share_a_connection(standin: StandIn, webhook: Webhook) -> None:
    """Each result would pay for a TLS handshake, and BetaTel would see thousands of connections."""
    assert {post(webhook, SUCCESS, CREDENTIALS) == CONFIRMED for _ in range(20)} == {True}
    assert standin.connections == 1


def test_each_thread_gets_its_own_answer(standin: StandIn, webhook: Webhook) -> None:
    """A result would be confirmed by the reply to another one."""
    uuids = [f"{UUID}-{number}" for number in range(60)]
    standin.issue(*uuids)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda uuid: post(webhook, FlashCallResult(uuid, "Success"), CREDENTIALS), uuids))
    assert [answer.json_object["uuid"] for answer in answers if answer.json_object] == uuids
    assert standin.connections <= 4


def test_a_documented_error_is_a_reply_with_its_message(standin: StandIn, webhook: Webhook) -> None:
    """A refusal by the API would look like a broken network, and nobody could read its message."""
    standin.misbehave(UUID, error(400), error(500))
    wrong, unknown = Credentials("wrong-key", "wrong-user"), FlashCallResult("unknown", "Failed")
    answers = [
        post(webhook, SUCCESS, CREDENTIALS),
        post(webhook, SUCCESS, CREDENTIALS),
        post(webhook, SUCCESS, wrong),
        post(webhook, unknown, CREDENTIALS),
        post(webhook, SUCCESS, CREDENTIALS),
    ]
    words = ["Bad Request", "Internal Server Error", "Unauthorized", "The flash call does not exist"]
    refusals = zip([400, 500, 401, 404], words, strict=True)
    assert answers == [*(Reply(status, {"message": word}, word) for status, word in refusals), CONFIRMED]
    assert standin.connections == 1


CUT_429 = b"HTTP/1.1 429 Wait\r\nRetry-After: 120\r\nContent-Length: 9\r\n\r\n{"


@over_http
@pytest.mark.parametrize(
    "behaviour",
    [
        answer(503, {}, {"Retry-After": "120", "retry-after": "120"}),  # by the API and by its proxy
        Behaviour("cut 429", lambda *_: iter((CUT_429, Act.CLOSE))),
    ],
)
def test_a_request_to_wait_is_read_from_any_head(standin: StandIn, webhook: Webhook, behaviour: Behaviour) -> None:
    """The relay would go on asking an endpoint that has asked it to wait."""
    standin.misbehave(UUID, behaviour)
    assert post(webhook, SUCCESS, CREDENTIALS).wait_s == 120


@pytest.mark.parametrize("location", [None, "http://[", "https://x:y"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(standin: StandIn, status: int, location: str | None) -> None:
    """The credentials would go to any host that a redirect names, or a broken name would cost a connection."""
    webhook = Webhook(webhook_settings(standin.url, connections=1))
    with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as other:
        standin.misbehave(UUID, redirect(status, location or other.url))
        assert post(webhook, SUCCESS, CREDENTIALS) == Reply(status, None)
        assert (other.connections, len(standin.requests)) == (0, 1)
    assert post(webhook, SUCCESS, CREDENTIALS) == CONFIRMED
