"""The command line: its help, its sentences and exit statuses, and the docs that show it."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest

from flash_call_relay import __version__
from local import ROOT
from ops.cli import main, relay

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BASH = shutil.which("bash")
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


class TestHelp:
    """The help texts."""

    @pytest.mark.parametrize(
        ("path", "command"), [pytest.param(*one, id=" ".join(one[0]) or "-") for one in commands()]
    )
    def test_the_help_of_a_command_names_all_its_options(
        self, path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An operator would have to read the code to find an option."""
        assert main([*path, "-h"]) == 0
        short = capsys.readouterr()
        assert main([*path, "--help"]) == 0
        captured = capsys.readouterr()
        assert captured == short
        assert captured.err == ""
        assert captured.out.startswith(" ".join(("Usage: flash-call-relay", *path)))
        assert max(map(len, captured.out.splitlines())) <= 100
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                for name in parameter.opts:
                    assert re.search(rf"(^|\s){re.escape(name)}\b", captured.out), name
            else:
                assert parameter.human_readable_name.upper() in captured.out
        for name in getattr(command, "commands", ()):
            assert re.search(rf"^  {name} ", captured.out, re.MULTILINE)
        assert command.help

    def test_the_commands_are_the_documented_ones(self) -> None:
        """A command of the docs would not exist."""
        found = {" ".join(path) for path, command in commands() if not isinstance(command, click.Group)}
        queues = {f"{place} {what}" for place in ("parked", "dead") for what in ("list", "replay", "discard")}
        assert found == {"doctor", "watch", "send", "story", "forget", "pause", "resume", "completion"} | queues

    def test_version_prints_the_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A bug report could not name the version."""
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"{__version__}\n"


class TestCompletion:
    """Completion in a shell."""

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script_asks_the_command_for_words(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        """An operator would install a script that completes nothing."""
        assert main(["completion", shell]) == 0
        assert f"_FLASH_CALL_RELAY_COMPLETE={shell}_complete" in capsys.readouterr().out

    @pytest.mark.skipif(BASH is None, reason="needs bash")
    def test_bash_completes_a_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The script would fail in a shell, or the words would reach the command in the wrong order."""
        assert main(["completion", "bash"]) == 0
        program = tmp_path / "flash-call-relay"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ops "$@"\n')
        program.chmod(0o700)
        script = (
            f"{capsys.readouterr().out}\n"
            "COMP_WORDS=(flash-call-relay parked li) COMP_CWORD=2\n"
            '_flash_call_relay_completion flash-call-relay\necho "${COMPREPLY[@]}"\n'
        )
        path = f"{tmp_path}:{os.defpath}"
        environment = {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        ended = subprocess.run(
            [str(BASH), "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert (ended.stdout, ended.stderr) == ("list\n", "")


class TestDocs:
    """The commands that the docs show."""

    @pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
    def test_every_command_in_the_docs_exists(self, path: Path) -> None:
        """An operator would copy a command from the docs, and the command line would refuse it."""
        for words in shown(path.read_text()):
            parse(words)

    def test_the_docs_show_the_commands(self) -> None:
        """The test above would pass without reading any command."""
        seen = [words for path in DOCS for words in shown(path.read_text())]
        mentioned = {word for words in seen for word in words}
        assert {"doctor", "send", "parked", "replay", "story", "forget", "pause", "resume"} <= mentioned

    @pytest.mark.parametrize(
        "words",
        ["doctor --prob", "parked lst", "parked list --reason nonsense", "send --rate 0", "story", "dead replay x"],
    )
    def test_a_wrong_command_in_the_docs_is_detected(self, words: str) -> None:
        """The docs could show options that do not exist."""
        with pytest.raises(click.UsageError):
            parse(words.split())

    def test_code_blocks_are_split_as_a_shell_does(self) -> None:
        """The tests above would miss a command of the docs, or misread its options."""
        text = (
            "flash-call-relay no\n```sh\nflash-call-relay a \\\n  --b 'c d' # e\n```\n\n"
            "```console\n$ flash-call-relay f | jq\nflash-call-relay-local g\n$ flash-call-relay h > i\n```\n"
        )
        assert list(shown(text)) == [["a", "--b", "c d"], ["f"], ["h"]]


class TestSentences:
    """A failure is one sentence that says what to do."""

    def test_a_missing_region_is_named(self, sentence: Sentence) -> None:
        """An operator without a region would read a traceback."""
        assert "No AWS region: name one with --region, or set AWS_REGION." in sentence("doctor")

    def test_missing_credentials_are_named(self, sentence: Sentence, monkeypatch: pytest.MonkeyPatch) -> None:
        """An operator who has not logged in would read a traceback."""
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        said = sentence("--region", "eu-west-1", "parked", "list")
        assert "No AWS credentials" in said
        assert "aws sso login" in said

    @pytest.mark.parametrize("by", ["option", "AWS_REGION", "AWS_DEFAULT_REGION"])
    def test_an_invalid_region_is_refused(self, sentence: Sentence, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
        """The command would ignore AWS_REGION, or an invalid region would end in a traceback."""
        if by != "option":
            monkeypatch.setenv(by, "eu west")
        assert "name another with --region" in sentence(*(["--region", "eu west"] if by == "option" else []), "pause")

    def test_an_unknown_profile_is_refused(self, sentence: Sentence) -> None:
        """A mistyped profile would end in a traceback."""
        said = sentence("--profile", "no-such-profile", "doctor")
        assert "no-such-profile" in said
        assert "see `aws configure list-profiles`" in said

    def test_a_broken_config_file_is_named(self, sentence: Sentence, tmp_path: Path) -> None:
        """A mistake in the AWS config file would end in a traceback."""
        (tmp_path / "config").write_text("nonsense")
        assert "Unable to parse config file" in sentence("doctor")

    def test_an_endpoint_that_is_not_a_url_is_refused(
        self, sentence: Sentence, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A mistyped AWS_ENDPOINT_URL would end in a traceback."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
        assert "check AWS_ENDPOINT_URL" in sentence("--region", "eu-west-1", "doctor")

    def test_an_unreachable_endpoint_is_reported(self, sentence: Sentence, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stopped local stack would end in a traceback, or the sentence would show a password."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # without listening
            url = f"http://operator:hunter2@127.0.0.1:{closed.getsockname()[1]}"
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            said = sentence("--region", "eu-west-1", "doctor")
        assert said.startswith("Can't reach AWS: check the network, the region and AWS_ENDPOINT_URL.")

    def test_an_answer_that_is_not_from_aws_is_reported(
        self, sentence: Sentence, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A login page in place of AWS would end in a traceback."""

        class Page(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))  # else the connection is reset
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html><p>Welcome</html>")

            def log_message(self, *_: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Page) as server, ThreadPoolExecutor(1) as pool:
            serving = pool.submit(server.serve_forever, 0.05)
            try:
                monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
                assert "did not come from AWS" in sentence("--region", "eu-west-1", "resume")
            finally:
                server.shutdown()
            serving.result()

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            (".", None, "is a directory"),
            ("none", None, "can't be read"),
            ("results.csv", b"", "is empty"),
            ("results.csv", b"one,Success\n", "has no header"),
            ("results.csv", b'[{"uuid": "one", "status": "Success"}]', "is a JSON array"),
            ("results.csv", b"uuid,status\n\xe9,Success\n", "is not UTF-8 text (line 2)"),
        ],
    )
    def test_a_file_without_results_is_not_sent(
        self, sentence: Sentence, tmp_path: Path, name: str, content: bytes | None, says: str
    ) -> None:
        """An operator who names the wrong file would get a traceback, or send its content."""
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        said = sentence("send", "--file", str(file))
        assert str(file) in said
        assert says in said

    @pytest.mark.parametrize("words", [("send",), ("send", "--uuid", "a")])
    def test_half_a_result_is_not_sent(self, sentence: Sentence, words: tuple[str, ...]) -> None:
        """The relay would park a result without a status."""
        assert sentence(*words).startswith("Say what to send: --uuid and --status, or --file")

    def test_an_invalid_uuid_is_not_sent(self, sentence: Sentence) -> None:
        """The relay would park a result with a mistyped uuid."""
        assert "visible ASCII characters" in sentence("send", "--uuid", "a b", "--status", "Success")

    def test_set_status_without_a_filter_is_refused(self, sentence: Sentence) -> None:
        """One mistyped command would report every parked result with the same status."""
        assert "choose the results with --uuid or --reason" in sentence(
            "parked", "replay", "--set-status", "Failed", "--yes"
        )

    def test_an_argument_that_is_not_text_is_refused(self, sentence: Sentence, monkeypatch: pytest.MonkeyPatch) -> None:
        """An argument in another encoding would end in a traceback."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert "is not valid text" in sentence("--stack", "\udcff", "--region", "eu-west-1", "parked", "list")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("nonsense", "No such command 'nonsense': see `flash-call-relay --help`."),
        ("parked nonsense", "No such command 'nonsense': see `flash-call-relay parked --help`."),
        ("parkd list", "No such command 'parkd': did you mean 'parked'?"),
        ("doctor --prob", "No such option '--prob': did you mean '--probe'?"),
        ("send --stat x", "No such option '--stat': did you mean '--status' or '--rate'?"),
        ("doctor --zzzz", "No such option '--zzzz': see `flash-call-relay doctor --help`."),
        ("doctor extra", "Got unexpected extra argument (extra): see `flash-call-relay doctor --help`."),
        # `throttled` is a reason that defers.
        ("parked list --reason throttled", "Invalid value for '--reason': 'throttled' is not one of 'rejected', "),
        *(
            (f"dead {command} --reason rejected", "Invalid value for '--reason': 'rejected' is not one of 'receives_")
            for command in ("list", "replay")
        ),
        ("parked list --since yesterday", "Invalid value for '--since': 'yesterday' is neither a duration (90min, "),
        ("parked list --hold 1", "Invalid value for '--hold': 1 is not a whole number from 5 to 43200."),
        ("parked list --limit=-1", "Invalid value for '--limit': -1 is not a whole number of at least 0."),
        (
            "parked list --http-status 99",
            "Invalid value for '--http-status': 99 is not a whole number from 100 to 999.",
        ),
        ("parked list --http-status many", "Invalid value for '--http-status': 'many' is not a whole number"),
        ("parked list --limit", "Option '--limit' requires an argument."),
        ("parked replay --rate 0", "Invalid value for '--rate': 0 is not a whole number from 1 to 1000."),
        ("watch --every 0", "Invalid value for '--every': 0 is not a whole number from 1 to 3600."),
        ("watch --every 3601", "Invalid value for '--every': 3601 is not a whole number from 1 to 3600."),
        ("watch --every 'it is not a'", "Invalid value for '--every': 'it is not a' is not a whole number from 1 to "),
        ("watch --count 0", "Invalid value for '--count': 0 is not a whole number of at least 1."),
        ("completion powershell", "Invalid value for '{bash|zsh|fish}': 'powershell' is not one of 'bash', 'zsh', "),
        ("completion", "Missing argument '{bash|zsh|fish}': see `flash-call-relay completion --help`."),
        ("send --uuid a --status success", "Invalid value for '--status': 'success' is not one of 'Success', "),
        ("story", "Missing argument 'UUID': see `flash-call-relay story --help`."),
        ("--stack", "Option '--stack' requires an argument."),
        ("doctor --stack", "Option '--stack' requires an argument."),
    ],
)
def test_an_invalid_command_line_is_refused_in_one_sentence(sentence: Sentence, words: str, says: str) -> None:
    """A mistyped command would do something else, or an operator would search its help for the mistake."""
    assert sentence(*shlex.split(words)).startswith(says)


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """An operator who tries `parked` would not learn its commands, or a script would treat it as done."""
    assert main(["parked"]) == 2
    assert "  replay " in capsys.readouterr().err


class TestSendWithoutAStack:
    """`send` checks a file before it calls AWS."""

    def test_a_file_with_bad_lines_is_not_sent(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A file with a bad line would be sent in part, or a script would treat it as sent."""
        path = tmp_path / "results.csv"
        path.write_text("uuid,status\n" + "a,Success\n" * 2 + "b,no\n" * 25)
        assert main(["send", "--file", str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.err.splitlines()[0] == 'line 4: status must be exactly "Success" or "Failed", got "no"'
        assert captured.err.splitlines()[20:] == [
            "... and 5 more bad lines",
            "1 repeated line left out.",
            "Nothing was sent: 25 of 26 lines are bad. Fix them, or add --skip-bad.",
        ]

    def test_a_dry_run_sends_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A check of a file would need an AWS account, or send the file."""
        path = tmp_path / "results.csv"
        path.write_text("uuid,status\na,Success\nb,no\n")
        assert main(["send", "--file", str(path), "--skip-bad", "--dry-run"]) == 0
        assert capsys.readouterr().out == "Dry run: 1 result would be sent.\n"
