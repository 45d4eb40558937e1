"""The policy table over real sockets: what the endpoint sends, what becomes of the result."""

import math
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from flash_call_relay import policy
from flash_call_relay.models import Deferred, Delivered, Outcome, Parked, Reason, Record
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import Behaviour, answer, error, redirect
from local.endpoint.standin import StandIn
from tests.support.relay import CREDENTIALS, KEY, SUCCESS, USER, UUID, webhook_settings

SETTINGS = webhook_settings("http://127.0.0.1/", connections_per_function=1)
WAITING = (408, 425, 429, 500, 503)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[StandIn]:
    """Run one stand-in for the whole table."""
    with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as one:
        yield one


@pytest.fixture(scope="module")
def webhook(endpoint: StandIn) -> Webhook:
    """Return a client with one connection, so that each answer meets what the one before has left."""
    return Webhook(webhook_settings(endpoint.url, connections_per_function=1))


def outcome(endpoint: StandIn, webhook: Webhook, behaviour: Behaviour, age_s: float = 0) -> Outcome:
    """Send a result of that age, on its first receive, to an endpoint that behaves like this."""
    endpoint.misbehave(UUID, behaviour)
    now = time.time()
    record = Record("id", "handle", "body", now - age_s, 1, SUCCESS)
    return policy.decide(SETTINGS, record, webhook.post(SUCCESS, CREDENTIALS), now=now, jitter=1.0)


def expected(status: int, *, html: bool) -> Reason:
    """Return the reason that the table gives for an error."""
    if status in (401, 403):
        return Reason.CREDENTIALS_REJECTED
    if status in (408, 425, 429):
        return Reason.THROTTLED
    if status >= 500:
        return Reason.ENDPOINT_ERROR
    if html or status not in (400, 404, 409, 413, 422):
        return Reason.ENDPOINT_MISCONFIGURED
    return Reason.UNKNOWN_CALL if status == 404 else Reason.REJECTED


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 408, 409, 410, 413, 418, 421, 422, 425, 429, 500, 502, 503, 504]
)
@pytest.mark.parametrize("html", [False, True], ids=["json", "html"])
@pytest.mark.parametrize("retry_after", [None, "120", "date", "soon"])
def test_each_error_has_its_outcome(
    endpoint: StandIn,
    webhook: Webhook,
    status: int,
    *,
    html: bool,
    retry_after: str | None,
) -> None:
    """An error of BetaTel's, or of a proxy before it, would park a good result, or press on when asked to wait."""
    header = formatdate(time.time() + 120, usegmt=True) if retry_after == "date" else retry_after
    said = outcome(endpoint, webhook, error(status, html=html, retry_after=header))
    reason = expected(status, html=html)
    assert isinstance(said, Parked if reason is Reason.REJECTED else Deferred)
    assert (getattr(said, "reason", None), getattr(said, "http_status", None)) == (reason, status)
    if isinstance(said, Deferred):
        asked_to_wait = status in WAITING or status >= 500
        least = 10 if not asked_to_wait or retry_after in (None, "soon") else 119
        assert said.retry_in_s is not None
        assert least <= said.retry_in_s <= max(least, math.ceil(least * 1.02))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_misconfiguration(endpoint: StandIn, webhook: Webhook, status: int) -> None:
    """A moved endpoint would go unnoticed, or get the credentials."""
    said = outcome(endpoint, webhook, redirect(status, "http://127.0.0.1:9/elsewhere"))
    assert isinstance(said, Deferred)
    assert said.reason is Reason.ENDPOINT_MISCONFIGURED


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"uuid": UUID, "status": "Success", "message": "OK"}, None),
        ({"uuid": UUID.lower(), "status": "success"}, None),
        ({"status": "received"}, None),
        ({}, None),
        ({"uuid": "another"}, Reason.CONTRADICTED),
        ({"uuid": UUID, "status": "failed"}, Reason.CONTRADICTED),
        ("<html><h1>It works!</h1></html>", Reason.UNCONFIRMED),
        (["Success"], Reason.UNCONFIRMED),
        (b"", Reason.UNCONFIRMED),
        (None, Reason.UNCONFIRMED),
        (b'{"uuid": ', Reason.UNCONFIRMED),
    ],
)
@pytest.mark.parametrize("status", [200, 202])
def test_only_a_confirmation_delivers(
    endpoint: StandIn, webhook: Webhook, status: int, body: Any, reason: Reason | None
) -> None:
    """A page with status 200 would count as a delivery, or a confirmation would not."""
    said = outcome(endpoint, webhook, answer(status, body))
    assert isinstance(said, Deferred if reason else Delivered)
    assert getattr(said, "reason", None) is reason


@pytest.mark.parametrize(("status", "reason"), [(404, Reason.UNKNOWN_CALL), (500, Reason.RETRIES_EXHAUSTED)])
def test_a_day_later_a_person_is_asked(endpoint: StandIn, webhook: Webhook, status: int, reason: Reason) -> None:
    """A result would be retried for ever."""
    said = outcome(endpoint, webhook, error(status), age_s=86_400)
    assert isinstance(said, Parked)
    assert said.reason is reason
