"""Messages are listed and filtered, and one is deleted only after it was sent or saved, whatever fails."""

import errno
import itertools
import json
import os
import re
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult, Status
from ops import cli, parked
from ops.queues import MAX_CALL_BYTES, DeadReason, Message, Queue
from tests.support.aws import REFUSED, URL, QueueStack, Sqs, received
from tests.support.operator import Ended, run, terminal

LIMIT = 256 * 1024  # of a body, in bytes
# The attributes that each service adds to its dead letters
OF_LAMBDA = {"RequestID": "1f2e", "ErrorCode": "200", "ErrorMessage": "Task timed out"}
OF_EVENTBRIDGE = {"RULE_ARN": "arn:rule", "TARGET_ARN": "arn:t", "ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "no"}

UUIDS = st.sampled_from("abc") | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=9)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(number: int) -> list[str]:
    """Return a number of message ids, which are the uuids, too."""
    return [f"m{n:03}" for n in range(number)]


def on_parked(sqs: Sqs, words: str, *more: str, typed: str | None = None) -> Ended:
    """Run a command on the parked queue."""
    return run(QueueStack(sqs), "parked", *words.split(), *more, typed=typed)


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
    sqs.failure = data.draw(st.sampled_from([KeyboardInterrupt(), REFUSED]))
    premature = bool(sqs.premature)

    ended = on_parked(sqs, "replay --yes --rate 1000", *(word for one in chosen for word in ("--message-id", one)))

    gone, sent = set(ids) - sqs.left.keys(), logged(sqs, "sent")
    wanted = chosen or set(ids)
    assert gone <= set(sent) <= wanted - set(sqs.refused)
    assert len(sent) == len(set(sent))
    for one in gone:
        assert sqs.log.index(("sent", json.dumps({"uuid": one, "status": "Success"}))) < sqs.log.index(("deleted", one))
    assert sum(not visible for visible in sqs.left.values()) <= 10, "only those of a receive without an answer"
    if ended.status in (0, 1):
        assert all(sqs.left.values())
        assert re.search(rf"\b{len(gone)} messages? replayed\.\n$", ended.out) or not gone
        assert (ended.status == 0) == (gone == wanted)
        left = f"take or delete {len(wanted - gone)} message"
        assert (left in ended.err) == (ended.status == 1), "a script would treat a partial replay as complete"
        if not premature:
            assert gone == wanted - set(sqs.refused) - undeletable
    else:
        assert ended.status == (130 if isinstance(sqs.failure, KeyboardInterrupt) else 2)


@pytest.mark.parametrize("rate", [2, 100])
def test_a_replay_keeps_to_its_rate(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would flood the endpoint."""
    sqs, slept, now = Sqs(names(30)), list[tuple[int, float]](), 1_763_800_100.0
    clock = SimpleNamespace(
        time=lambda: now, monotonic=lambda: now, sleep=lambda s: slept.append((len(logged(sqs, "sent")), s))
    )
    monkeypatch.setattr(parked, "time", clock)
    assert on_parked(sqs, f"replay --yes --rate {rate}").status == 0
    assert [sent for sent, _ in slept] == list(range(min(10, rate), 31, min(10, rate)))
    assert sum(seconds for _, seconds in slept) == pytest.approx(30 / rate)


@pytest.mark.parametrize(
    ("words", "typed", "status", "says"),
    [
        ("replay", None, 2, "No terminal to ask on: look with `list` first"),
        ("replay", "n\n", 0, "3 messages. Send them to the result queue of a-stack (eu-central-1)? [y/N]"),
        ("replay", "", 130, "Interrupted. Nothing is lost."),
        ("discard --to saved", "n\n", 0, "3 messages. Delete them, after saving them to saved? [y/N]"),
        ("discard --to saved", "y\n", 0, "3 messages deleted."),
    ],
)
def test_nothing_is_changed_without_a_yes(
    words: str, typed: str | None, status: int, says: str, tmp_path: Path
) -> None:
    """A script or a typing mistake would delete messages."""
    sqs, agreed = Sqs(names(3)), typed == "y\n"
    ended = on_parked(sqs, words, typed=typed)
    assert ended.status == status
    assert says in ended.out + ended.err
    assert sqs.left == ({} if agreed else dict.fromkeys(names(3), True))
    assert (len(sqs.log), len(list(tmp_path.iterdir()))) == ((3, 1) if agreed else (0, 0))


def test_a_slow_answer_to_the_question_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would send results that somebody else has corrected during the question."""
    sqs, times = Sqs(names(3)), iter([0.0, 301.0])
    monkeypatch.setattr(parked, "time", SimpleNamespace(time=lambda: 0.0, monotonic=lambda: next(times)))
    ended = on_parked(sqs, "replay --yes")
    assert (ended.status, sqs.log) == (2, [])
    assert ended.err == "The messages are visible to others again: repeat the command.\n"


@pytest.mark.parametrize(
    ("words", "number", "did"),
    [
        ("replay --yes --rate 1000", signal.SIGINT, "replayed"),
        ("replay --yes --rate 1000", signal.SIGTERM, "replayed"),
        ("discard --yes --to saved", signal.SIGINT, "deleted"),
    ],
    ids=["Ctrl-C of a replay", "SIGTERM to a replay", "Ctrl-C of a discard"],
)
def test_an_interruption_says_how_many_are_done_and_hides_none(
    words: str, number: signal.Signals, did: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C an operator would not know what is deleted, wait for minutes, or find a message in no file."""
    sqs, calls = Sqs(names(60)), itertools.count(1)
    delete = sqs.delete_message_batch

    def interrupted(**request: Any) -> Any:
        if next(calls) == 2:
            signal.raise_signal(number)
        return delete(**request)

    monkeypatch.setattr(sqs, "delete_message_batch", interrupted)
    ended = on_parked(sqs, words)
    said = [line for line in ended.err.splitlines() if line]
    assert (ended.status, said) == (130, [f"At least 10 of 60 {did}.", "Interrupted. Nothing is lost."])
    assert sqs.left == dict.fromkeys(names(60)[10:], True)
    if did == "deleted":
        assert [json.loads(line)["message_id"] for line in Path("saved").read_text().splitlines()] == names(60)


def test_wrong_statuses_that_differ_are_not_corrected_alike() -> None:
    """BetaTel would be told Success of a call of which the backend wrote "failed"."""
    sqs = Sqs(names(2))
    for one, wrong in zip(names(2), ("success", "failed"), strict=True):
        body, detail = json.dumps({"uuid": one, "status": wrong}), {"detail": {"StringValue": f"got {wrong}"}}
        sqs.fields[one] = {"Body": body, "MessageAttributes": detail}
    words = "replay --yes --set-status Success --uuid m000"
    assert (on_parked(sqs, f"{words} --uuid m001").status, logged(sqs, "sent")) == (2, [])
    assert (on_parked(sqs, words).status, logged(sqs, "sent")) == (0, ["m000"])


def test_discarded_messages_can_be_corrected_and_sent_again(tmp_path: Path) -> None:
    """Messages discarded by mistake would be lost, or every user of the machine could read them."""
    sqs = Sqs(names(2))
    sqs.fields["m001"] = {"Body": '{"uuid": "m001", "status": "OK"}'}
    assert on_parked(sqs, "discard --yes").status == 0
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"parked-a-stack-\d{8}T\d{6}Z\.jsonl", file.name), "the stack's name, not its ARN"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    send = ("send", "--file", str(file))
    refused = run(QueueStack(sqs), *send)
    assert (refused.status, refused.err.partition(":")[0], logged(sqs, "sent")) == (2, "line 2", [])
    file.write_text(file.read_text().replace('"status": null', '"status": "Failed"'))
    assert run(QueueStack(sqs), *send).status == 0
    assert [body for what, body in sqs.log if what == "sent"] == [
        json.dumps({"uuid": one, "status": status}) for one, status in (("m001", "Failed"), ("m000", "Success"))
    ]


@pytest.mark.parametrize("name", ["exists", "none/saved", "x" * 1000, "on a full disk"])
def test_messages_that_cannot_be_saved_are_not_deleted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages would be deleted without a copy on the disk, or the only copy of others would be overwritten."""

    def refuse(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size > 300, "all was written"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    Path("exists").write_text("precious")
    sqs = Sqs(names(3))
    ended = on_parked(sqs, "discard --yes --to", name)
    assert re.fullmatch(r".* can't be written: .*\. Nothing was deleted\.\n", ended.err)
    assert (ended.status, sqs.left, sqs.log) == (2, dict.fromkeys(names(3), True), [])
    assert Path("exists").read_text() == "precious"


def parked_mix(count: int) -> Sqs:
    """Return a queue with messages of three reasons, with long uuids, and details that are equal or not."""
    sqs = Sqs([str(number) for number in range(count)])
    for number in range(count):
        reason = ("rejected", "retries_exhausted", "conflicting_status")[number % 3]
        detail = f"Failed was confirmed at {number}" if number % 3 == 2 else "HTTP 503 Service unavailable"
        said = {"reason": reason, "detail": detail, **({"http_status": "503"} if number % 3 else {})}
        body = {"uuid": f"6e1c1f9e-27ab-4b6e-9c1e-{number:012}" + "x" * (number % 2), "status": "success"}
        sent_at = time.time() - 9 * 86_400 + 60 * number
        sqs.fields[str(number)] = received(json.dumps(body), said, sent_at)
    return sqs


def test_a_list_fits_80_columns_and_24_lines_of_any_terminal() -> None:
    """On a terminal of 80x24 the counts would scroll away, and without Unicode the table would stop midway."""
    with terminal("stdout", QueueStack(parked_mix(30))) as screen:
        assert cli.main(["parked", "list"]) == 0
        lines = screen.lines
        assert screen.raw.isascii()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert lines[:3] == [
        "expires in  uuid                                  status  reason",
        "! 23 h      6e1c1f9e-27ab-4b6e-9c1e-000000000000          rejected",
        "! 24 h      6e1c1f9e-27ab-4b6e-9c1e-000000000...          retries_exhausted 503",
    ]
    assert lines[9:12] == [
        "... and 22 more: --json shows each in full.",
        "",
        "messages  reason                  newest  expires in  detail",
    ]
    assert lines[12] == "      10  rejected                8 d     ! 23 h      HTTP 503 Service"
    counted = " ".join(line[54:].strip() for line in lines[16:])
    assert "1 x Failed was confirmed" in counted
    assert "8 others" in counted
    assert lines[-2:] == [
        "30 messages on the parked queue of a-stack (eu-central-1).",
        "What to do, by reason: docs/runbook.md#parked-queue-not-empty",
    ]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ("", "0 1 2 3 4 5"),
        ("--reason rejected", "0 3"),
        ("--reason rejected --reason conflicting_status", "0 2 3 5"),
        ("--uuid 6e1c1f9e-27ab-4b6e-9c1e-000000000002 --uuid none", "2"),
        ("--message-id 1 --message-id 3", "1 3"),
        ("--message-id 1 --message-id 3 --reason rejected", "3"),
    ],
)
def test_a_message_is_chosen_if_it_meets_each_condition(filters: str, ids: str) -> None:
    """An operator would replay or discard results of another reason or call, or `grep` would not find one in a pipe."""
    listed = on_parked(parked_mix(6), f"list --json {filters}")
    assert (listed.status, listed.err) == (0, "")
    assert [json.loads(line)["message_id"] for line in listed.out.splitlines()] == ids.split()
    text = on_parked(parked_mix(6), f"list {filters}").out
    assert re.findall(r"9c1e-0+(\d)x? .* \w+", text) == ids.split(), "a line for each message"
    assert ("; 1 match." in text) == (len(ids) == 1)
    assert ("No match for none." in text) == ("none" in filters)


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


def test_a_body_without_an_acknowledgement_counts_as_refused() -> None:
    """A replay would delete a result that SQS never took."""
    bodies, told = {"a": '{"uuid": "silent"}', "b": '{"uuid": "b"}'}, list[int]()
    assert Queue(Sqs([]), "ResultQueueUrl").send(bodies, told.append) == {"a": "not acknowledged"}
    assert told == [1]


def test_a_call_has_at_most_one_mebibyte() -> None:
    """SQS would refuse a call with ten large bodies."""
    sqs, bodies = Sqs([]), {str(number): "\u20ac" * (MAX_CALL_BYTES // 12 + 1) for number in range(4)}
    Queue(sqs, "ResultQueueUrl").send(bodies)
    assert (len(sqs.log), sqs._calls) == (4, 4)


def message(body: str, attributes: dict[str, str] | None = None, *, dead: bool = False) -> Message:
    """Return a message as read from SQS."""
    return Message.of(received(body, attributes or {}), dead=dead)


@pytest.mark.parametrize(
    ("attributes", "reason", "detail"),
    [
        ({}, DeadReason.RECEIVES_EXHAUSTED, ""),
        (OF_LAMBDA, DeadReason.FUNCTION_FAILED, "Task timed out"),
        (OF_EVENTBRIDGE, DeadReason.EVENT_UNDELIVERED, "no"),
    ],
    ids=["of SQS", "of Lambda", "of EventBridge"],
)
def test_a_dead_letter_has_its_reason(attributes: dict[str, str], reason: DeadReason, detail: str) -> None:
    """An operator would not know whether the relay failed on a result, or the event never reached it."""
    found = message("x", attributes, dead=True)
    assert (found.reason, found.detail) == (reason, detail)


@pytest.mark.parametrize("key", ["detail", "ErrorMessage", "ERROR_MESSAGE", "reason"])
def test_texts_are_safe_to_print_on_a_terminal(key: str) -> None:
    """A line break would break the table, and an escape sequence could rewrite the screen."""
    found = message("x", {key: "a\nb\x1b[2J\u202e" + "x" * 5000, "http_status": "\u00b2"})
    said = found.reason if key == "reason" else found.detail
    assert said.startswith("a b [2J\\u202e")
    assert said.isascii()
    assert said.isprintable()
    assert len(said) <= 256
    line = json.loads(found.as_json())
    assert (line["attributes"], line["http_status"]) == (dict(found.attributes), None)  # in full
    assert line["sent_at"] == "2025-11-22T08:26:40.123+00:00"


@given(
    uuid=UUIDS | st.none(),
    status=st.sampled_from(["Success", "Failed", "success", None]),
    padding=st.sampled_from([0, 0, 1, LIMIT - 90, LIMIT, 2 * LIMIT]),
    new=st.sampled_from([None, "Success", "Failed"]),
    envelope=st.booleans(),
)
def test_a_replay_keeps_the_call_and_sets_the_status(
    *, uuid: str | None, status: str | None, padding: int, new: Status | None, envelope: bool
) -> None:
    """A replay would report another call or status, be refused by SQS, or not repair thousands of wrong statuses."""
    said: dict[str, Any] = {"uuid": uuid, "status": status, "more": "\u20ac" * (padding // 3)}
    found = message(json.dumps({"detail-type": "any", "detail": said} if envelope else said, ensure_ascii=False))
    again, good = found.to_replay(new), status in ("Success", "Failed")
    assert (found.uuid, found.status) == (uuid, status if good and uuid else None)
    assert not uuid or found.calls == {uuid}
    if uuid and (new or good):
        assert parse_body(again) == FlashCallResult(uuid, new or found.status or "Failed")
        assert len(again.encode()) <= LIMIT  # of SQS
    if not uuid or (not new and (not good or len(found.body.encode()) <= LIMIT)):
        assert again == found.body


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"uuid": "a", "uuid": "b"}', True),
        ('{"Message": "{\\"uuid\\": \\"a\\"}"}', True),
        ('["a"]', True),
        ('{"uuid": "a b"}', False),
        ('{"uuid": 1}', False),
        ("a", False),
        ("[" * 100_000, False),
    ],
)
def test_a_message_without_a_valid_uuid_is_found_by_its_text_and_keeps_it(body: str, *, found: bool) -> None:
    """A result would seem never to have been sent, or a replay would report a call that it guessed."""
    parked = message(body)
    assert ("a" in parked.calls) == found
    assert (parked.uuid, parked.status, parked.to_replay("Success")) == (None, None, body)
    assert json.loads(parked.as_json())["body"] == body
