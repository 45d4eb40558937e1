"""A replay of more messages than SQS has in flight continues until every counted message is replayed."""

import pytest
from click.testing import CliRunner

from ops import queues
from ops.queues import PARKED
from ops.replay import replay_command
from tests.support.aws import HOLD_S, Crowded, QueueStack


@pytest.mark.parametrize(("options", "replayed"), [((), 150), (("--limit", "20"), 20)], ids=["all", "some"])
def test_a_replay_beyond_the_in_flight_limit_replays_every_counted_message(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], replayed: int
) -> None:
    """After a long outage, a replay would stop early and an operator would have to repeat it."""
    monkeypatch.setattr(queues, "LONG_POLL_S", 0)
    monkeypatch.setattr(queues, "PATIENCE_S", 0.5)
    monkeypatch.setattr(queues, "NEARLY_ALL_IN_FLIGHT", 20)
    sqs = Crowded([f"message-{number}" for number in range(150)])
    arguments = ["--yes", "--rate", "1000", "--hold", str(HOLD_S), *options]
    ended = CliRunner().invoke(replay_command(PARKED), arguments, obj=QueueStack(sqs), standalone_mode=False)
    assert ended.exception is None, ended.output
    assert ended.return_value == 0, ended.output
    assert "SQS allows about 120,000 messages in flight" in ended.output
    assert f"\n{replayed} messages replayed." in ended.output
    assert (f"About {150 - replayed} messages remain on the parked queue" in ended.output) == (replayed < 150)
    assert len(sqs.left) == 150 - replayed
    assert len({body for what, body in sqs.log if what == "sent"}) == replayed


@pytest.mark.parametrize(("options", "missing"), [((), True), (("--limit", "3"), True), (("--limit", "1"), False)])
def test_a_message_that_the_limit_leaves_out_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], *, missing: bool
) -> None:
    """An operator who replays one of several results first would read that the others are not on the queue."""
    monkeypatch.setattr(queues, "LONG_POLL_S", 0)
    monkeypatch.setattr(queues, "PATIENCE_S", 0.5)
    arguments = ["--dry-run", "--hold", str(HOLD_S), "--uuid", "a", "--uuid", "b", "--uuid", "mistyped", *options]
    stack = QueueStack(Crowded(["a", "b"]))
    ended = CliRunner().invoke(replay_command(PARKED), arguments, obj=stack, standalone_mode=False)
    assert ended.exception is None, ended.output
    assert ("No match for mistyped." in ended.output) == missing
    assert "No match for b" not in ended.output
