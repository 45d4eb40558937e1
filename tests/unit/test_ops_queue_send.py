"""Sending to a queue reports each body that SQS did not take, and sends no body twice."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import queues

MIB = 1024 * 1024
TAKEN, BUSY, REFUSED, SILENT = "taken", "busy", "refused", "silent"
URL = "https://sqs/result"


class Sqs:
    """An SQS that answers each body by a script, and takes it after the end of the script."""

    def __init__(self, scripts: Mapping[str, list[str]]) -> None:
        self.scripts = {body: list(script) for body, script in scripts.items()}
        self.calls: list[list[str]] = []

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """Answer as boto3 does."""
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
    monkeypatch.setattr(queues, "SEND_PAUSE_S", 0)


def send(sqs: Sqs, bodies: Mapping[str, str]) -> dict[str, str]:
    """Send bodies; return the refused ones."""
    return queues.Queue(sqs, URL).send(bodies)


def test_a_call_has_at_most_ten_bodies() -> None:
    """SQS would refuse the call, or a large file would take ten times as long."""
    sqs = Sqs({})
    bodies = {f"key {number}": f"body {number}" for number in range(25)}
    assert send(sqs, bodies) == {}
    assert [len(call) for call in sqs.calls] == [10, 10, 5]
    assert [body for call in sqs.calls for body in call] == list(bodies.values())


def test_a_call_has_at_most_one_mebibyte() -> None:
    """SQS would refuse a call with ten large bodies."""
    sqs = Sqs({})
    assert send(sqs, {str(number): "\u20ac" * (MIB // 12) for number in range(5)}) == {}
    assert [len(call) for call in sqs.calls] == [4, 1]


def test_a_body_that_sqs_refuses_is_sent_once() -> None:
    """The command would send a bad body again and again, or report good ones as refused."""
    sqs = Sqs({"b": [REFUSED]})
    assert send(sqs, {"1": "a", "2": "b", "3": "c"}) == {"2": "refused why"}
    assert sqs.calls == [["a", "b", "c"]]


@pytest.mark.parametrize("failure", [BUSY, SILENT])
def test_a_body_that_sqs_failed_to_take_is_sent_again(failure: str) -> None:
    """A short failure of SQS would leave results unsent, or send the others twice."""
    sqs = Sqs({"b": [failure, failure]})
    assert send(sqs, {"1": "a", "2": "b", "3": "c"}) == {}
    assert sqs.calls == [["a", "b", "c"], ["b"], ["b"]]


@pytest.mark.parametrize(("failure", "said"), [(BUSY, "busy why"), (SILENT, "not acknowledged")])
def test_a_body_that_sqs_never_takes_is_reported(failure: str, said: str) -> None:
    """A replay would delete a result that SQS never took."""
    sqs = Sqs({"b": [failure] * 9})
    assert send(sqs, {"1": "a", "2": "b"}) == {"2": said}
    assert sqs.calls == [["a", "b"], ["b"], ["b"]]


VERDICTS = st.lists(st.sampled_from([TAKEN, BUSY, REFUSED, SILENT]), max_size=4)


@given(st.lists(VERDICTS, max_size=25))
def test_a_body_is_refused_or_taken_once(scripts: list[list[str]]) -> None:
    """Some mix of failures would lose a result, or send it twice."""
    bodies = {f"key {number}": f"body {number}" for number in range(len(scripts))}
    sqs = Sqs(dict(zip(bodies.values(), scripts, strict=True)))
    refused = send(sqs, bodies)
    for (key, body), script in zip(bodies.items(), scripts, strict=True):
        offers = sum(body in call for call in sqs.calls)
        verdicts = [*script, TAKEN, TAKEN, TAKEN][:offers]
        assert 1 <= offers <= 3
        assert TAKEN not in verdicts[:-1]
        assert (key in refused) == (verdicts[-1] != TAKEN)
        # The command gives up on a body after the sender's fault, or after three calls.
        assert verdicts[-1] in (TAKEN, REFUSED) or offers == 3
