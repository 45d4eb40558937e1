"""A replay of more messages than SQS has in flight continues until every counted message is replayed."""

from typing import Any

import pytest
from click.testing import CliRunner

from ops import queues
from ops.queues import PARKED
from ops.replay import replay_command
from tests.unit.test_ops_queues import HOLD_S, URL, Sqs, counts


class Crowded(Sqs):
    """A queue that allows a small number of messages in flight, and returns nothing beyond it."""

    in_flight = 40

    def receive_message(self, **options: Any) -> dict[str, Any]:
        """Answer as boto3 does."""
        with self._lock:
            if sum(not visible for visible in self.left.values()) > self.in_flight - 10:
                return {}
            return super().receive_message(**options)

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """Answer as boto3 does."""
        assert QueueUrl == "ResultQueueUrl"
        self.step("sent", *(entry["MessageBody"] for entry in Entries))
        return {"Successful": Entries}

    def get_queue_attributes(self, **_: Any) -> dict[str, dict[str, str]]:
        """Return the number of messages as SQS does."""
        return counts(visible=len(self.left))


class Stack:
    """A stack with that queue."""

    label = "a-stack (eu-central-1)"
    outputs: dict[str, str] = {}  # noqa: RUF012 - no ledger

    def __init__(self, sqs: Crowded) -> None:
        self.sqs = sqs

    def client(self, _service: str) -> Any:
        """Return the queue as the client of every service."""
        return self.sqs

    def output(self, name: str) -> str:
        """Return a queue's URL."""
        return URL if name == "ParkedQueueUrl" else name


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
    ended = CliRunner().invoke(replay_command(PARKED), arguments, obj=Stack(sqs), standalone_mode=False)
    assert ended.exception is None, ended.output
    assert ended.return_value == 0, ended.output
    assert "SQS allows about 120,000 messages in flight" in ended.output
    assert f"\n{replayed} messages replayed." in ended.output
    assert (f"About {150 - replayed} messages remain on the parked queue" in ended.output) == (replayed < 150)
    assert len(sqs.left) == 150 - replayed
    assert len({body for what, body in sqs.log if what == "sent"}) == replayed
