"""The policy table, row by row, and the schedule."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay import policy
from flash_call_relay.models import (
    Confirmed,
    Deferred,
    Delivered,
    Duplicate,
    FlashCallResult,
    Judgement,
    NoResult,
    Outcome,
    Parked,
    Reason,
    Record,
    Reply,
)
from flash_call_relay.reply import retry_after_s
from flash_call_relay.settings import Settings
from tests.support.template import default_settings

SETTINGS = default_settings()
RESULT = FlashCallResult("01JV5V54KPYK9GB29265EQRZ2P", "Success")
NOW = 1_800_000_000.0
GRACE_S, HORIZON_S = 900, 86_400
OBJECT: dict[str, Any] = {"message": "as documented"}
JSON_BODIES = (OBJECT, None)


def record(age_s: float = 0, receives: int = 1) -> Record:
    """Return a record of that age."""
    return Record("id", "handle", "body", NOW - age_s, receives, RESULT)


def decide(
    finding: Judgement | Confirmed | Reply,
    *,
    settings: Settings = SETTINGS,
    jitter: float = 1.0,
    **which: Any,
) -> Outcome:
    """Judge an answer and decide on a record; by default the record is new and on its first receive."""
    if isinstance(finding, Reply):
        finding = policy.judge(settings, RESULT, finding)
    return policy.decide(settings, record(**which), RESULT, finding, now=NOW, jitter=jitter)


def reply(status: int, body: dict[str, Any] | None = OBJECT, **more: Any) -> Reply:
    """Return a reply of the endpoint."""
    return Reply(status, body, **more)


# ---- the table ----


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
@pytest.mark.parametrize(
    "said",
    [
        {"uuid": RESULT.uuid, "status": "Success", "message": "OK"},
        {"uuid": RESULT.uuid.lower(), "status": "SUCCESS"},
        {},
        {"uuid": None, "status": None},
        {"uuid": 7, "status": ["Failed"]},
        {"status": " success\n", "success": True, "error": None, "errors": [], "errorMessage": "", "errorType": {}},
    ],
    ids=["documented", "other case", "empty object", "nulls", "other types", "no error"],
)
def test_a_2xx_that_does_not_contradict_confirms(status: int, said: dict[str, Any]) -> None:
    """The relay would send accepted results again and again."""
    assert decide(reply(status, said)) == Delivered(status)


@pytest.mark.parametrize(
    "said",
    [
        *({"uuid": "another"}, {"uuid": ""}, {"status": "Failed"}, {"status": "fAILED"}, {"uuid": RESULT.uuid + " "}),
        {"uuid": RESULT.uuid.replace("K", "\N{KELVIN SIGN}")},  # its lower case is a k
    ],
)
def test_a_2xx_that_contradicts_does_not_confirm(said: dict[str, Any]) -> None:
    """A result that BetaTel took for another one would count as delivered."""
    outcome = decide(reply(200, said))
    assert isinstance(outcome, Deferred)
    assert outcome.reason is Reason.CONTRADICTED


@pytest.mark.parametrize(
    "said",
    [
        *({"status": "error"}, {"status": "queued"}, {"status": ""}, {"success": False}, {"error": "unknown uuid"}),
        *({"errors": [{}]}, {"errorMessage": "boom", "status": "Success"}, {"errorType": "TypeError"}),
    ],
)
def test_a_2xx_that_names_an_error_does_not_confirm(said: dict[str, Any]) -> None:
    """A result that the API refused would count as delivered, and the ledger would hide each resend."""
    outcome = decide(reply(200, said))
    assert isinstance(outcome, Deferred)
    assert outcome.reason is Reason.UNCONFIRMED


def test_a_2xx_without_the_apis_object_does_not_confirm() -> None:
    """A proxy's page with status 200 would count as a delivery."""
    outcome = decide(reply(200, None))
    assert isinstance(outcome, Deferred)
    assert (outcome.reason, outcome.http_status) == (Reason.UNCONFIRMED, 200)


@pytest.mark.parametrize("said", [None, {"uuid": "another"}, {"status": "Failed"}, {"error": "no"}])
@pytest.mark.parametrize("failure", [None, Reason.TIMEOUT, Reason.BAD_REPLY])
def test_any_2xx_confirms_with_confirmation_by_http_status(said: dict[str, Any] | None, failure: Reason | None) -> None:
    """If BetaTel changes the documented reply, no setting could make the relay deliver again."""
    settings = replace(SETTINGS, confirmation="http-status")
    assert decide(reply(204, said, failure=failure), settings=settings) == Delivered(204)
    assert not isinstance(decide(reply(500, said, failure=failure), settings=settings), Delivered)


def test_a_429_whose_body_is_cut_short_still_asks_to_wait() -> None:
    """The relay would go on asking an endpoint that throttles."""
    judgement = policy.judge(SETTINGS, RESULT, reply(429, None, failure=Reason.BAD_REPLY, wait_s=60))
    assert (judgement.reason, judgement.wait_s, judgement.asks_to_wait) == (Reason.THROTTLED, 60, True)


@pytest.mark.parametrize("status", [400, 409, 413, 422])
@pytest.mark.parametrize("age_s", [0, HORIZON_S], ids=["new", "24 hours old"])
def test_a_400_409_413_or_422_of_the_api_is_parked(status: int, age_s: int) -> None:
    """The relay would send a refused result for a day, and nobody would learn of the refusal."""
    outcome = decide(reply(status, message="no such field"), age_s=age_s)
    assert outcome == Parked(Reason.REJECTED, f"HTTP {status} no such field", status)


def test_a_404_is_deferred_within_the_grace_and_parked_after_it() -> None:
    """The relay would park a result that overtakes its call, or send a wrong uuid for a day."""
    young = decide(reply(404), age_s=GRACE_S - 1)
    assert isinstance(young, Deferred)
    assert young.reason is Reason.UNKNOWN_CALL
    old = decide(reply(404), age_s=GRACE_S)
    assert isinstance(old, Parked)
    assert (old.reason, old.http_status) == (Reason.UNKNOWN_CALL, 404)


NO_REPLY = (Reason.TIMEOUT, Reason.CONNECTION_FAILED, Reason.TLS_FAILED, Reason.BAD_REPLY)
NOT_ASKED = (
    *(Reason.ENDPOINT_FAILING, Reason.OUT_OF_TIME),
    *(Reason.CREDENTIALS_REJECTED, Reason.CREDENTIALS_UNAVAILABLE),
)
DEFERRING = [
    *((reply(401, body), Reason.CREDENTIALS_REJECTED) for body in JSON_BODIES),
    (reply(403), Reason.CREDENTIALS_REJECTED),
    *((reply(status, body), Reason.THROTTLED) for status in (408, 425, 429) for body in JSON_BODIES),
    *((reply(status, None), Reason.ENDPOINT_MISCONFIGURED) for status in (400, 403, 404, 409, 413, 422)),
    *(
        (reply(status, body), Reason.ENDPOINT_MISCONFIGURED)
        for status in (300, 301, 302, 303, 304, 307, 308, 399, 402, 405, 406, 407, 410, 418, 421, 423, 426, 451, 499)
        for body in JSON_BODIES
    ),
    *((reply(status, body), Reason.ENDPOINT_ERROR) for status in (500, 502, 503, 504, 599) for body in JSON_BODIES),
    *((reply(status, body), Reason.BAD_REPLY) for status in (100, 101, 199, 600, 999) for body in JSON_BODIES),
    *((Reply(None, message="why", failure=reason), reason) for reason in NO_REPLY),
    *((reply(200, None, failure=reason), reason) for reason in NO_REPLY),
    *((Judgement(reason, "why"), reason) for reason in NOT_ASKED),
]


@pytest.mark.parametrize(("finding", "reason"), DEFERRING)
def test_a_failure_that_is_not_the_records_fault_defers_before_24_hours(
    finding: Reply | Judgement, reason: Reason
) -> None:
    """The relay would park a good result because of somebody else's fault."""
    outcome = decide(finding, age_s=HORIZON_S - 1)
    assert isinstance(outcome, Deferred)
    assert (outcome.reason, outcome.retry_in_s) == (reason, 10)


@pytest.mark.parametrize(("finding", "reason"), DEFERRING)
def test_a_failure_at_24_hours_parks_with_the_last_reason(finding: Reply | Judgement, reason: Reason) -> None:
    """The relay would retry a result for ever, or give it up without a reason that an engineer can read."""
    outcome = decide(finding, age_s=HORIZON_S)
    assert isinstance(outcome, Parked)
    assert outcome.reason is Reason.RETRIES_EXHAUSTED
    assert f"at last {reason}: " in outcome.detail
    assert outcome.http_status == (finding.http_status if isinstance(finding, Reply) else None)


def test_a_record_that_is_not_a_result_is_parked_with_its_fault() -> None:
    """An engineer could not tell from a parked message why it is no result."""
    outcome = policy.park_invalid(NoResult("uuid must be a string, got \u00fc\n"))
    assert outcome == Parked(Reason.INVALID_EVENT, "uuid must be a string, got \\xfc")


def test_a_confirmed_result_is_a_duplicate() -> None:
    """The relay would send a confirmed result again."""
    assert decide(Confirmed("Success", NOW)) == Duplicate()


@pytest.mark.parametrize("age_s", [0, HORIZON_S], ids=["new", "24 hours old"])
def test_a_contradiction_of_a_confirmed_result_is_parked(age_s: int) -> None:
    """BetaTel would get two verdicts on one call, and nobody would learn of it."""
    outcome = decide(Confirmed("Failed", 1_795_348_800), age_s=age_s)
    assert isinstance(outcome, Parked)
    assert outcome.reason is Reason.CONFLICTING_STATUS
    for word in ("Failed", "Success", "2026-11-22T12:00:00+00:00"):
        assert word in outcome.detail


@given(
    status=st.integers(100, 999),
    body=st.none() | st.dictionaries(st.text(max_size=8) | st.sampled_from(["uuid", "status"]), st.text(max_size=8)),
    failure=st.none() | st.sampled_from(NO_REPLY),
    wait_s=st.none() | st.floats(0, 900),
    message=st.text(max_size=120),
    age_s=st.floats(-1e6, 1e9),
    receives=st.integers(1, 1000),
    jitter=st.floats(*policy.JITTER),
)
def test_every_reply_has_an_outcome(  # noqa: PLR0913, PLR0917
    status: int,
    body: dict[str, Any] | None,
    failure: Reason | None,
    wait_s: float | None,
    message: str,
    age_s: float,
    receives: int,
    jitter: float,
) -> None:
    """An unforeseen reply would fail the whole batch."""
    finding = reply(status, body, failure=failure, wait_s=wait_s, message=message)
    outcome = decide(finding, jitter=jitter, age_s=age_s, receives=receives)
    assert isinstance(outcome, Delivered) <= (200 <= status < 300)
    if isinstance(outcome, Deferred):
        assert outcome.retry_in_s is not None
        assert 1 <= outcome.retry_in_s <= 1080
    if isinstance(outcome, Deferred | Parked):
        assert 1 <= len(outcome.detail) <= 256
        assert outcome.detail.isascii()
        assert outcome.detail.isprintable()


# ---- the schedule ----


def test_the_delay_doubles_with_each_receive_up_to_the_cap() -> None:
    """The relay would deliver late after a short outage, or overload an endpoint that is down."""
    delays = [policy.schedule_s(SETTINGS, n, 3600, 1.0) for n in range(1, 10)]
    assert delays == [10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert policy.schedule_s(SETTINGS, 1000, 3600, 1.0) == 900


def test_a_fresh_result_is_tried_every_minute_at_least() -> None:
    """BetaTel would get a result long after a recovery, when it may no longer count."""
    delays = [policy.schedule_s(SETTINGS, n, 3599.9, 1.0) for n in range(1, 6)]
    assert delays == [10, 20, 40, 60, 60]
    assert policy.schedule_s(SETTINGS, 1000, 0, policy.JITTER[1]) == 72
    outcome = decide(reply(500), age_s=3599, receives=70)
    assert isinstance(outcome, Deferred)
    assert outcome.retry_in_s == 60
    outcome = decide(reply(500), age_s=3600, receives=70)
    assert isinstance(outcome, Deferred)
    assert outcome.retry_in_s == 900


@pytest.mark.parametrize(
    ("settings", "delay_s"),
    [
        (replace(SETTINGS, fresh_seconds=0), 900),
        (replace(SETTINGS, retry_cap_seconds=30), 30),
        (replace(SETTINGS, retry_base_seconds=900), 60),
    ],
    ids=["never fresh", "a lower cap", "a longer base"],
)
def test_the_lower_of_both_caps_counts_while_a_result_is_fresh(settings: Settings, delay_s: int) -> None:
    """`FreshSeconds: 0` would not turn freshness off, or a fresh result would wait longer than an old one."""
    assert policy.schedule_s(settings, 100, 0, 1.0) == delay_s


@given(receives=st.integers(1, 1000), jitter=st.floats(*policy.JITTER), age_s=st.floats(0, 86_400))
def test_jitter_changes_a_delay_by_a_fifth_at_most(receives: int, jitter: float, age_s: float) -> None:
    """All results of an outage would come back at the same moment."""
    plain = policy.schedule_s(SETTINGS, receives, age_s, 1.0)
    delay = policy.schedule_s(SETTINGS, receives, age_s, jitter)
    assert delay == math.ceil(plain * jitter)
    assert math.ceil(plain * 0.8) <= delay <= math.ceil(plain * 1.2)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
@pytest.mark.parametrize("jitter", [0.8, 1.0, 1.2])
def test_a_result_waits_for_as_long_as_asked_and_a_fifth_longer_at_most(status: int, jitter: float) -> None:
    """The relay would send sooner than the endpoint asked, or everything that waits would come back as one wave."""
    for wait_s, delay_s in ((120, 120), (0.5, 0), (900, 900), (None, 0)):
        outcome = decide(reply(status, wait_s=wait_s), jitter=jitter)
        assert isinstance(outcome, Deferred)
        assert outcome.retry_in_s == max(math.ceil(10 * jitter), math.ceil(delay_s * (1 + (jitter - 0.8) / 2)))


def test_what_the_gate_holds_waits_until_then() -> None:
    """Held results would come back while the endpoint still asks to wait, and use up their receives."""
    outcome = decide(Judgement(Reason.THROTTLED, "not asked", wait_s=300.5), jitter=0.8)
    assert isinstance(outcome, Deferred)
    assert outcome.retry_in_s == 301


def test_retry_after_of_any_other_reply_is_ignored() -> None:
    """A stray header would delay results."""
    outcome = decide(reply(404, wait_s=600))
    assert isinstance(outcome, Deferred)
    assert outcome.retry_in_s == 10


def http_date(offset_s: float) -> str:
    """Return the HTTP date `offset_s` seconds from now."""
    return format_datetime(datetime.fromtimestamp(NOW + offset_s, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("30", 30),
        (" 30 ", 30),
        ("120.5", 120.5),
        ("900", 900),
        ("900.5", 900),
        ("9" * 5000, 900),
        ("-1", None),
        ("+5", None),
        ("1e3", None),
        (".5", None),
        ("nan", None),
        ("soon", None),
        ("٣", None),
        ("30, 60", 30),  # two headers
        (http_date(45), 45),
        (http_date(5000), 900),
        (http_date(-45), 0),
        (http_date(45).replace("GMT", "+0000"), 45),
        (http_date(45).replace(" GMT", ""), 45),
        ("Fri, 99 Foo 2026 99:99:99 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 900),
    ],
    ids=lambda value: f"{value} s" if isinstance(value, int | float) else repr(value)[:40],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(value: str | None, seconds: float | None) -> None:
    """The relay would ignore the endpoint's request to wait, or obey nonsense in the header."""
    assert retry_after_s(value, NOW) == seconds
