"""The sandbox's answers, the verdict of a proof, and what `prove` refuses before it sends anything."""

import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult, NoResult
from local import ROOT
from ops.account import Fate
from sandbox.endpoint import contract
from sandbox.judge import ACCEPTED, COPY, PHASES, judge, plan
from tests.support.aws import REFUSED, FakeStack
from tests.support.operator import run

KEY, USER = "a-made-up-key-of-40-characters", "a-made-up-user"


@pytest.mark.parametrize(
    ("uuid", "statuses", "accepted"),
    [
        ("01JV5V54KPYK9GB29265EQRZ2P", [200], [True]),
        ("test-of-mine", [200], [True]),
        ("test-404-...", [404, 404], [False, False]),
        ("test-404x1-...", [404, 200], [False, True]),
        ("test-429-30-...", [429, 200], [False, True]),
        ("test-500x3-...", [500, 500, 500, 200], [False, False, False, True]),
        ("test-page-...", [200, 200], [False, True]),
        ("test-other-status-...", [200, 200], [False, True]),
        ("test-slow-5-...", [200], [True]),
    ],
)
def test_a_uuid_asks_for_an_answer(uuid: str, statuses: list[int], accepted: list[bool]) -> None:
    """A developer's CI would not get the failure that the page promises, or would get it for ever."""
    assert not uuid.endswith("...") or f"`{uuid}`" in (ROOT / "docs" / "proving.md").read_text()
    body = FlashCallResult(uuid, "Success").as_json().encode()
    headers = {"content-type": "application/json", "x-api-key": KEY, "x-user-id": USER}
    request: Any = ("POST", contract.WEBHOOK_PATH, headers.items(), body)
    proper = contract.answer(*request, credentials=(KEY, USER), knows=lambda _: True)
    said = [contract.misbehave(proper, {uuid: number}.__getitem__) for number in range(len(statuses))]
    assert ([one.status for one in said], [bool(one.accepted) for one in said]) == (statuses, accepted)
    assert [one.wait_s for one in said] == [5 if "slow" in uuid else 0] * len(said)
    assert said[0].body.startswith(b"<html>") is ("page" in uuid)
    assert (b'"Failed"' in said[0].body) is ("other-status" in uuid)
    assert (("Retry-After", "30") in said[0].headers) is ("-30-" in uuid)


RUN = "proof-1f2e3d4c"
SENT = [one._replace(at=100.0) for one in plan(RUN, 60)]
FIRST = next(one.result for one in SENT if one.result.uuid.startswith(RUN))
CONTRADICTION = next(one.result for one in SENT if one.end == "parked: conflicting_status")
LINE = '{"timestamp": "2026-11-28T12:00:00Z", "message": "result.%s", "uuid": "%s", "reason": "%s"}'
LOST = LINE % ("deferred", FIRST.uuid, "timeout")


def test_the_plan_has_what_it_says() -> None:
    """A proof would show less than its page: no copy, no contradiction, or a body that is a result after all."""
    parked = {"parked: conflicting_status": 2, "parked: rejected": 1, "parked: invalid_event": 4}
    assert Counter(one.end for one in SENT) == {ACCEPTED: 51, COPY: 2, **parked}
    for one in SENT:
        assert isinstance(parse_body(one.body), NoResult) == (one.end == "parked: invalid_event")


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (lambda _a, _f, _l: None, ""),
        (lambda a, _f, _l: a[FIRST].append(109.0), ""),  # SQS delivered it twice, at once
        (lambda a, _f, log: (a[FIRST].append(150.0), log.append(LOST)), ""),
        (lambda a, _f, _l: a[FIRST].append(150.0), "accepted 2 times"),
        (lambda a, _f, log: (a[FIRST].extend([150.0, 200.0]), log.append(LOST)), "accepted 3 times"),
        (lambda a, _f, _l: a.pop(FIRST), "confirmed, and yet never accepted"),
        (lambda a, _f, _l: a.update({CONTRADICTION: [102.0]}), "accepted, and it was not to be"),
        (lambda _a, f, _l: f.update({FIRST: Fate("unknown")}), "unknown instead of confirmed"),
        (lambda _a, f, _l: f.update({FIRST: Fate("confirmed", "other_status")}), "confirmed: other_status instead"),
        (lambda _a, f, _l: f.update({CONTRADICTION: Fate("confirmed")}), "instead of parked: conflicting_status"),
        (lambda _a, _f, log: log.append(f"a key {KEY}"), "1 log lines have a credential"),
        (lambda _a, _f, log: log.pop(0), "the log has no line about the delivery of 1"),
    ],
)
def test_the_verdict_is_on_what_happened(happens: Callable[..., object], says: str) -> None:
    """A relay that loses, repeats or leaks would be proved, or a good one would not."""
    accepted = {one.result: [101.0] for one in SENT if one.end == ACCEPTED}
    fates = {one.result: Fate(*one.end.split(": ")) for one in SENT} | {one: Fate("confirmed") for one in accepted}
    log = [LINE % ("delivered", one.uuid, "") for one in accepted] + ["no JSON"]
    happens(accepted, fates, log)
    found = judge(SENT, accepted, fates, log, [KEY, USER])
    assert says in str(found.deviations)
    assert (len(found.deviations), found.sentence[:8]) == ((1, "Not prov") if says else (0, "Proved: "))
    assert sum(good for *_, good in found.ends) >= len(SENT) - len(found.deviations)
    assert found.latencies == [(phase, "1.0 s", "1.0 s") for phase in PHASES]


OUTPUTS = {"RelayParameters": "WebhookUrl=https://sandbox/ CredentialsSecretArn=secret", "TableName": "table"}
CALLS: dict[str, Any] = {
    "get_event_source_mapping": {"State": "Enabled"},
    "get_secret_value": {"SecretString": json.dumps({"api_key": KEY, "user_id": USER})},
    "put_secret_value": {},
    "put_item": {},
    "get_paginator": SimpleNamespace(paginate=lambda **_: ()),
}


@pytest.mark.parametrize(
    ("parameters", "outputs", "replies", "sentence"),
    [
        ({"WebhookUrl": "https://api.betatel.com/"}, OUTPUTS, {}, "The WebhookUrl of a-stack (eu-central-1) is not "),
        ({"CredentialsSecretArn": "another"}, OUTPUTS, {}, "The CredentialsSecretArn of a-stack (eu-central-1) is not"),
        ({}, OUTPUTS, {"get_event_source_mapping": {"State": "Disabled"}}, "a-stack (eu-central-1) does not relay"),
        ({}, {}, {}, "a-stack (eu-central-1) is no sandbox, or not complete"),
        *(({}, OUTPUTS, {call: REFUSED}, "Not allowed to call AnyCall") for call in CALLS),
    ],
)
def test_what_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str], outputs: Any, replies: dict[str, Any], sentence: str
) -> None:
    """BetaTel would get made-up results, a real secret another key, or a proof would end halfway."""
    fitting = {"WebhookUrl": "https://sandbox/", "CredentialsSecretArn": "secret"}
    stack, sandbox = FakeStack(fitting | parameters, **CALLS | replies), FakeStack()
    sandbox.outputs = outputs
    monkeypatch.setattr(stack, "beside", lambda _: sandbox)
    ended = run(stack, "prove", "--sandbox", "a-sandbox")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(sentence)


def test_a_report_that_cannot_be_written_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six minutes would be over before a missing directory or library is noticed."""
    words = ("prove", "--sandbox", "a-sandbox", "--report", "none/proof.html")
    assert run(FakeStack(), *words).err == "There is no directory none for the report.\n"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert run(FakeStack(), *words).err.startswith("--report needs plotly: ")
