"""A replay of more messages than SQS has in flight goes on until all that was counted is done."""

from typing import Any

import pytest
from click.testing import CliRunner

from ops import places, queue, replay
from ops.places import PARKED
from ops.stack import Depth
from tests.unit.test_ops_queue import HOLD_S, URL, Sqs


class Crowded(Sqs):
    """A queue that has no more than so many messages in flight, and says nothing of it."""

    in_flight = 40

    def receive_message(self, **options: Any) -> dict[str, Any]:
        """As boto3's."""
        with self._lock:
            if sum(not visible for visible in self.left.values()) > self.in_flight - 10:
                return {}
            return super().receive_message(**options)

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """As boto3's."""
        assert QueueUrl == "ResultQueueUrl"
        self.step("sent", *(entry["MessageBody"] for entry in Entries))
        return {"Successful": Entries}


class Stack:
    """A stack with that queue."""

    name, region = "a-stack", "eu-central-1"
    outputs: dict[str, str] = {}  # noqa: RUF012 - no ledger

    def __init__(self, sqs: Crowded) -> None:
        self.sqs = sqs

    def client(self, _service: str) -> Any:
        """Return the queue, whatever is asked for."""
        return self.sqs

    def output(self, name: str) -> str:
        """Return a queue's URL."""
        return URL if name == "ParkedQueueUrl" else name

    def depth(self, _output: str) -> Depth:
        """Count, as SQS does."""
        return Depth(visible=len(self.sqs.left), hidden=0, delayed=0, retention_s=1_209_600)


@pytest.mark.parametrize(("options", "replayed"), [((), 150), (("--limit", "20"), 20)], ids=["all", "some"])
def test_all_that_was_counted_is_replayed(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], replayed: int
) -> None:
    """After a long outage, most of what is parked would be called hidden, and a person would have to begin again."""
    monkeypatch.setattr(queue, "POLL_S", 0)
    monkeypatch.setattr(queue, "PATIENCE_S", 0.5)
    monkeypatch.setattr(places, "NEARLY_ALL_IN_FLIGHT", 20)
    sqs = Crowded([f"message-{number}" for number in range(150)])
    arguments = ["--yes", "--rate", "1000", "--hold", str(HOLD_S), *options]
    ended = CliRunner().invoke(replay.command(PARKED), arguments, obj=lambda: Stack(sqs), standalone_mode=False)
    assert ended.exception is None, ended.output
    assert ended.return_value == 0, ended.output
    assert "SQS hands out about 120,000 at a time" in ended.output
    assert f"\n{replayed} messages replayed." in ended.output
    assert (f"About {150 - replayed} messages are left on the parked queue" in ended.output) == (replayed < 150)
    assert len(sqs.left) == 150 - replayed
    assert len({body for what, body in sqs.log if what == "sent"}) == replayed
