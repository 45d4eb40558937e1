"""A message is deleted only after it was sent or saved, and all others are visible again, whatever fails."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from ops import parked
from ops.queues import MAX_CALL_BYTES, Depth, Message, Queue
from tests.support.aws import URL, QueueStack, Sqs, counts
from tests.support.operator import Ended, run

DENIED = ClientError({"Error": {"Code": "AccessDenied"}}, "AnyCall")


def names(number: int) -> list[str]:
    """Return a number of message ids."""
    return [f"m{n:03}" for n in range(number)]


def replay(sqs: Sqs, *chosen: str, rate: int = 1000) -> Ended:
    """Replay the messages with these ids, or all."""
    options = [word for one in chosen for word in ("--message-id", one)]
    return run(QueueStack(sqs), "parked", "replay", "--yes", "--rate", str(rate), *options)


def logged(sqs: Sqs, what: str) -> list[str]:
    """Return the messages that were sent or deleted."""
    return [json.loads(one)["uuid"] if what == "sent" else one for logged, one in sqs.log if logged == what]


def look(sqs: Sqs, seen: Callable[[int], object] = lambda _: None) -> list[Message]:
    """Look at the parked queue."""
    return Queue(sqs, URL).look(seen)


@settings(max_examples=150)
@given(st.data())
def test_only_chosen_and_sent_messages_are_deleted(data: st.DataObject) -> None:
    """A replay would delete results that were not sent or not chosen, or leave them hidden."""
    ids = names(data.draw(st.integers(1, 60)))
    some = st.sets(st.sampled_from(ids))
    chosen, undeletable, sqs = data.draw(some), data.draw(some), Sqs(ids, seed=data.draw(st.integers(0, 2**32)))
    sqs.refused, sqs.undeletable = data.draw(some), undeletable
    sqs.premature, sqs.fails_at = data.draw(st.sampled_from([0, 0, 20])), data.draw(st.just(0) | st.integers(1, 30))
    sqs.failure = data.draw(st.sampled_from([KeyboardInterrupt(), DENIED]))
    premature = bool(sqs.premature)

    ended = replay(sqs, *chosen)

    gone, sent = set(ids) - sqs.left.keys(), logged(sqs, "sent")
    wanted = chosen or set(ids)
    assert gone <= set(sent) <= wanted - set(sqs.refused)
    assert len(sent) == len(set(sent))
    for one in gone:
        assert sqs.log.index(("sent", json.dumps({"uuid": one, "status": "Success"}))) < sqs.log.index(("deleted", one))
    assert sum(not visible for visible in sqs.left.values()) <= 10, "only those of a receive without an answer"
    if ended.status in (0, 1):
        assert all(sqs.left.values())
        assert f"{len(gone)} message" in ended.out
        assert (ended.status == 0) == (gone == wanted)
        if not premature:
            assert gone == wanted - set(sqs.refused) - undeletable
    else:
        assert ended.status == (130 if isinstance(sqs.failure, KeyboardInterrupt) else 2)


@settings(max_examples=50)
@given(st.integers(0, 60), st.integers(0, 2**32), st.sampled_from([0, 20, 10_000]))
def test_a_look_finds_each_message_once_and_hides_none(number: int, seed: int, premature: int) -> None:
    """A list would miss or repeat messages, hide them from the next command, or never end."""
    sqs, seen = Sqs(names(number), seed=seed), list[int]()
    sqs.premature = premature
    got = [message.message_id for message in look(sqs, seen.append)]
    assert len(set(got)) == len(got) == max(seen, default=0)
    assert set(got) <= set(names(number))
    assert premature or got == names(number)
    assert all(sqs.left.values())


@pytest.mark.parametrize("rate", [2, 100])
def test_a_replay_keeps_to_its_rate(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would flood the endpoint."""
    sqs, slept, now = Sqs(names(30)), list[tuple[int, float]](), 1_763_800_100.0
    clock = SimpleNamespace(
        time=lambda: now, monotonic=lambda: now, sleep=lambda s: slept.append((len(logged(sqs, "sent")), s))
    )
    monkeypatch.setattr(parked, "time", clock)
    assert replay(sqs, rate=rate).status == 0
    assert [sent for sent, _ in slept] == list(range(min(10, rate), 31, min(10, rate)))
    assert sum(seconds for _, seconds in slept) == pytest.approx(30 / rate)


def test_messages_that_are_left_are_reported() -> None:
    """A script would treat a partial replay as complete."""
    sqs = Sqs(names(4))
    sqs.refused, sqs.undeletable = ["m001"], ["m002"]
    ended = replay(sqs)
    assert (ended.status, ended.out.splitlines()[-1]) == (1, "2 messages replayed.")
    left = "SQS did not take or delete 2 messages. Repeat the command safely."
    assert ended.err.splitlines() == ["SQS refused m001: Refused why", left]


def test_a_slow_answer_to_the_question_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would send results that somebody else has corrected during the question."""
    sqs, times = Sqs(names(3)), iter([0.0, 301.0])
    monkeypatch.setattr(parked, "time", SimpleNamespace(time=lambda: 0.0, monotonic=lambda: next(times)))
    ended = replay(sqs)
    assert (ended.status, sqs.log) == (2, [])
    assert ended.err == "The messages are visible to others again: repeat the command.\n"


def test_an_interrupted_discard_says_how_many_it_deleted(tmp_path: Path) -> None:
    """After Ctrl-C an operator would not know what is deleted, or a deleted message would be in no file."""
    sqs, path = Sqs(names(60), seed=3), tmp_path / "discarded.jsonl"
    look(sqs)
    receives, sqs = sqs._calls, Sqs(names(60), seed=3)
    sqs.fails_at = receives + 3
    ended = run(QueueStack(sqs), "parked", "discard", "--yes", "--to", str(path))
    assert (ended.status, ended.err.split("\n")[0]) == (130, "At least 20 of 60 deleted.")
    assert sqs.left == dict.fromkeys(names(60)[20:], True)
    saved = {json.loads(line)["message_id"] for line in path.read_text().splitlines()}
    assert saved == set(names(60))


@pytest.mark.parametrize("words", ["list", "replay --yes", "discard --yes"])
def test_an_empty_queue_is_no_failure(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script would fail on an empty queue."""
    monkeypatch.chdir(tmp_path)
    nothing = "No visible messages on the parked queue of a-stack (eu-central-1).\n"
    assert run(QueueStack(Sqs([])), "parked", *words.split()) == Ended(0, nothing, "")
    assert not list(tmp_path.iterdir())


def test_a_file_to_discard_into_is_named_after_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an ARN as --stack, the file would be in a directory that does not exist."""
    monkeypatch.chdir(tmp_path)
    assert run(QueueStack(Sqs(names(1))), "parked", "discard", "--yes").status == 0
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"parked-a-stack-\d{8}T\d{6}Z\.jsonl", file.name)


# ---- sending ----


def send(sqs: Sqs, tmp_path: Path, number: int) -> Ended:
    """Send a file of results."""
    path = tmp_path / "results.csv"
    path.write_text("uuid,status\n" + "".join(f"{one},Failed\n" for one in names(number)))
    return run(QueueStack(sqs), "send", "--file", str(path))


def test_an_interrupted_file_says_how_many_results_were_sent(tmp_path: Path) -> None:
    """After Ctrl-C an operator would not know whether to send the file again."""
    sqs = Sqs([])
    sqs.fails_at = 4
    ended = send(sqs, tmp_path, 95)
    assert (ended.status, ended.out, ended.err.split("\n")[0]) == (130, "", "At least 30 of 95 sent.")
    assert logged(sqs, "sent") == sorted(logged(sqs, "sent"), key=lambda one: int(one[1:]) // 10)


def test_a_body_without_an_acknowledgement_counts_as_refused() -> None:
    """A replay would delete a result that SQS never took."""
    bodies = {"a": '{"uuid": "silent"}', "b": '{"uuid": "b"}'}
    assert Queue(Sqs([]), "ResultQueueUrl").send(bodies) == {"a": "not acknowledged"}


def test_a_call_has_at_most_one_mebibyte() -> None:
    """SQS would refuse a call with ten large bodies."""
    sqs, bodies = Sqs([]), {str(number): "\u20ac" * (MAX_CALL_BYTES // 12 + 1) for number in range(4)}
    Queue(sqs, "ResultQueueUrl").send(bodies)
    assert (len(sqs.log), sqs._calls) == (4, 4)


def test_a_depth_has_each_of_the_numbers_of_sqs() -> None:
    """`doctor` and `pause` would miss deferred or delayed results."""
    sqs = SimpleNamespace(get_queue_attributes=lambda **_: counts(visible=1, hidden=20, delayed=300))
    depth = Queue(sqs, URL).depth()
    assert (depth, depth.total) == (
        Depth(visible=1, hidden=20, delayed=300, retention_s=864_000, visibility_s=420),
        321,
    )


def test_a_failed_release_does_not_hide_the_first_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator would read about a failed clean-up, and not about the missing permission."""

    def refuse(*_: Any, **__: Any) -> dict[str, Any]:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "ChangeMessageVisibilityBatch")

    monkeypatch.setattr(Sqs, "change_message_visibility_batch", refuse)
    sqs = Sqs(names(3))
    sqs.fails_at, sqs.failure = 2, DENIED
    with pytest.raises(ClientError, match="AnyCall"):
        look(sqs)
    assert len(look(Sqs(names(3)))) == 3


def test_results_that_sqs_refuses_are_named(tmp_path: Path) -> None:
    """A script would treat a file that was sent in part as complete."""
    sqs = Sqs([])
    sqs.refused = ["m012"]
    ended = send(sqs, tmp_path, 25)
    assert (ended.status, ended.err) == (1, "SQS refused line 14: Refused why\n")
    assert ended.out == "24 results sent to the result queue of a-stack (eu-central-1).\n"
    assert len(set(logged(sqs, "sent"))) == 24
