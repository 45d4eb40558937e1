"""Bodies onto the result queue: what SQS did not take is said, and nothing is sent twice."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import sending

MIB = 1024 * 1024
TAKEN, BUSY, REFUSED, SILENT = "taken", "busy", "refused", "silent"
URL = "https://sqs/result"


class Sqs:
    """Answers each body by its script, and takes it when that is over."""

    def __init__(self, scripts: Mapping[str, list[str]]) -> None:
        self.scripts = {body: list(script) for body, script in scripts.items()}
        self.calls: list[list[str]] = []

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """As boto3's."""
        assert QueueUrl == URL
        assert len({entry["Id"] for entry in Entries}) == len(Entries) <= 10
        self.calls.append([entry["MessageBody"] for entry in Entries])
        reply: dict[str, Any] = {}
        for entry in reversed(Entries):  # SQS promises no order
            script = self.scripts.get(entry["MessageBody"])
            verdict = script.pop(0) if script else TAKEN
            if verdict == TAKEN:
                reply.setdefault("Successful", []).append({"Id": entry["Id"], "MessageId": "m"})
            elif verdict != SILENT:
                fault = {"Id": entry["Id"], "Code": verdict, "Message": "why", "SenderFault": verdict == REFUSED}
                reply.setdefault("Failed", []).append(fault)
        return reply


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PAUSE_S", 0)


def send(sqs: Sqs, bodies: Mapping[str, str]) -> dict[str, str]:
    """Send them."""
    return sending.send(sqs, URL, bodies)


def test_ten_to_a_call() -> None:
    """SQS would refuse the call, or a file of a million results take ten times as long."""
    sqs = Sqs({})
    bodies = {f"key {number}": f"body {number}" for number in range(25)}
    assert send(sqs, bodies) == {}
    assert [len(call) for call in sqs.calls] == [10, 10, 5]
    assert [body for call in sqs.calls for body in call] == list(bodies.values())


def test_a_mebibyte_to_a_call() -> None:
    """Ten large bodies would be refused together."""
    sqs = Sqs({})
    assert send(sqs, {str(number): "\u20ac" * (MIB // 12) for number in range(5)}) == {}
    assert [len(call) for call in sqs.calls] == [4, 1]


def test_what_is_refused_is_not_offered_again() -> None:
    """A body that SQS can't take would be offered in vain, or its neighbours be taken for refused."""
    sqs = Sqs({"b": [REFUSED]})
    assert send(sqs, {"1": "a", "2": "b", "3": "c"}) == {"2": "refused why"}
    assert sqs.calls == [["a", "b", "c"]]


@pytest.mark.parametrize("trouble", [BUSY, SILENT])
def test_what_sqs_could_not_take_is_offered_again(trouble: str) -> None:
    """A moment's trouble at SQS would leave results behind, or send the others twice."""
    sqs = Sqs({"b": [trouble, trouble]})
    assert send(sqs, {"1": "a", "2": "b", "3": "c"}) == {}
    assert sqs.calls == [["a", "b", "c"], ["b"], ["b"]]


@pytest.mark.parametrize(("trouble", "said"), [(BUSY, "busy why"), (SILENT, "not acknowledged")])
def test_lasting_trouble_is_said(trouble: str, said: str) -> None:
    """A result that SQS never took would pass for sent, and be deleted where it lies."""
    sqs = Sqs({"b": [trouble] * 9})
    assert send(sqs, {"1": "a", "2": "b"}) == {"2": said}
    assert sqs.calls == [["a", "b"], ["b"], ["b"]]


VERDICTS = st.lists(st.sampled_from([TAKEN, BUSY, REFUSED, SILENT]), max_size=4)


@given(st.lists(VERDICTS, max_size=25))
def test_a_body_is_refused_or_taken_once(scripts: list[list[str]]) -> None:
    """A result would be lost or sent twice in some mix of failures."""
    bodies = {f"key {number}": f"body {number}" for number in range(len(scripts))}
    sqs = Sqs(dict(zip(bodies.values(), scripts, strict=True)))
    refused = send(sqs, bodies)
    for (key, body), script in zip(bodies.items(), scripts, strict=True):
        offers = sum(body in call for call in sqs.calls)
        verdicts = [*script, TAKEN, TAKEN, TAKEN][:offers]
        assert 1 <= offers <= 3
        assert TAKEN not in verdicts[:-1]
        assert (key in refused) == (verdicts[-1] != TAKEN)
        # Given up on only when it is the sender's fault, or for the third time.
        assert verdicts[-1] in (TAKEN, REFUSED) or offers == 3
