"""The command line: the docs that show it, its sentences, exit statuses and JSON, in pipes and on terminals."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from botocore.exceptions import ClientError

from local import ROOT
from ops import cli, logs, output
from ops.cli import relay
from tests.support.aws import CALL, FakeStack, QueueStack, Sqs, busy_stack
from tests.support.operator import Ended, process, run, terminal

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROMPTS = ("flash-call-relay ", "$ flash-call-relay ")


def shown(text: str) -> Iterator[list[str]]:
    """Yield the words of each `flash-call-relay` command in the code blocks of a Markdown text."""
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(PROMPTS):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                ends = [number for number, word in enumerate(words) if word in {"|", ">", ">>", "<", "&&", "||", ";"}]
                yield words[1 : min(ends, default=None)]


def parse(words: list[str]) -> None:
    """Parse a command without running it; an unknown command, option or value is an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click.Command, "invoke", lambda *_: None)
        relay.main(words, "flash-call-relay", standalone_mode=False)


def test_every_command_in_the_docs_exists() -> None:
    """An operator would copy a command from the docs, and the command line would refuse it."""
    commands = [words for path in DOCS for words in shown(path.read_text())]
    for words in commands:
        parse(words)
    assert {"doctor", "watch", "send", "parked", "story", "--probe"} <= {word for words in commands for word in words}


def failure(ended: Ended) -> str:
    """Return the one sentence of a command that can't run."""
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    return ended.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("parkd list", "No such command 'parkd'. Did you mean 'parked'?"),
        ("parked replay --set-status Failed --yes", "choose the results with --uuid or --reason"),
        ("account --file a --only lost,parked", "'lost' is not one of confirmed, parked, dead-lettered, waiting, unkn"),
        ("send --uuid a", "Say what to send: --uuid and --status, or --file"),
        ("send --uuid a --status Failed --file b", "Say what to send: --uuid and --status, or --file"),
        ("send --uuid 'a b' --status Success", "visible ASCII characters"),
        ("send --file .", ". can't be read: Is a directory."),
        ("parked list", "'a-stack' (CREATE_COMPLETE) has no output ParkedQueueUrl: is it a relay stack"),
        ("forget --uuid a", "a-stack (eu-central-1) has no ledger (Deduplication is false)"),
    ],
)
def test_a_mistake_is_one_sentence(words: str, says: str) -> None:
    """A mistyped command would do something else, or an operator would read a traceback."""
    stack = FakeStack()
    stack.outputs.clear()
    assert says in failure(run(stack, *shlex.split(words)))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("ValidationError", "There is no stack 'a-stack' in eu-central-1: name another --stack"),
        ("AccessDenied", "Not allowed to call DescribeStacks: ask for the permissions in docs/operating.md."),
    ],
)
def test_a_stack_that_is_not_found_or_not_allowed_is_named(code: str, says: str) -> None:
    """An operator would not see that the stack is mistyped, or could not tell an administrator what to allow."""
    stack = FakeStack()
    stack.aws.replies["describe_stacks"] = ClientError({"Error": {"Code": code}}, "DescribeStacks")
    assert failure(run(stack, "parked", "list")).startswith(says)


def test_a_group_without_a_command_shows_its_help() -> None:
    """An operator who tries `parked` would not learn its commands, or a script would treat it as done."""
    ended = run(FakeStack(), "parked")
    assert (ended.status, "  replay " in ended.err) == (2, True)


def documented(command: str) -> str:
    """Return what the table of docs/operating.md says of a command's fields."""
    section = (ROOT / "docs" / "operating.md").read_text().partition("## JSON\n")[2].partition("\n## ")[0]
    (cells,) = re.findall(rf"^\| .*`{command} --json`.* \| (.*) \|$", section, re.MULTILINE)
    return str(cells)


@pytest.mark.parametrize("command", ["doctor", "watch", "account", "story", "parked list", "dead list"])
def test_json_has_the_documented_fields(command: str, tmp_path: Path) -> None:
    """A script would break with a renamed field."""
    (tmp_path / "sent").write_text(json.dumps({"uuid": CALL, "status": "Success"}))
    more = {"watch": ["--count", "1"], "story": [CALL], "account": ["--file", str(tmp_path / "sent")]}
    ended = run(busy_stack(), *command.split(), "--json", *more.get(command, ()))
    assert ended.status == (command == "account")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    fields, inner = re.sub(r"\(.*?\)", "", documented(command)), " ".join(re.findall(r"\(.*?\)", documented(command)))
    assert {tuple(line) for line in lines} == {tuple(re.findall(r"`(\w+)`", fields))}
    if command == "watch":
        assert [*lines[0]["queues"], *lines[0]["recent"]] == re.findall(r"`(\w+)`", inner)
    if command == "doctor":
        assert {line["level"] for line in lines} == set(re.findall(r"`(\w+)`", inner)) - {"wrong"}
        assert {type(line["next_step"]) for line in lines} == {str, type(None)}


def test_a_closed_pipe_ends_a_command_quietly() -> None:
    """`flash-call-relay doctor | head -1` would end in a traceback."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as closed:
        assert process("--help", stdout=closed) == Ended(1, "", "")


def test_a_full_disk_is_named() -> None:
    """An operator would check the AWS configuration because of a full disk."""
    with Path("/dev/full").open("w") as full:
        ended = process("--help", stdout=full)
    assert ended == Ended(2, "", "The output can't be written: No space left on device.\n")


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


def test_a_dumb_terminal_gets_no_progress() -> None:
    """An editor's shell would be full of control characters."""
    with terminal("stderr", TERM="dumb") as screen:
        with output.progress("to be replayed", 10) as tell:
            tell(3)
        assert screen.raw == ""
