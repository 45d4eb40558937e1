"""What happens to a result: the table of docs/delivery.md, row by row, and when the relay tries again."""

import math
import re
from dataclasses import replace
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
    Outcome,
    Parked,
    Reason,
    Record,
    Reply,
)
from flash_call_relay.settings import Settings
from tests.support.template import default_settings

SETTINGS = default_settings()
RESULT = FlashCallResult("01JV5V54KPYK9GB29265EQRZ2P", "Success")
NOW = 1_800_000_000.0
HORIZON_S = 86_400
OBJECT: dict[str, Any] = {"message": "as documented"}


def decide(
    finding: Judgement | Confirmed | Reply,
    *,
    settings: Settings = SETTINGS,
    jitter: float = 1.0,
    age_s: float = 0,
    receives: int = 1,
) -> Outcome:
    """Judge an answer and decide on a record; by default the record is new and on its first receive."""
    if isinstance(finding, Reply):
        finding = policy.judge(settings, RESULT, finding)
    record = Record("id", "handle", "body", NOW - age_s, receives, RESULT)
    return policy.decide(settings, record, RESULT, finding, now=NOW, jitter=jitter)


def reply(status: int, body: dict[str, Any] | None = OBJECT, **more: Any) -> Reply:
    """Return a reply of the endpoint."""
    return Reply(status, body, **more)


# ---- the answers ----


@pytest.mark.parametrize("status", [200, 204, 299])
@pytest.mark.parametrize(
    "said",
    [
        {"uuid": RESULT.uuid, "status": "Success", "message": "OK"},
        {"uuid": RESULT.uuid.lower(), "status": "SUCCESS"},
        {},
        {"uuid": 7, "status": ["Failed"]},
        {"status": " success\n", "success": True, "error": None, "errors": [], "errorMessage": "", "errorType": {}},
    ],
)
def test_a_2xx_that_does_not_contradict_confirms(status: int, said: dict[str, Any]) -> None:
    """The relay would send accepted results again and again."""
    assert decide(reply(status, said)) == Delivered(status)


CONTRADICTIONS: list[dict[str, Any]] = [
    *({"uuid": "another"}, {"uuid": ""}, {"status": "Failed"}, {"status": "fAILED"}, {"uuid": RESULT.uuid + " "}),
    {"uuid": RESULT.uuid.replace("K", "\N{KELVIN SIGN}")},  # its lower case is a k
]
ERRORS: list[dict[str, Any]] = [
    *({"status": "error"}, {"status": "queued"}, {"status": ""}, {"success": False}, {"error": "unknown uuid"}),
    *({"errors": [{}]}, {"errorMessage": "boom", "status": "Success"}, {"errorType": "TypeError"}),
]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        *((said, Reason.CONTRADICTED) for said in CONTRADICTIONS),
        *((said, Reason.UNCONFIRMED) for said in (None, *ERRORS)),
    ],
)
def test_a_2xx_that_contradicts_or_names_an_error_or_is_no_object_does_not_confirm(
    said: dict[str, Any] | None, reason: Reason
) -> None:
    """A proxy's page, or a reply about another result, would count as a delivery, and the ledger hide each resend."""
    assert decide(reply(200, said)) == Deferred(reason, "HTTP 200", 10, 200)


@pytest.mark.parametrize("said", [None, CONTRADICTIONS[0], ERRORS[0]])
@pytest.mark.parametrize("failure", [None, Reason.BAD_REPLY])
def test_any_2xx_confirms_with_confirmation_by_http_status(said: dict[str, Any] | None, failure: Reason | None) -> None:
    """If BetaTel changes the documented reply, no setting could make the relay deliver again."""
    settings = default_settings(CONFIRMATION="http-status")
    assert decide(reply(204, said, failure=failure), settings=settings) == Delivered(204)
    for status in (199, 300, 500):
        assert not isinstance(decide(reply(status, said, failure=failure), settings=settings), Delivered)


@pytest.mark.parametrize("status", [400, 409, 413, 422])
@pytest.mark.parametrize("age_s", [0, HORIZON_S], ids=["new", "24 hours old"])
def test_a_400_409_413_or_422_of_the_api_is_parked(status: int, age_s: int) -> None:
    """The relay would send a refused result for a day, and nobody would learn of the refusal."""
    outcome = decide(reply(status, message="no such field"), age_s=age_s)
    assert outcome == Parked(Reason.REJECTED, f"HTTP {status} no such field", status)


def test_a_404_is_deferred_within_the_grace_and_parked_after_it() -> None:
    """The relay would park a result that overtakes its call, or send a wrong uuid for a day."""
    assert decide(reply(404), age_s=899) == Deferred(Reason.UNKNOWN_CALL, "HTTP 404", 10, 404)
    assert decide(reply(404), age_s=900) == Parked(Reason.UNKNOWN_CALL, "HTTP 404", 404)


NO_REPLY = (Reason.TIMEOUT, Reason.CONNECTION_FAILED, Reason.TLS_FAILED, Reason.BAD_REPLY)
NOT_ASKED = (
    *(Reason.ENDPOINT_FAILING, Reason.OUT_OF_TIME),
    *(Reason.CREDENTIALS_REJECTED, Reason.CREDENTIALS_UNAVAILABLE),
)
WHATEVER_THE_BODY = {
    Reason.CREDENTIALS_REJECTED: (401,),
    Reason.THROTTLED: (408, 425, 429),
    Reason.ENDPOINT_MISCONFIGURED: (300, 307, 399, 402, 405, 410, 424, 426, 499),
    Reason.ENDPOINT_ERROR: (500, 503, 599),
    Reason.BAD_REPLY: (100, 199, 600, 999),
}
CUT_SHORT = {401: Reason.CREDENTIALS_REJECTED, 429: Reason.THROTTLED}  # these need no body
DEFERRING = [
    *(
        (reply(code, said), reason)
        for reason, codes in WHATEVER_THE_BODY.items()
        for code in codes
        for said in (OBJECT, None)
    ),
    (reply(403), Reason.CREDENTIALS_REJECTED),
    *((reply(code, None, failure=Reason.BAD_REPLY), reason) for code, reason in CUT_SHORT.items()),
    *((reply(status, None), Reason.ENDPOINT_MISCONFIGURED) for status in (400, 403, 404, 409, 413, 422)),
    *((Reply(None, message="why", failure=reason), reason) for reason in NO_REPLY),
    *((reply(200, None, failure=reason), reason) for reason in NO_REPLY),
    *((Judgement(reason, "why"), reason) for reason in NOT_ASKED),
]


@pytest.mark.parametrize(("finding", "reason"), DEFERRING)
def test_a_failure_that_is_not_the_records_fault_defers_before_24_hours_and_parks_then(
    finding: Reply | Judgement, reason: Reason
) -> None:
    """The relay would park a good result because of somebody else's fault, or retry it for ever."""
    before, then = decide(finding, age_s=HORIZON_S - 1), decide(finding, age_s=HORIZON_S)
    assert isinstance(before, Deferred)
    assert (before.reason, before.retry_in_s) == (reason, 10)
    assert isinstance(then, Parked)
    assert then.reason is Reason.RETRIES_EXHAUSTED
    assert f"at last {reason}: " in then.detail
    assert then.http_status == before.http_status == (finding.http_status if isinstance(finding, Reply) else None)


SAID = st.dictionaries(st.text(max_size=8) | st.sampled_from(["uuid", "status"]), st.text(max_size=8))
REPLIES = st.builds(
    Reply,
    st.none() | st.integers(100, 999),
    st.none() | SAID,
    message=st.text() | st.text(min_size=250),
    failure=st.none() | st.sampled_from(NO_REPLY),
    wait_s=st.none() | st.floats(0, 900),
)


@given(finding=REPLIES, age_s=st.floats(-1e6, 1e9), receives=st.integers(1, 1000), jitter=st.floats(*policy.JITTER))
def test_every_reply_has_an_outcome(finding: Reply, age_s: float, receives: int, jitter: float) -> None:
    """An unforeseen reply would fail the whole batch."""
    outcome = decide(finding, jitter=jitter, age_s=age_s, receives=receives)
    assert isinstance(outcome, Delivered) <= (200 <= (finding.http_status or 0) < 300)
    if isinstance(outcome, Deferred):
        assert outcome.retry_in_s is not None
        assert 1 <= outcome.retry_in_s <= 1080
    if isinstance(outcome, Deferred | Parked):
        assert re.fullmatch("[ -~]{1,256}", outcome.detail)


# ---- without an attempt ----


@pytest.mark.parametrize("age_s", [0, HORIZON_S], ids=["new", "24 hours old"])
def test_of_a_confirmed_call_a_copy_is_a_duplicate_and_a_contradiction_is_parked(age_s: int) -> None:
    """The relay would send a confirmed result again, or BetaTel would get two verdicts on one call."""
    assert decide(Confirmed("Success", NOW), age_s=age_s) == Duplicate()
    detail = "Failed was confirmed at 2026-11-22T12:00:00+00:00, and this one says Success"
    assert decide(Confirmed("Failed", 1_795_348_800), age_s=age_s) == Parked(Reason.CONFLICTING_STATUS, detail)


# ---- when the relay tries again ----


def retry_in_s(finding: Reply | Judgement, **which: Any) -> int | None:
    """Return the delay of a deferred record."""
    outcome = decide(finding, **which)
    assert isinstance(outcome, Deferred)
    return outcome.retry_in_s


FRESH, OLD = 3599.9, 3600


@pytest.mark.parametrize(
    ("changes", "age_s", "delays"),
    [
        ({}, FRESH, [10, 20, 40, *[60] * 7]),
        ({}, OLD, [10, 20, 40, 80, 160, 320, 640, 900, 900, 900]),
        ({"fresh_seconds": 0}, FRESH, [10, 20, 40, 80, 160, 320, 640, 900, 900, 900]),
        ({"retry_cap_seconds": 30}, FRESH, [10, 20, *[30] * 8]),
        ({"retry_base_seconds": 900}, FRESH, [60] * 10),
    ],
    ids=["fresh", "an hour old", "never fresh", "the lower cap counts", "a long base"],
)
def test_the_delay_doubles_with_each_receive_up_to_a_cap_that_is_a_minute_for_the_first_hour(
    changes: dict[str, int], age_s: float, delays: list[int]
) -> None:
    """The relay would overload an endpoint that is down, or deliver when a result may no longer count."""
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    assert [policy.schedule_s(settings, n, age_s, 1.0) for n in (*range(1, 10), 1000)] == delays
    assert retry_in_s(reply(500), settings=settings, age_s=age_s, receives=70) == delays[-1]


@given(receives=st.integers(1, 1000), jitter=st.floats(*policy.JITTER), age_s=st.floats(0, 86_400))
def test_jitter_changes_a_delay_by_a_fifth_at_most(receives: int, jitter: float, age_s: float) -> None:
    """All results of an outage would come back at the same moment."""
    plain = policy.schedule_s(SETTINGS, receives, age_s, 1.0)
    delay = policy.schedule_s(SETTINGS, receives, age_s, jitter)
    assert math.ceil(plain * 0.8) <= delay == math.ceil(plain * jitter) <= math.ceil(plain * 1.2)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
@pytest.mark.parametrize("jitter", policy.JITTER)
def test_a_result_waits_for_as_long_as_asked_and_a_fifth_longer_at_most(status: int, jitter: float) -> None:
    """The relay would send sooner than the endpoint asked, or everything that waits would come back as one wave."""
    plain, longer = {0.8: (8, 1.0), 1.2: (12, 1.2)}[jitter]
    for wait_s, delay_s in ((120, 120 * longer), (900, 900 * longer), (0.5, plain), (None, plain)):
        assert retry_in_s(reply(status, wait_s=wait_s), jitter=jitter) == delay_s


def test_what_the_gate_holds_waits_until_then_and_any_other_reply_asks_for_nothing() -> None:
    """Held results would come back too soon and use up their receives, or a stray header would delay results."""
    assert retry_in_s(Judgement(Reason.THROTTLED, "not asked", wait_s=300.5), jitter=0.8) == 301
    assert retry_in_s(reply(404, wait_s=600)) == 10
