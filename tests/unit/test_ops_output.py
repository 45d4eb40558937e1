"""Tables, progress, numbers and times for people, on terminals of every kind and in pipes."""

import re
from pathlib import Path

import pytest

from ops import cli, logs, output
from tests.support.aws import QueueStack, Sqs
from tests.support.operator import terminal

COLUMNS = ("uuid", "n", "detail")
ROW = ("01JV5V54KPYK9GB29265EQRZ4C", 7, "HTTP 404 The flash call does not exist")
WHOLE = "01JV5V54KPYK9GB29265EQRZ4C  7  HTTP 404 The flash call does not exist"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (119.9, "119 s"), (120, "2 min"), (7199, "119 min"), (172_799, "47 h"), (172_800, "2 d")],
)
def test_a_duration_is_rounded_down_to_its_unit(seconds: float, text: str) -> None:
    """A message would expire before the time that the table shows."""
    assert output.duration(seconds) == text


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


@pytest.mark.parametrize("words", ["parked list", "parked replay --yes", "parked discard --yes", "account", "send"])
def test_a_command_shows_that_it_works_before_aws_answers(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator would look at an empty screen for seconds, and press Ctrl-C; or an empty queue would be a failure."""

    class Watched(QueueStack):
        def output(self, name: str) -> str:
            assert re.search("reading the .* queue|sent.*0/1", screen.raw)
            return super().output(name)

    (tmp_path / "sent.csv").write_text("uuid,status\na,Success\n")
    file = [] if "parked" in words else ["--file", str(tmp_path / "sent.csv")]
    with terminal("stderr", Watched(Sqs([]))) as screen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "find", lambda *_: [])
        assert cli.main([*words.split(), *file]) == (words == "account")
    if "parked" in words:
        assert capsys.readouterr().out == "No visible messages on the parked queue of a-stack (eu-central-1).\n"


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_progress_keeps_to_the_terminal(environment: dict[str, str]) -> None:
    """An editor's shell would be full of control characters, or an operator who set NO_COLOR would see colours."""
    with terminal("stderr", columns=120, **environment) as screen:
        with output.progress("to be replayed", 10) as tell:
            tell(3)
        text = screen.raw
    assert ("3/10" in text) == ("TERM" not in environment)
    assert not re.search(r"\x1b\[[\d;]*\b[349]\dm", text)
