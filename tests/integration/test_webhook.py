"""One POST as BetaTel documents it, and an answer for any reply."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from flash_call_relay import __version__
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import FlashCallResult, Reply
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import Behaviour, answer, echo_headers, error, redirect, status_line
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


@over_http
@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (answer(200, "<html>It works!</html>"), Reply(200, None)),
        (answer(200), Reply(200, None)),
        (answer(200, []), Reply(200, None)),
        (answer(200, '"OK"', headers={"Content-Type": "application/json"}), Reply(200, None)),
        (answer(200, b"{\xff}"), Reply(200, None)),
        (answer(200, '{"status": "Failed", "status": "Success"}'), Reply(200, None)),
        (answer(200, b"[" * 60_000), Reply(200, None)),
        (answer(200, b"9" * 60_000), Reply(200, None)),
        (answer(204), Reply(204, None)),
        (answer(200, {}), Reply(200, {})),
        (
            answer(200, '{"status": "Success"}', headers={"Content-Type": "text/plain"}),
            Reply(200, {"status": "Success"}),
        ),
        (answer(201, {"message": None}), Reply(201, {"message": None})),
        (answer(200, {"message": ["OK"]}), Reply(200, {"message": ["OK"]})),
        (error(502, html=True), Reply(502, None)),
        (error(429, retry_after=7), Reply(429, {"message": "Too Many Requests"}, "Too Many Requests")),
        (redirect(302, "/elsewhere"), Reply(302, None)),
    ],
    ids=[
        *("page", "empty", "list", "text", "not UTF-8", "status twice", "deep nesting", "huge number", "204"),
        *("empty object", "object as text/plain", "null message", "list as message"),
        *("page with 502", "429 of the API", "redirect"),
    ],
)
def test_a_body_is_an_api_reply_only_if_it_is_a_json_object(
    standin: StandIn, webhook: Webhook, behaviour: Behaviour, expected: Reply
) -> None:
    """A proxy's page would count as a confirmation, or an odd reply would spoil the next one."""
    standin.misbehave(UUID, behaviour)
    said = post(webhook, SUCCESS, CREDENTIALS)
    assert (said.http_status, said.json_object, said.message) == (
        expected.http_status,
        expected.json_object,
        expected.message,
    )
    assert post(webhook, SUCCESS, CREDENTIALS) == CONFIRMED


@over_http
@pytest.mark.parametrize("status", [600, 999])
def test_an_unassigned_http_status_is_reported_unchanged(standin: StandIn, webhook: Webhook, status: int) -> None:
    """An engineer could not see a broken proxy's status, or the relay would take it for a success."""
    standin.misbehave(UUID, status_line(status))
    said = post(webhook, SUCCESS, CREDENTIALS)
    assert said.http_status == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(standin: StandIn, webhook: Webhook, status: int) -> None:
    """The credentials would go to any host that a redirect names."""
    with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as other:
        standin.misbehave(UUID, redirect(status, other.url))
        said = post(webhook, SUCCESS, CREDENTIALS)
        assert (other.connections, other.requests) == (0, [])
    assert (said.http_status, said.json_object) == (status, None)
    assert len(standin.requests) == 1
    assert post(webhook, SUCCESS, CREDENTIALS) == CONFIRMED


@over_http
@pytest.mark.parametrize("location", ["http://[", "https://x:y"], ids=["open bracket", "port of letters"])
def test_a_redirect_to_a_broken_location_leaks_no_connection(standin: StandIn, location: str) -> None:
    """After some broken redirects the relay would have no free connection, and deliver nothing."""
    webhook = Webhook(webhook_settings(standin.url, connections=1))
    standin.misbehave(UUID, redirect(302, location))
    assert post(webhook, SUCCESS, CREDENTIALS) == Reply(302, None)
    assert post(webhook, SUCCESS, CREDENTIALS) == CONFIRMED


@over_http
@pytest.mark.parametrize(
    "words",
    ["no\na\tkey of ours", "na\N{LATIN SMALL LETTER E WITH ACUTE}ve", "A KEY\x00OF ours"],
    ids=["line feed", "accent", "null byte"],
)
def test_an_echo_that_becomes_the_key_when_made_printable_is_masked(standin: StandIn, words: str) -> None:
    """A text that turns into the key when made printable would put the key into the log."""
    standin.misbehave(UUID, answer(400, {"message": words}))
    odd = Credentials("a key of ours", r"na\xe9ve")
    said = post(Webhook(webhook_settings(standin.url)), SUCCESS, odd)
    assert "***" in said.message
    assert not [secret for secret in (odd.api_key, odd.user_id) if secret in said.message.lower()]


@over_http
@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!doctype html><HTML><head><TITLE lang=en>\n Sign in\n</TITLE></head><p>No", "Sign in"),
        ("<title>Blocked for ***KEY***</title>", "Blocked for ***"),
        ("<title>" + "y" * 200, "y" * 117 + "..."),
        (f"<title>{KEY[:10]}</title>", "(withheld)"),
        ("<title> </title>", ""),
        ("<title", ""),
        ("<title " * 9000, ""),
    ],
    ids=["a title", "an echo", "a long title", "a cut echo", "empty", "cut", "many"],
)
def test_a_page_is_told_by_its_title(standin: StandIn, webhook: Webhook, page: str, message: str) -> None:
    """An engineer would not know what answers instead of the API, or would find the key in the log."""
    standin.misbehave(UUID, answer(200, page.replace("***KEY***", KEY)))
    assert post(webhook, SUCCESS, CREDENTIALS) == Reply(200, None, message)


@over_http
@pytest.mark.parametrize(
    "words",
    [f"no key: {KEY[:10]}...", f"user%20{USER[3:]}", f"&quot;{KEY[4:].upper()}&quot;"],
    ids=["cut", "URL", "HTML"],
)
def test_a_cut_or_encoded_echo_is_withheld(standin: StandIn, webhook: Webhook, words: str) -> None:
    """Most of the key would stand in the log."""
    standin.misbehave(UUID, answer(400, {"message": words}))
    assert post(webhook, SUCCESS, CREDENTIALS) == Reply(400, {"message": words}, "(withheld)")


@over_http
@pytest.mark.parametrize(
    "words",
    [
        f"{KEY} is no key of {USER}",
        f"{KEY.upper()} {USER.title()} {KEY.swapcase()}",
        f"x-api-key={KEY}{USER}{KEY}",
        "y" * 90 + KEY + USER + "y" * 90,
        "y" * 110 + KEY,
        f"caf\xe9 {KEY}\r\n{USER}",
    ],
    ids=["whole", "other case", "side by side", "at the limit", "over the limit", "beside other characters"],
)
def test_echoed_credentials_are_masked(standin: StandIn, webhook: Webhook, words: str) -> None:
    """An endpoint that quotes its request would put the credentials into the log and onto the parked queue."""
    standin.misbehave(UUID, answer(400, {"message": words}), echo_headers())
    for shown in ("***", "Bad headers"):
        said = post(webhook, SUCCESS, CREDENTIALS)
        assert shown in said.message
        assert not [half for half in ("hunter2", "key-4f", "user-93") if half in said.message.lower()]
        assert len(said.message) <= 120


@over_http
def test_a_long_message_is_searched_for_a_long_key_in_time(standin: StandIn) -> None:
    """A long error message would stop all threads for seconds, and the function could exceed its time-out."""
    long_key = "".join(f"key{number}" for number in range(1000, 2500))
    standin.misbehave(UUID, answer(400, {"message": "key" * 20_000}))
    began = time.thread_time()  # of this thread's work only, however busy the machine is
    said = post(Webhook(webhook_settings(standin.url)), SUCCESS, Credentials(long_key, USER))
    assert said.message.startswith("keykey")
    assert time.thread_time() - began < 1
