"""Tables, progress, numbers and times for people, on terminals of every kind and in pipes."""

import json
import re
import time
from pathlib import Path

import pytest

from ops import cli, logs, output
from tests.support.aws import QueueStack, Sqs
from tests.support.operator import run, terminal

COLUMNS = ("uuid", "n", "detail")
ROW = ("01JV5V54KPYK9GB29265EQRZ4C", 7, "HTTP 404 The flash call does not exist")
WHOLE = "01JV5V54KPYK9GB29265EQRZ4C  7  HTTP 404 The flash call does not exist"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (2 * 86_400 - 1, "47 h"),
        (2 * 86_400, "2 d"),
        (14 * 86_400 - 1, "13 d"),
    ],
)
def test_a_duration_is_rounded_down_to_its_unit(seconds: float, text: str) -> None:
    """A message would expire before the time that the table shows."""
    assert output.duration(seconds) == text


def test_numbers_and_times_are_written_for_people() -> None:
    """An operator would misread a million, or a time of another zone."""
    assert [output.count(number, "result") for number in (0, 1, 1_234_567)] == [
        *("0 results", "1 result", "1,234,567 results")
    ]
    assert output.timestamp(1_763_800_000.999) == "2025-11-22T08:26:40Z"


def test_a_piped_table_has_aligned_columns_and_a_line_per_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`grep` and `awk` would see parts of rows, or numbers in a column would not line up."""
    monkeypatch.setenv("COLUMNS", "20")
    output.table(COLUMNS, [ROW, ("b", "1,234", None)], right=("n",))
    assert capsys.readouterr().out.splitlines() == [
        "uuid                            n  detail",
        "01JV5V54KPYK9GB29265EQRZ4C      7  HTTP 404 The flash call does not exist",
        "b                           1,234",
    ]
    output.table(COLUMNS, [])
    assert capsys.readouterr().out == "uuid  n  detail\n"


@pytest.mark.parametrize("columns", [1, 40, 55, 69, 200])
def test_a_table_on_a_terminal_wraps_its_last_column(columns: int) -> None:
    """On a narrow terminal, the reason of a failure would be cut, or the columns would run into each other."""
    with terminal("stdout", columns=columns) as screen:
        output.table(COLUMNS, [ROW])
        lines = screen.lines
    assert lines[0] == "uuid                        n  detail"
    assert max(map(len, lines)) <= max(columns, len(WHOLE) - 18)
    assert lines[1][:29] == WHOLE[:29]
    assert " ".join(line[31:] for line in lines[1:]) == ROW[2]
    assert columns < 69 or len(lines) == 2


def parked(count: int) -> QueueStack:
    """Return a stack with parked messages of three reasons, with long uuids, and details that are equal or not."""

    class Parked(Sqs):
        def _message(self, one: str) -> dict[str, object]:
            number, sent_at = int(one), int(time.time() * 1000) - (9 * 86_400 - 60 * int(one)) * 1000
            reason = ("rejected", "retries_exhausted", "conflicting_status")[number % 3]
            detail = f"Failed was confirmed at {number}" if number % 3 == 2 else "HTTP 503 Service unavailable"
            said = {"reason": reason, "detail": detail, **({"http_status": "503"} if number % 3 else {})}
            body = {"uuid": f"6e1c1f9e-27ab-4b6e-9c1e-{number:012}" + "x" * (number % 2), "status": "success"}
            return {
                **super()._message(one),
                "Body": json.dumps(body),
                "Attributes": {"SentTimestamp": str(sent_at)},
                "MessageAttributes": {key: {"StringValue": value} for key, value in said.items()},
            }

    return QueueStack(Parked([str(number) for number in range(count)]))


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "ascii", "utf-8"])
def test_a_list_fits_80_columns_and_24_lines_of_any_terminal(encoding: str) -> None:
    """On a terminal of 80x24 the counts would scroll away, and without Unicode the table would stop midway."""
    with terminal("stdout", parked(30), encoding=encoding) as screen:
        assert cli.main(["parked", "list"]) == 0
        lines = screen.lines
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


def test_a_piped_list_has_a_line_for_each_message() -> None:
    """`grep` would not find a parked call."""
    ended = run(parked(30), "parked", "list")
    uuids = [f"-{number:012}" + "x" * (number % 2) + " " for number in range(30)]
    assert [sum(uuid in line for line in ended.out.splitlines()) for uuid in uuids] == [1] * 30


@pytest.mark.parametrize("words", ["parked list", "parked replay --yes", "parked discard --yes", "account", "send"])
def test_a_command_shows_that_it_works_before_aws_answers(words: str, tmp_path: Path) -> None:
    """An operator would look at an empty screen for seconds, and press Ctrl-C."""

    class Watched(QueueStack):
        def output(self, name: str) -> str:
            assert re.search("reading the .* queue|sent.*0/1", screen.raw)
            return super().output(name)

    (tmp_path / "sent.csv").write_text("uuid,status\na,Success\n")
    file = [] if "parked" in words else ["--file", str(tmp_path / "sent.csv")]
    with terminal("stderr", Watched(Sqs([]))) as screen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "find", lambda *_: [])
        assert cli.main([*words.split(), *file]) == (words == "account")


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_progress_keeps_to_the_terminal(environment: dict[str, str]) -> None:
    """An editor's shell would be full of control characters, or an operator who set NO_COLOR would see colours."""
    with terminal("stderr", columns=120, **environment) as screen:
        with output.progress("to be replayed", 10) as tell:
            tell(3)
        text = screen.raw
    assert ("3/10" in text) == ("TERM" not in environment)
    assert not re.search(r"\x1b\[[\d;]*\b[349]\dm", text)
