"""Rows of the policy table over a real socket: from the endpoint's bytes to the result's outcome."""

import time
from collections.abc import Iterator

import pytest

from flash_call_relay import policy
from flash_call_relay.models import Deferred, Delivered, Outcome, Parked, Reason, Record
from flash_call_relay.webhook import Webhook
from local.endpoint.behaviour import Behaviour, answer, error, redirect
from local.endpoint.standin import StandIn
from tests.support.relay import CREDENTIALS, KEY, SUCCESS, USER, UUID, post, webhook_settings

SETTINGS = webhook_settings("http://127.0.0.1/")
CONFIRMED = Delivered(200)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[StandIn]:
    """Run one stand-in for all cases."""
    with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as one:
        yield one


@pytest.fixture(scope="module")
def webhook(endpoint: StandIn) -> Webhook:
    """Return a client with one connection, so that each reply follows another one on it."""
    return Webhook(webhook_settings(endpoint.url, connections=1))


def outcome_of(behaviour: Behaviour, endpoint: StandIn, webhook: Webhook, age_s: float = 0) -> Outcome:
    """Return the outcome of a result of that age, on its first receive, for an endpoint that behaves like this."""
    endpoint.misbehave(UUID, behaviour)
    now = time.time()
    record = Record("id", "handle", "body", now - age_s, 1, SUCCESS)
    judgement = policy.judge(SETTINGS, SUCCESS, post(webhook, SUCCESS, CREDENTIALS))
    return policy.decide(SETTINGS, record, SUCCESS, judgement, now=now, jitter=1.0)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (answer(200, {"uuid": "another"}), Reason.CONTRADICTED),
        (answer(200, "<html><h1>It works!</h1></html>"), Reason.UNCONFIRMED),
        (answer(200, {"uuid": UUID, "status": "queued"}), Reason.UNCONFIRMED),
        (answer(200, {"success": False}), Reason.UNCONFIRMED),
        *((answer(200, {name: "no"}), Reason.UNCONFIRMED) for name in ("error", "errors", "errorMessage", "errorType")),
        (redirect(307, "http://127.0.0.1:9/elsewhere"), Reason.ENDPOINT_MISCONFIGURED),
        (error(400, html=True), Reason.ENDPOINT_MISCONFIGURED),
        (error(401), Reason.CREDENTIALS_REJECTED),
        (error(403), Reason.CREDENTIALS_REJECTED),
        (error(403, html=True), Reason.ENDPOINT_MISCONFIGURED),
        (error(429), Reason.THROTTLED),
        (error(503), Reason.ENDPOINT_ERROR),
    ],
)
def test_a_reply_that_is_neither_a_confirmation_nor_a_refusal_defers(
    endpoint: StandIn, webhook: Webhook, behaviour: Behaviour, reason: Reason
) -> None:
    """The relay would park a good result, or a proxy's page would count as a delivery."""
    outcome = outcome_of(behaviour, endpoint, webhook)
    assert isinstance(outcome, Deferred)
    assert (outcome.reason, outcome.retry_in_s) == (reason, 10)


@pytest.mark.parametrize(
    "body",
    [{"uuid": UUID.lower(), "status": "success"}, {}, {"error": None, "errors": [], "success": True}],
    ids=["same uuid", "empty object", "no errors"],
)
def test_a_200_with_an_object_that_does_not_contradict_delivers(
    endpoint: StandIn, webhook: Webhook, body: dict[str, object]
) -> None:
    """The relay would send a confirmed result again."""
    assert outcome_of(answer(200, body), endpoint, webhook) == CONFIRMED


def test_a_400_of_the_api_parks(endpoint: StandIn, webhook: Webhook) -> None:
    """An engineer would not learn that BetaTel refused a result."""
    outcome = outcome_of(error(400), endpoint, webhook)
    assert isinstance(outcome, Parked)
    assert (outcome.reason, outcome.http_status) == (Reason.REJECTED, 400)


def test_a_503_with_retry_after_120_defers_for_at_least_120_s(endpoint: StandIn, webhook: Webhook) -> None:
    """The relay would overload an endpoint that asked it to wait."""
    twice = answer(503, {}, {"Retry-After": "120", "retry-after": "120"})  # by the API and by its proxy
    for behaviour in (error(503, retry_after="120"), twice):
        outcome = outcome_of(behaviour, endpoint, webhook)
        assert isinstance(outcome, Deferred)
        assert outcome.retry_in_s == 132  # a tenth more with the jitter 1.0


def test_a_503_after_24_hours_parks(endpoint: StandIn, webhook: Webhook) -> None:
    """The relay would retry a result for ever."""
    outcome = outcome_of(error(503), endpoint, webhook, age_s=86_400)
    assert isinstance(outcome, Parked)
    assert outcome.reason is Reason.RETRIES_EXHAUSTED
