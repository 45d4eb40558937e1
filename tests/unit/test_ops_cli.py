"""The command line: its help, its sentences and exit statuses, and the docs that show it."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from local import ROOT
from ops.cli import main, relay

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
Sentence = Callable[..., str]

PROMPTS = ("flash-call-relay ", "$ flash-call-relay ")


@pytest.fixture(autouse=True)
def _with_an_access_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the operator an access key, and hide the other places where boto3 looks for one."""
    environment = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "BOTO_CONFIG": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "no_proxy": "*",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def sentence(capsys: pytest.CaptureFixture[str]) -> Sentence:
    """Return a function that runs a command, and returns the one sentence of its failure; exit status 2."""

    def run(*words: str) -> str:
        assert main(list(words)) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert "hunter2" not in captured.err
        return captured.err

    return run


def commands(group: click.Group = relay, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield all commands and groups, each with its words."""
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def shown(text: str) -> Iterator[list[str]]:
    """Yield the words of each `flash-call-relay` command in the code blocks of a Markdown text."""
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(PROMPTS):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                ends = [number for number, word in enumerate(words) if word in {"|", ">", ">>", "<", "&&", "||", ";"}]
                yield words[1 : min(ends, default=None)]


def parse(words: list[str]) -> None:
    """Parse a command without running it; an unknown option or command is an error."""
    with pytest.MonkeyPatch.context() as patch:
        for _, command in commands():
            patch.setattr(command, "callback", lambda **_: None)
        assert relay.main(words, "flash-call-relay", standalone_mode=False) in (None, 0)  # 0: of --help


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_in_the_docs_exists(path: Path) -> None:
    """An operator would copy a command from the docs, and the command line would refuse it."""
    for words in shown(path.read_text()):
        parse(words)


def test_the_docs_show_the_commands() -> None:
    """The test above would pass without reading any command, or misread its options."""
    mentioned = {word for path in DOCS for words in shown(path.read_text()) for word in words}
    assert {"doctor", "watch", "send", "parked", "story"} <= mentioned
    text = (
        "flash-call-relay no\n```sh\nflash-call-relay a \\\n  --b 'c d' # e\n```\n\n"
        "```console\n$ flash-call-relay f | jq\nflash-call-relay-local g\n$ flash-call-relay h > i\n```\n"
    )
    assert list(shown(text)) == [["a", "--b", "c d"], ["f"], ["h"]]
    with pytest.raises(click.UsageError):
        parse(["parked", "lst"])


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        ("doctor", {}, "You must specify a region: check the AWS configuration, --region and --profile."),
        ("parked list", {"AWS_REGION": "r", "AWS_ACCESS_KEY_ID": ""}, "Unable to locate credentials: log in again"),
        ("--region 'eu west' pause", {}, "check the AWS configuration, --region"),
        ("pause", {"AWS_REGION": "eu west"}, "check the AWS configuration, --region"),
        ("--profile none doctor", {}, "The config profile (none) could not be found: check the AWS"),
        ("doctor", {"AWS_CONFIG_FILE": "README.md"}, "Unable to parse config file: "),
        ("doctor", {"AWS_REGION": "r", "AWS_ENDPOINT_URL": "nonsense"}, "is not a URL: check AWS_ENDPOINT_URL"),
        (
            "doctor",
            {"AWS_REGION": "r", "AWS_ENDPOINT_URL": "http://a:hunter2@127.0.0.1:1"},
            "Can't reach AWS: check the",
        ),
        ("--stack \udcff parked list", {"AWS_REGION": "r", "AWS_ENDPOINT_URL": "http://x"}, "is not valid text"),
        # A mistyped command: click's own sentence.
        ("parkd list", {}, "No such command 'parkd'. Did you mean 'parked'?"),
        ("doctor --prob", {}, "No such option '--prob'. Did you mean '--probe'?"),
        # `throttled` is a reason that defers.
        ("parked list --reason throttled", {}, "Invalid value for '--reason': 'throttled' is not one of 'rejected', "),
        ("parked replay --set-status Failed --yes", {}, "choose the results with --uuid or --reason"),
        # A wrong result, or file of results.
        ("send --uuid a --status success", {}, "Invalid value for '--status': 'success' is not one of 'Success', "),
        ("send --uuid a", {}, "Say what to send: --uuid and --status, or --file"),
        ("send --uuid 'a b' --status Success", {}, "visible ASCII characters"),
        ("send --file .", {}, " directory"),
        ("send --file none", {}, "none can't be read"),
    ],
)
def test_a_mistake_is_one_sentence(
    sentence: Sentence, monkeypatch: pytest.MonkeyPatch, words: str, environment: dict[str, str], says: str
) -> None:
    """A mistyped command would do something else, or an operator would read a traceback or a password."""
    monkeypatch.chdir(ROOT)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert says in sentence(*shlex.split(words))


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """An operator who tries `parked` would not learn its commands, or a script would treat it as done."""
    assert main(["parked"]) == 2
    assert "  replay " in capsys.readouterr().err


def test_a_full_disk_is_named() -> None:
    """An operator would check the AWS configuration because of a full disk."""
    command = [sys.executable, "-m", "ops", "--help"]
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stderr) == (2, "The output can't be written: No space left on device.\n")
