"""A replay of more messages than SQS has in flight continues until every counted message is replayed."""

import pytest

from ops import queues
from tests.support.aws import HOLD_S, Crowded, QueueStack
from tests.support.operator import run


@pytest.mark.parametrize(("options", "replayed"), [((), 150), (("--limit", "20"), 20)], ids=["all", "some"])
def test_a_replay_beyond_the_in_flight_limit_replays_every_counted_message(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], replayed: int
) -> None:
    """After a long outage, a replay would stop early and an operator would have to repeat it."""
    monkeypatch.setattr(queues, "NEARLY_ALL_IN_FLIGHT", 20)
    sqs = Crowded([f"message-{number}" for number in range(150)])
    arguments = ("--yes", "--rate", "1000", "--hold", str(HOLD_S), *options)
    ended = run(QueueStack(sqs), "parked", "replay", *arguments)
    assert ended.status == 0, ended
    assert "SQS allows about 120,000 messages in flight" in ended.out
    assert f"\n{replayed} messages replayed." in ended.out
    assert (f"About {150 - replayed} messages remain on the parked queue" in ended.out) == (replayed < 150)
    assert len(sqs.left) == 150 - replayed
    assert len({body for what, body in sqs.log if what == "sent"}) == replayed


@pytest.mark.parametrize(("options", "missing"), [((), True), (("--limit", "3"), True), (("--limit", "1"), False)])
def test_a_message_that_the_limit_leaves_out_is_not_called_missing(options: tuple[str, ...], *, missing: bool) -> None:
    """An operator who replays one of several results first would read that the others are not on the queue."""
    arguments = ("--dry-run", "--hold", str(HOLD_S), "--uuid", "a", "--uuid", "b", "--uuid", "mistyped", *options)
    ended = run(QueueStack(Crowded(["a", "b"])), "parked", "replay", *arguments)
    assert ended.status == 0, ended
    assert ("No match for mistyped." in ended.out) == missing
    assert "No match for b" not in ended.out
