"""What is discarded is on the disk first."""

import json
import stat
from pathlib import Path

import pytest

from flash_call_relay.models import FlashCallResult
from ops.discard import write
from ops.files import read
from ops.messages import Message
from ops.problems import Problem


def message(name: str, body: str) -> Message:
    """A parked message."""
    received = {"MessageId": name, "ReceiptHandle": "h", "Body": body, "Attributes": {"SentTimestamp": "1763800000123"}}
    return Message.of(received, dead=False)


MESSAGES = [message("m1", '{"uuid": "a", "status": "Failed"}'), message("m2", "\u20ac\nno result")]


def test_the_file_keeps_all_and_can_be_sent(tmp_path: Path) -> None:
    """What was discarded by mistake would be lost, or any user of the machine could read it."""
    path = tmp_path / "discarded.jsonl"
    write(str(path), MESSAGES)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["body"] for one in kept] == [one.body for one in MESSAGES]
    assert [one["message_id"] for one in kept] == ["m1", "m2"]
    lines = read(str(path))
    assert (lines.good, list(lines.bad)) == ({1: FlashCallResult("a", "Failed")}, [2])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    """A second discard would destroy the only copy of what the first one removed."""
    path = tmp_path / "discarded.jsonl"
    path.write_text("precious")
    with pytest.raises(Problem, match="exists: name a new file with --to"):
        write(str(path), MESSAGES)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["none/discarded.jsonl", "x" * 1000, ""])
def test_a_file_that_can_not_be_written(tmp_path: Path, name: str) -> None:
    """Messages would be deleted without a copy, or a slip end in a traceback."""
    with pytest.raises(Problem, match=r"[nN]othing was deleted"):
        write(str(tmp_path / name), MESSAGES)
