"""JSON for scripts, and pipes that close early."""

import json
import os
import re
import subprocess
import sys

import pytest

from local import ROOT
from tests.support.aws import CALL, busy_stack, log
from tests.support.operator import run


def documented() -> dict[str, list[str]]:
    """Return the fields of each command in the table of docs/operating.md."""
    section = (ROOT / "docs" / "operating.md").read_text().partition("## JSON\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*--json`) \| (.*) \|$", section, re.MULTILINE)
    fields = {command: re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", cells)) for command, cells in rows}
    return {one: names for commands, names in fields.items() for one in re.findall(r"`(.*?)`", commands)}


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["doctor", "--json"], ["check", "level", "message", "next_step"]),
        (["watch", "--json", "--count", "1"], ["at", "intake", "queues", "recent"]),
        (["story", CALL, "--json"], ["at", "where", "what", "fields"]),
        *(
            (
                [group, "list", "--json"],
                [
                    *("uuid", "status", "reason", "detail", "http_status"),
                    *("sent_at", "message_id", "attributes", "body"),
                ],
            )
            for group in ("parked", "dead")
        ),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_json_has_the_documented_fields(words: list[str], fields: list[str]) -> None:
    """A script would break with a renamed field."""
    ended = run(busy_stack(), *words)
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert ended.status == 0
    assert lines
    assert all(list(line) == fields for line in lines)
    command = " ".join(word for word in words if word not in {CALL, "--count", "1"})
    assert documented()[command] == fields
    if "watch" in words:
        (line,) = lines
        assert list(line["queues"]) == ["waiting", "in_flight", "parked", "dead_lettered"]
        assert list(line["recent"]) == ["delivered", "deferred", "deferred_by_reason", "oldest_s", "throttled"]
        text = (ROOT / "docs" / "operating.md").read_text()
        assert all(f"`{name}`" in text for name in (*line["queues"], *line["recent"]))
    if "doctor" in words:
        assert {line["level"] for line in lines} <= {"ok", "note", "wrong"}
        assert {type(line["next_step"]) for line in lines} == {str, type(None)}


def test_an_unknown_story_has_status_1_and_no_json() -> None:
    """A script could not distinguish an unknown result from a known one, or would read a sentence as JSON."""
    nothing = busy_stack(**log(), receive_message={})
    plain, as_json = run(nothing, "story", "unknown"), run(nothing, "story", "unknown", "--json")
    assert (plain.status, plain.err, as_json.status, as_json.out) == (1, "", 1, "")
    for said in (plain.out, as_json.err):
        assert said.startswith("Nothing is known of unknown in a-stack (eu-central-1) since ")


ON_A_BUSY_STACK = """
import sys
from ops import cli
from tests.support.aws import busy_stack
cli.Stack = lambda *_, **__: busy_stack()
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    "words",
    [["doctor"], ["doctor", "--json"], ["parked", "list"], ["story", CALL], ["watch"]],
    ids=" ".join,
)
def test_a_closed_pipe_ends_a_command_quietly(words: list[str]) -> None:
    """`flash-call-relay doctor | head -1` would end in a traceback."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as closed:
        command = [sys.executable, "-c", ON_A_BUSY_STACK, *words]
        environment = {"PATH": os.defpath, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        ended = subprocess.run(
            command, env=environment, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "")
