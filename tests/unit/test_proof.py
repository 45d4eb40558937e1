"""The sandbox's answers, the verdict of a proof, and what `prove` refuses before it sends anything."""

import importlib.util
import json
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult, NoResult
from local import ROOT
from ops.account import Fate
from ops.stack import Stack
from sandbox.endpoint import contract
from sandbox.judge import ACCEPTED, COPY, HEALTH, Acceptance, Seen, Verdict, again, judge, plan
from tests.support.aws import REFUSED, FakeStack
from tests.support.operator import run

KEY, USER = "a-made-up-key-of-40-characters", "a-made-up-user"
HEADERS = {"content-type": "application/json", "x-api-key": KEY, "x-user-id": USER}


def answers(uuid: str, times: int) -> list[contract.Answer]:
    """POST a result so often; return the answers."""
    body = FlashCallResult(uuid, "Success").as_json().encode()
    request: Any = ("POST", contract.WEBHOOK_PATH, HEADERS.items(), body)
    proper = contract.answer(*request, credentials=(KEY, USER), knows=lambda _: True)
    return [contract.misbehave(proper, {uuid: number}.__getitem__) for number in range(times)]


@pytest.mark.parametrize(
    ("uuid", "statuses", "accepted"),
    [
        ("01JV5V54KPYK9GB29265EQRZ2P", [200], [True]),
        ("test-of-mine", [200], [True]),
        ("test-404-a", [404, 404, 404], [False, False, False]),
        ("test-404x1-a", [404, 200], [False, True]),
        ("test-400-a", [400, 400], [False, False]),
        ("test-429-30-a", [429, 200], [False, True]),
        ("test-500x3-a", [500, 500, 500, 200], [False, False, False, True]),
        ("test-599-a", [599, 200], [False, True]),
        ("test-page-a", [200, 200], [False, True]),
        ("test-other-status-a", [200, 200], [False, True]),
        ("test-slow-5-a", [200], [True]),
    ],
)
def test_a_uuid_asks_for_an_answer(uuid: str, statuses: list[int], accepted: list[bool]) -> None:
    """A developer's CI would not get the failure that the page promises, or would get it for ever."""
    said = answers(uuid, len(statuses))
    assert ([one.status for one in said], [bool(one.accepted) for one in said]) == (statuses, accepted)
    assert [one.wait_s for one in said] == [5 if "slow" in uuid else 0] * len(said)
    assert [one.body.decode().startswith("<html>") for one in said] == [
        "page" in uuid and not one.accepted for one in said
    ]
    assert (b'"Failed"' in said[0].body) is ("other-status" in uuid)
    assert (("Retry-After", "30") in said[0].headers) is ("-30-" in uuid)


def test_the_page_names_each_uuid_that_asks() -> None:
    """A developer would look in vain for what the sandbox can do."""
    page = (ROOT / "docs" / "proving.md").read_text()
    kinds = {"404", "404x1", "400", "429-30", "500x3", "page", "other-status", "slow-5"}
    assert [kind for kind in kinds if f"`test-{kind}-" not in page] == []


# ---- the verdict ----

RUN = "proof-1f2e3d4c"
PLANNED = plan(RUN, 60, bus=True)
ALL = [one._replace(at=100.0) for one in PLANNED] + [one._replace(at=200.0) for one in again(PLANNED, 60)]
FIRST = next(one for one in ALL if one.is_plain(HEALTH))
COPIED, CONTRADICTED = (next(one for one in ALL if one.end == end) for end in (COPY, "conflicting_status"))


def seen() -> tuple[list[Acceptance], dict[FlashCallResult, Fate], list[str]]:
    """Return what a sandbox, the queues and the log say of a good relay."""
    accepted = [Acceptance(one.uuid, one.status, 101.0) for one in ALL if one.end == ACCEPTED]
    fates = {one.result: Fate("parked", one.end) for one in ALL if one.end not in {ACCEPTED, COPY}}
    fates |= {one.result: Fate("confirmed") for one in ALL if one.end == ACCEPTED}
    lines = [{"timestamp": "2026-11-28T12:00:00Z", "message": "result.delivered", "uuid": one.uuid} for one in accepted]
    return accepted, fates, [*map(json.dumps, lines), "no JSON"]


def verdict(accepted: list[Acceptance], fates: dict[FlashCallResult, Fate], log: list[str]) -> Verdict:
    """Return the verdict on what was seen."""
    return judge(ALL, Seen(accepted, fates, log, [("500 to everything", 110.0, 140.0)]), [KEY, USER, 'a"quote'])


def test_a_good_relay_is_proved() -> None:
    """Nobody would trust a proof that fails without a reason, or that leaves a kind of result out."""
    found = verdict(*seen())
    assert (found.deviations, found.notes) == ([], [])
    assert found.sentence.startswith("Proved: ")
    assert sum(sent for _, sent, _ in found.ends) == len(ALL) == 60
    assert all(sent == good for _, sent, good in found.ends)
    assert [phase for phase, *_ in found.latencies] == ["health", "outage", "rotation"]
    assert found.latencies[0][1:] == ("1.0 s", "1.0 s")


def test_the_plan_has_what_it_says() -> None:
    """A proof would show less than its page: no events, no copy, or a body that is a result after all."""
    ends = {ACCEPTED: 51, COPY: 2, "conflicting_status": 2, "rejected": 1, "invalid_event": 4}
    assert Counter(one.end for one in ALL) == ends
    assert {one.by_bus for one in ALL if one.end == ACCEPTED} == {True, False}
    assert not any(one.by_bus for one in plan(RUN, 60, bus=False))
    for one in ALL:
        assert isinstance(parse_body(one.body), NoResult) == (one.end == "invalid_event")


def _again(at: float, **change: Any) -> Any:
    return lambda accepted, _fates, _log: accepted.append(Acceptance(COPIED.uuid, COPIED.status, at)._replace(**change))


def _lost_reply(accepted: list[Acceptance], _fates: Any, log: list[str], at: float = 150.0) -> None:
    accepted.append(Acceptance(COPIED.uuid, COPIED.status, at))
    line = {"timestamp": "2026-11-28T12:00:00Z", "message": "result.deferred", "uuid": COPIED.uuid, "reason": "timeout"}
    log.append(json.dumps(line))


def _copy_soon_after(accepted: list[Acceptance], _fates: Any, _log: Any) -> None:
    accepted.remove(Acceptance(COPIED.uuid, COPIED.status, 101.0))
    accepted.extend(Acceptance(COPIED.uuid, COPIED.status, at) for at in (199.0, 201.0))


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda a, _f, _l: a.remove(Acceptance(FIRST.uuid, FIRST.status, 101.0)), "never accepted: confirmed"),
        (lambda _a, f, _l: f.update({FIRST.result: Fate("unknown")}), "accepted, and yet unknown"),
        (lambda _a, f, _l: f.update({FIRST.result: Fate("confirmed", "other_status")}), "accepted, and yet confirmed"),
        (lambda _a, f, _l: f.update({CONTRADICTED.result: Fate("confirmed")}), "confirmed instead of parked (confl"),
        (lambda _a, f, _l: f.update({CONTRADICTED.result: Fate("parked", "rejected")}), "parked (rejected) instead of"),
        (_copy_soon_after, "accepted 2 times"),
        (partial(_lost_reply, at=201.0), "accepted 2 times"),
        (_again(150.0), "accepted 2 times"),
        (_again(102.0, status="Other"), "accepted 2 times"),
        (_again(102.0, uuid=f"{RUN}-unheard-of"), "accepted, and it was not to be"),
        (_again(102.0, uuid=f"{RUN}-invalid-0"), "accepted, and it was not to be"),
        (_again(125.0), "the sandbox accepted 1 during this: 500 to everything"),
        (lambda _a, _f, log: log.append(f"a key {KEY}"), "1 log lines have a credential"),
        (lambda _a, _f, log: log.append(json.dumps({"key": 'a"quote'})), "1 log lines have a credential"),
        (lambda _a, _f, log: log.clear(), "the log has no line about the delivery of"),
    ],
)
def test_what_deviates_is_named(breaks: Any, says: str) -> None:
    """A relay that loses, repeats or leaks would be proved."""
    found = seen()
    breaks(*found)
    said = verdict(*found)
    assert says in str(said.deviations)
    assert said.sentence.startswith("Not proved: ")


@pytest.mark.parametrize(
    ("happens", "says"), [(_again(102.0), "at the same moment"), (_lost_reply, "a reply was lost")]
)
def test_what_the_documentation_allows_is_a_note(happens: Any, says: str) -> None:
    """A proof would fail because SQS delivered a message twice, or because of a reply that nobody got."""
    found = seen()
    happens(*found)
    said = verdict(*found)
    assert (said.deviations, len(said.notes)) == ([], 1)
    assert says in said.notes[0]


# ---- what `prove` refuses ----

PLACES = {"WebhookUrl": "https://a1b2.execute-api.eu-central-1.amazonaws.com/api", "CredentialsSecretArn": "secret"}


class ProvedStack(FakeStack):
    """A relay that reports to `a-sandbox`. A case changes an output of either stack, or a reply."""

    def __init__(self, *, of_relay: dict[str, str] | None = None, of_sandbox: str = "", **changes: Any) -> None:
        usual: dict[str, Any] = {"get_event_source_mapping": {"State": "Enabled"}, "get_item": {}}
        usual["get_secret_value"] = {"SecretString": json.dumps({"api_key": KEY, "user_id": USER})}
        super().__init__(PLACES | (of_relay or {}), **{**usual, **changes})
        self.outputs = {**self.outputs, **PLACES, "LedgerTableName": "ledger", **(of_relay or {})}
        self.sandbox = {name: value for name, value in (PLACES | {"TableName": "table"}).items() if name != of_sandbox}

    def beside(self, name: str) -> Stack:
        """Return the sandbox; there is no other."""
        sandbox = FakeStack()
        if name == "a-sandbox":
            sandbox.name, sandbox.outputs = name, self.sandbox
        else:
            sandbox.aws.replies["describe_stacks"] = ClientError({"Error": {"Code": "ValidationError"}}, "AnyCall")
        return sandbox


@pytest.mark.parametrize(
    ("stack", "words", "sentence"),
    [
        (
            ProvedStack(of_relay={"WebhookUrl": "https://api.betatel.com/"}),
            "a-sandbox",
            "The WebhookUrl of a-stack (eu",
        ),
        (
            ProvedStack(of_relay={"CredentialsSecretArn": "another"}),
            "a-sandbox",
            "The secret of a-stack (eu-central-1)",
        ),
        (ProvedStack(of_relay={"LedgerTableName": ""}), "a-sandbox", "a-stack (eu-central-1) has no ledger"),
        (
            ProvedStack(get_event_source_mapping={"State": "Disabled"}),
            "a-sandbox",
            "a-stack (eu-central-1) does not rel",
        ),
        (
            ProvedStack(get_item={"Item": {"until": {"N": f"{time.time() + 60}"}}}),
            "a-sandbox",
            "Another proof uses a-s",
        ),
        (ProvedStack(of_sandbox="TableName"), "a-sandbox", "a-sandbox (eu-central-1) is no sandbox: it has no output"),
        (
            ProvedStack(),
            "elsewhere",
            "There is no sandbox 'elsewhere' in eu-central-1: it has to be in the relay's acc",
        ),
        (ProvedStack(), "a-sandbox --report none/proof.html", "There is no directory none for the report."),
        (ProvedStack(get_item=REFUSED), "a-sandbox", "Not allowed to call AnyCall"),
        (ProvedStack(get_secret_value=REFUSED), "a-sandbox", "Not allowed to call AnyCall"),
        (ProvedStack(), "a-sandbox", "Not allowed to call AnyCall"),  # to put a secret
    ],
)
def test_what_does_not_fit_is_refused(stack: ProvedStack, words: str, sentence: str) -> None:
    """BetaTel would get made-up results, a real secret another key, or a proof would end halfway."""
    ended = run(stack, "prove", "--sandbox", *words.split())
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(sentence)


def test_a_report_without_the_library_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six minutes would be over before the missing library is noticed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    ended = run(ProvedStack(), "prove", "--sandbox", "a-sandbox", "--report", "proof.html")
    assert (ended.status, ended.err.startswith("--report needs plotly: ")) == (2, True)
