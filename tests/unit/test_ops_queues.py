"""A queue deletes a message only after the command acted on it, and makes all others visible again."""

import threading
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from ops import queues
from ops.messages import Filter, Message, Selection
from ops.queues import Depth, Pace, Queue, print_taken
from tests.support.aws import HOLD_S, URL, Sqs, counts

PATIENCE_S = 60  # only a failing test waits this long


def these(ids: Collection[str]) -> Selection:
    """Return a selection of messages with these ids."""
    attributes = {"SentTimestamp": "0"}
    received = [{"MessageId": one, "ReceiptHandle": "", "Body": "", "Attributes": attributes} for one in ids]
    messages = [Message.of(one, dead=False) for one in received]
    return Selection("a queue", messages, Filter(), found=len(messages), hidden=0, beyond=0, began=0, retention_s=0)


class Swift(Pace):
    """A pace that does not wait, and remembers the numbers."""

    def __init__(self, rate: float = 1000) -> None:
        super().__init__(rate)
        self.over = threading.Event()
        self.asked: list[int] = []

    def wait_for(self, number: int, over: threading.Event) -> None:
        """Return immediately."""
        self.over = over
        self.asked.append(number)

    def give_back(self, number: int) -> None:
        """Remember the number."""
        self.asked.append(-number)


def queue_of(sqs: Sqs) -> Queue:
    """Return the parked queue."""
    return Queue(sqs, URL, dead=False, hold_s=HOLD_S)


def names(number: int) -> list[str]:
    """Return a number of message ids."""
    return [f"m{n}" for n in range(number)]


def doing(sqs: Sqs, refused: Collection[str] = ()) -> Callable[[Sequence[Message]], Collection[str]]:
    """Return a function that logs its messages, and is done with all but the refused ones."""

    def act(messages: Sequence[Message]) -> Collection[str]:
        ids = [message.message_id for message in messages]
        sqs.step("act", *ids)
        return [one for one in ids if one not in refused]

    return act


@settings(max_examples=150)
@given(st.data())
def test_only_messages_acted_on_are_deleted(data: st.DataObject) -> None:
    """A replay would delete results that were not sent or not selected, or leave them hidden."""
    ids = names(data.draw(st.integers(0, 60)))
    some = st.sets(st.sampled_from(ids)) if ids else st.just(set[str]())
    chosen, refused, undeletable = data.draw(some), data.draw(some), data.draw(some)
    elsewhere = data.draw(st.sampled_from([set(), {"gone"}]))  # another receiver holds it
    sqs = Sqs(ids, seed=data.draw(st.integers(0, 2**32)))
    sqs.undeletable = undeletable
    sqs.premature, sqs.gaps = data.draw(st.sampled_from([(0, 0), (0, 0), (20, 0), (0, 5), (20, 5)]))
    fails_at = sqs.fails_at = data.draw(st.sampled_from([0, 0]) | st.integers(1, 30))
    patient = not sqs.premature and not sqs.gaps

    deleted: set[str] | None = None
    try:
        act, done = doing(sqs, refused), lambda _number: sqs.step("done")
        deleted = queue_of(sqs).take(these(chosen | elsewhere), act, Swift(), done)
    except (KeyboardInterrupt, ClientError):
        assert fails_at

    gone = set(ids) - sqs.left.keys()
    acted = [one for what, one in sqs.log if what == "act"]
    assert gone <= chosen - refused - undeletable
    assert set(acted) <= chosen
    for one in gone:
        assert sqs.log.index(("act", one)) < sqs.log.index(("delete", one))
    assert all(sqs.left.values()), "some are still hidden"
    if deleted is not None:
        assert deleted == gone
        if patient:
            assert gone == chosen - refused - undeletable
            assert sorted(acted) == sorted(chosen)


@settings(max_examples=100)
@given(
    st.integers(0, 60),
    st.integers(0, 2**32),
    st.sampled_from([(0, 0), (20, 0), (0, 5)]),
    st.just(0) | st.integers(1, 30),
)
def test_a_look_finds_each_message_once_and_hides_none(
    number: int, seed: int, odd: tuple[int, int], fails_at: int
) -> None:
    """A list would miss or repeat messages, or hide them from the next command."""
    ids = names(number)
    sqs = Sqs(ids, seed=seed)
    (sqs.premature, sqs.gaps), sqs.fails_at = odd, fails_at
    counts: list[int] = []

    def seen(so_far: int) -> None:
        counts.append(so_far)
        sqs.step("seen")

    found: list[Message] | None = None
    try:
        found = queue_of(sqs).look(seen)
    except (KeyboardInterrupt, ClientError):
        assert fails_at
    assert sqs.left == dict.fromkeys(ids, True)
    if found is not None:
        got = [message.message_id for message in found]
        assert len(set(got)) == len(got) == max(counts)
        assert set(got) <= set(ids)
        if odd == (0, 0):
            assert set(got) == set(ids)


def test_a_look_ends_when_messages_repeat() -> None:
    """A list would never end while messages become visible again."""
    sqs = Sqs(names(20))
    sqs.premature = 10_000
    queue_of(sqs).look(lambda _number: None)
    assert sqs.premature


def test_an_interruption_finishes_calls_in_progress_and_starts_none() -> None:
    """After Ctrl-C the command would keep sending, or release a message during its deletion."""
    sqs, pace, acting = Sqs(names(200)), Swift(), threading.Event()
    late, told = list[list[str]](), list[int]()

    def act(messages: Sequence[Message]) -> Collection[str]:
        acting.set()
        ids = [message.message_id for message in messages]
        if not pace.over.wait(PATIENCE_S) or sqs.released.wait(0.2):
            late.append(ids)
        sqs.step("act", *ids)
        return ids

    def interrupt(number: int) -> None:
        told.append(number)
        assert acting.wait(PATIENCE_S)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue_of(sqs).take(these(names(200)), act, pace, interrupt)
    assert not late
    acted, deleted = ([one for what, one in sqs.log if what == wanted] for wanted in ("act", "delete"))
    assert sorted(acted) == sorted(deleted)
    assert told[-1] == len(deleted)
    assert 1 <= len(acted) <= 10 * queues.WORKERS
    assert sqs.left == dict.fromkeys(set(names(200)) - set(acted), True)


@pytest.mark.parametrize("where", ["seen", "done", "act"])
def test_an_interruption_leaves_no_message_hidden(where: str) -> None:
    """Ctrl-C would leave messages hidden for minutes, or delete results that were not sent."""
    sqs = Sqs(names(200))

    def interrupt(*_: object) -> Collection[str]:
        sqs.step("interrupted", "here")
        raise KeyboardInterrupt

    taking: dict[str, Any] = {"act": doing(sqs), "pace": Swift(), "done": lambda _number: None, where: interrupt}
    with pytest.raises(KeyboardInterrupt):
        queue_of(sqs).look(interrupt) if where == "seen" else queue_of(sqs).take(these(names(200)), **taking)
    assert all(sqs.left.values())
    deleted = [one for what, one in sqs.log if what == "delete"]
    assert set(deleted) <= {one for what, one in sqs.log if what == "act"}
    if where == "act":
        assert len(sqs.left) == 200


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "PATIENCE_S", 0)


def test_a_message_received_again_is_acted_on_once() -> None:
    """A replay would send a result again and again if its deletion failed."""
    sqs = Sqs(names(30), seed=1)
    sqs.undeletable, sqs.premature = names(30)[:15], 10_000
    deleted = queue_of(sqs).take(these(names(30)), doing(sqs, names(30)[25:]), Swift(), lambda _number: None)
    acted = [one for what, one in sqs.log if what == "act"]
    assert len(acted) == len(set(acted))
    assert deleted <= set(names(30)[15:25])


def test_a_failed_release_does_not_hide_the_first_error() -> None:
    """An operator would read about a failed clean-up, and not about the missing permission."""

    class Stubborn(Sqs):
        def change_message_visibility_batch(self, **_: Any) -> dict[str, Any]:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "ChangeMessageVisibilityBatch")

    sqs = Stubborn(names(3))

    def act(_messages: Sequence[Message]) -> Collection[str]:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "SendMessageBatch")

    with pytest.raises(ClientError, match="SendMessageBatch"):
        queue_of(sqs).take(these(names(3)), act, Swift(), lambda _number: None)
    assert [message.message_id for message in queue_of(Stubborn(["a"])).look(lambda _number: None)] == ["a"]


class Together(Swift):
    """A pace at which no worker acts before each has chosen its first messages."""

    def __init__(self) -> None:
        super().__init__()
        self._all = threading.Barrier(queues.WORKERS)
        self._chosen = set[int]()

    def give_back(self, number: int) -> None:
        """Wait for the other workers the first time."""
        super().give_back(number)
        if threading.get_ident() not in self._chosen:
            self._chosen.add(threading.get_ident())
            self._all.wait(PATIENCE_S)


def test_several_workers_take_no_more_than_the_limit() -> None:
    """`parked replay --limit 5` would send more than five results."""
    sqs, limit = Sqs(names(60)), Filter(limit=5)
    beyond = Selection("a queue", [], limit, found=0, hidden=0, beyond=60, began=2e9, retention_s=0)
    assert len(queue_of(sqs).take(beyond, doing(sqs), Together(), lambda _number: None)) == 5
    assert len(sqs.left) == 55


@pytest.mark.parametrize(("rate", "size"), [(1, 1), (7, 1), (8, 2), (39, 9), (40, 10), (1000, 10)])
def test_a_slow_rate_receives_few_messages_per_call(rate: float, size: int) -> None:
    """At one result per second, ten results would reach the endpoint together."""
    sqs, pace = Sqs(names(50)), Swift(rate)
    queue_of(sqs).take(these(names(50)[::2]), doing(sqs), pace, lambda _number: None)
    assert {asked for asked in pace.asked if asked > 0} == {size}
    # Unused permits are given back, apart from those of a receive without messages.
    acted = sum(what == "act" for what, _ in sqs.log)
    assert 25 == acted <= sum(pace.asked) <= acted + queues.WORKERS * size


def test_a_depth_has_each_of_the_numbers_of_sqs() -> None:
    """`doctor` and `pause` would miss deferred or delayed results."""
    sqs = SimpleNamespace(get_queue_attributes=lambda **_: counts(visible=1, hidden=20, delayed=300))
    depth = Queue(sqs, URL).depth()
    assert depth == Depth(visible=1, hidden=20, delayed=300, retention_s=864_000)
    assert depth.total == 321


@pytest.mark.parametrize(
    ("deleted", "refused", "status", "says"),
    [
        ({"a", "b"}, {}, 0, ""),
        ({"a"}, {}, 1, "1 message left: SQS refused 0; another receiver took 1, or SQS did not delete them."),
        ({"a"}, {"b": "TooLong why"}, 1, "SQS refused b: TooLong why\n1 message left: SQS refused 1; another receiver"),
    ],
)
def test_messages_that_are_left_are_reported(
    deleted: set[str], refused: dict[str, str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script would treat a partial replay as complete."""
    assert print_taken("replayed", 2, deleted, refused) == status
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{len(deleted)} message")
    assert captured.err.startswith(says)
    assert bool(captured.err) == bool(says)


# ---- the rate ----


class Waits(threading.Event):
    """An event that remembers time-outs, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Remember the time-out."""
        assert timeout is not None
        self.waited.append(timeout)
        return False


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


STEPS = st.lists(
    st.tuples(st.just("ask"), st.integers(1, 10))
    | st.tuples(st.just("pass"), st.integers(1, 3000))  # milliseconds
    | st.tuples(st.just("give back"), st.integers(0, 10)),
    max_size=60,
)


@given(st.integers(1, 1000), STEPS)
def test_a_pace_allows_no_more_than_its_rate_and_one_batch(rate: int, steps: list[tuple[str, int]]) -> None:
    """A replay would flood the endpoint."""
    clock, over = Clock(), Waits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queues, "time", SimpleNamespace(monotonic=clock.monotonic))
        pace = Pace(rate)
        permits: list[list[float]] = []  # begin and number
        for step, number in steps:
            if step == "ask":
                pace.wait_for(number, over)
                assert over.waited[-1] >= 0
                permits.append([clock.now + over.waited[-1], number])
            elif step == "pass":
                clock.now += number / 1000
            else:  # only a permit that has begun can be given back
                begun = next((permit for permit in permits if permit[0] <= clock.now and permit[1] >= number), None)
                if begun:
                    begun[1] -= number
                    pace.give_back(number)
    for at, _ in permits:
        done = sum(number for begin, number in permits if begin <= at)
        assert done <= rate * (at - 1000) + 10 + 1e-6


def test_a_pace_uses_its_whole_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay of thousands would take longer than its rate allows."""
    clock, over = Clock(), Waits()
    monkeypatch.setattr(queues, "time", SimpleNamespace(monotonic=clock.monotonic))
    pace = Pace(20)
    for _ in range(5):
        pace.wait_for(10, over)
    assert over.waited == pytest.approx([0, 0.5, 1, 1.5, 2])
    pace.give_back(10)
    pace.wait_for(10, over)
    assert over.waited[-1] == pytest.approx(2)
    clock.now += 60  # unused time gives no credit
    pace.wait_for(10, over)
    pace.wait_for(10, over)
    assert over.waited[-2:] == pytest.approx([0, 0.5])


def test_the_end_interrupts_a_wait() -> None:
    """Ctrl-C would take seconds at a low rate."""
    pace, over = Pace(0.001), threading.Event()
    pace.wait_for(1, over)
    waiting = threading.Thread(target=pace.wait_for, args=(1, over), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    over.set()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
