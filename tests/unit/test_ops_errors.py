"""Errors of AWS and boto3 become one line that says what to do."""

import base64
import configparser
import contextlib
import itertools
import json
import os
import re
import string
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from botocore import exceptions as aws
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ops.cli import main, relay
from ops.errors import BUSY, NOT_ALLOWED, NOT_KNOWN, SESSION_EXPIRED, CommandError, explain
from ops.stack import Stack

# A message of botocore can hold an address with a password, and line breaks.
VALUE = "https://operator:hunter2@proxy.example:8080/path\n  and {more}"
SAFE = dict.fromkeys(("path", "profile", "region_name"), "a name\n  and {more}")
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAZ4XJ7Q2MWN5RTUVB",
    "AWS_SECRET_ACCESS_KEY": "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",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjEJz/7vR2nqL9Xk4TgWb8Ym3Hs6Pd0Fc5",
}
ROLE = "arn:aws:iam::111122223333:role/operator"
# What the words of a command lack to reach AWS.
NEEDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("send",): ("--uuid", "one", "--status", "Success"),
    ("account",): ("--file", "none"),
    ("story",): ("one",),
    ("forget",): ("--uuid", "one"),
}


def kinds(of: type[BotoCoreError] = BotoCoreError) -> Iterator[type[BotoCoreError]]:
    """Yield the exceptions that botocore defines."""
    yield of
    for kind in of.__subclasses__():
        if kind.__module__ == "botocore.exceptions":
            yield from kinds(kind)


KINDS = sorted(set(kinds()), key=lambda kind: kind.__name__)


def one_of(kind: type[BotoCoreError]) -> BotoCoreError:
    """Return an exception of this kind with a bad value in each field."""
    names = {name for _, name, _, _ in string.Formatter().parse(kind.fmt) if name}
    fields: dict[str, Any] = {name: SAFE.get(name, VALUE) for name in names}
    if kind is aws.WaiterError:
        fields["last_response"] = {}
    return kind(**fields)


def said_of(error: Exception) -> str:
    """Return the explanation of an error, after checking that it is one line without a password."""
    said = explain(error)
    assert said.isprintable()
    assert said.strip() == said
    assert "hunter2" not in said
    assert "Traceback" not in said
    return said


def refusal(code: str, message: str = "a message\nin lines", call: str = "ReceiveMessage") -> ClientError:
    """Return the exception that a call raises if AWS refuses it."""
    return ClientError({"Error": {"Code": code, "Message": message}}, call)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_botocore_becomes_one_line_without_a_password(kind: type[BotoCoreError]) -> None:
    """A rare failure would print many lines, or show the password of a proxy."""
    assert len(said_of(one_of(kind))) > 10


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        (
            {
                aws.SSOError,
                aws.SSOTokenLoadError,
                aws.UnauthorizedSSOTokenError,
                aws.LoginError,
                aws.LoginRefreshRequired,
                aws.LoginTokenLoadError,
                aws.TokenRetrievalError,
                aws.CredentialRetrievalError,
            },
            "log in again",
        ),
        ({aws.NoCredentialsError, aws.PartialCredentialsError}, "--profile"),
        ({aws.ProfileNotFound}, "aws configure list-profiles"),
        ({aws.NoRegionError, aws.InvalidRegionError, aws.UnknownRegionError}, "--region"),
        ({aws.SSLError}, "AWS_CA_BUNDLE"),
        (
            {
                aws.EndpointConnectionError,
                aws.ConnectTimeoutError,
                aws.ReadTimeoutError,
                aws.ConnectionClosedError,
                aws.ProxyConnectionError,
            },
            "check the network",
        ),
    ],
)
def test_an_error_of_botocore_says_what_to_do(kinds: set[type[BotoCoreError]], wanted: str) -> None:
    """An operator would have to look up a message of botocore."""
    for kind in kinds:
        assert wanted in said_of(one_of(kind))


@pytest.mark.parametrize(
    ("codes", "wanted"),
    [
        (SESSION_EXPIRED, "session has expired: log in again"),
        (NOT_ALLOWED, "Not allowed to call ReceiveMessage: ask for the permissions"),
        (NOT_KNOWN, "doesn't know these credentials: log in again"),
        (BUSY, "repeat the command in a minute"),
        (
            {
                "QueueDoesNotExist",
                "AWS.SimpleQueueService.NonExistentQueue",
                "AWS.SimpleQueueService.QueueDoesNotExist",
            },
            "was it deleted by hand?",
        ),
        ({"KMS.DisabledException", ""}, "AWS refused ReceiveMessage: "),
    ],
)
def test_a_refusal_of_aws_says_what_to_do(codes: set[str], wanted: str) -> None:
    """An operator would read an error code without advice."""
    for code in codes:
        assert wanted in said_of(refusal(code))


def test_a_missing_permission_keeps_the_message_of_aws() -> None:
    """An operator would not learn which permission to ask for."""
    said = said_of(refusal("AccessDenied", "User: arn:u is not authorized to perform: sqs:ReceiveMessage"))
    assert "arn:u is not authorized to perform: sqs:ReceiveMessage" in said
    assert "a message in lines" in said_of(refusal("Other"))


@pytest.mark.parametrize("code", sorted(NOT_KNOWN | SESSION_EXPIRED))
def test_a_refused_signature_does_not_show_the_message_of_aws(code: str) -> None:
    """A token that AWS quotes would end up in the log of a terminal."""
    assert "signed-token" not in said_of(refusal(code, "The Canonical String should have been signed-token"))


def test_a_refusal_without_a_code_is_explained() -> None:
    """A refusal by a proxy would end in a traceback."""
    assert "AWS refused ReceiveMessage" in said_of(ClientError({}, "ReceiveMessage"))


def test_an_answer_that_is_not_from_aws_points_to_the_endpoint_url() -> None:
    """A login page in place of AWS would print pages of HTML."""
    assert said_of(ResponseParserError("invalid XML:\n<html>hunter2</html>")).endswith("check AWS_ENDPOINT_URL.")


@pytest.mark.parametrize("call", ["AssumeRoleWithWebIdentity", "GetRoleCredentials"])
def test_a_refused_token_does_not_show_the_message_of_aws(call: str) -> None:
    """A token that somebody else quotes would end up in the log of a terminal."""
    assert "signed-token" not in said_of(refusal("Other", "signed-token is not valid", call))


def test_an_unknown_error_shows_its_type_only() -> None:
    """The text of an error that nobody foresaw could hold a secret."""
    assert said_of(LookupError("hunter2")).startswith("Unexpected LookupError: ")


@dataclass(frozen=True)
class Machine:
    """A machine without AWS configuration, whose endpoint of AWS is a closed port."""

    home: Path
    patch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture

    def write_profile(self, file: str, **values: str) -> None:
        """Write the default profile to a file."""
        profiles = configparser.RawConfigParser()
        profiles["default"] = values
        with (self.home / file).open("w") as text:
            profiles.write(text)

    def failure(self, words: Iterable[str]) -> str:
        """Return the sentence with which a command fails; none of its output has 8 characters of a credential."""
        status = main(list(words))
        out, err = self.capsys.readouterr()
        secret = {key for value in KEYS.values() for key in (value, base64.b64encode(value.encode()).decode())}
        parts = {key[at : at + 8] for key in secret for at in range(len(key) - 7)}
        assert not [part for part in parts if part in out + err + self.caplog.text], (words, out, err)
        assert (status, out, err.count("\n")) == (2, "", 1), (words, err)
        return err


@pytest.fixture
def machine(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Machine:
    """Return a machine without AWS configuration."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    return Machine(tmp_path, monkeypatch, capsys, caplog)


def every_command(group: click.Group = relay, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield each command that calls AWS, with and without --json."""
    for name, command in group.commands.items():
        words = (*path, name)
        if isinstance(command, click.Group):
            yield from every_command(command, words)
        elif name != "completion":
            yield (*words, *NEEDS.get(words, ()))
            if any("--json" in parameter.opts for parameter in command.params):
                yield (*words, "--json", *NEEDS.get(words, ()))


def in_environment(machine: Machine, keys: dict[str, str]) -> None:
    """Put credentials into the environment."""
    for name, value in keys.items():
        machine.patch.setenv(name, value)


def in_profile(machine: Machine, keys: dict[str, str]) -> None:
    """Put credentials into the shared credentials file."""
    machine.write_profile("credentials", **{name.lower(): value for name, value in keys.items()})


def from_process(machine: Machine, keys: dict[str, str], **more: str) -> None:
    """Let a program print credentials."""
    names = "AccessKeyId", "SecretAccessKey", "SessionToken"
    document = {"Version": 1, **dict(zip(names, keys.values(), strict=True)), **more}
    (machine.home / "printed").write_text(json.dumps(document))
    machine.write_profile("config", credential_process=f"cat {machine.home / 'printed'}")


@pytest.mark.parametrize(
    ("put", "bad", "says"),
    [
        (in_environment, ("{}\n{}", "{}{}\n", "{}\r{}", "{}{}\r", "{}\xe9{}", "{}\udcff{}"), "^Check NAME: the "),
        # A carriage return ends a line of the file, so that the file is not valid.
        (in_profile, ("{}\n{}", "{}\0{}", "{}\xe9{}"), r"^Check profile 'default' \(shared-credentials-file\): the "),
        (in_profile, ("{}\r{}",), r"^Unable to parse config file '.+/credentials'"),
        (
            from_process,
            ("{}\n{}", "{}{}\n", "{}\r{}", "{}{}\r", "{}\0{}", "{}\u20ac{}"),
            r"^Check .+ \(custom-process\): ",
        ),
    ],
    ids=["environment", "profile", "broken-profile", "process"],
)
def test_credentials_that_no_request_can_hold_are_named_and_not_shown(
    machine: Machine, put: Callable[[Machine, dict[str, str]], None], bad: tuple[str, ...], says: str
) -> None:
    """A line break in a session token would print the token, on a screen or in the log of a job."""
    for one, name in itertools.product(bad, KEYS):
        put(machine, {**KEYS, name: one.format(KEYS[name][:12], KEYS[name][12:])})
        for words in every_command():
            assert re.search(says.replace("NAME", name), machine.failure(words))


def test_new_credentials_are_checked(machine: Machine) -> None:
    """A command that runs for hours would print the token that it got last."""
    soon = {"Expiration": (datetime.now(UTC) + timedelta(minutes=5)).isoformat()}  # botocore gets new ones at each use
    stack = Stack("relay", region="eu-west-1")
    from_process(machine, KEYS, **soon)
    stack.client("sqs")
    from_process(machine, {**KEYS, "AWS_SESSION_TOKEN": "one\n"}, **soon)
    with pytest.raises(CommandError, match=r"custom-process.+session token"):
        stack.client("sqs")


@pytest.mark.parametrize(
    "url",
    [
        "operator:hunter2@127.0.0.1",
        "http://operator:hunter2@[::1",
        "http://operator:hunter2/3@127.0.0.1:1",
        "http://operator:hunter2@127.0.0.1:hunter2",
        "http://operator:hunter2@127.0.0.1:1/hunter2?hunter2",
    ],
)
def test_an_endpoint_does_not_show_its_password(machine: Machine, url: str) -> None:
    """A password in AWS_ENDPOINT_URL would end up in the log of a terminal."""
    in_environment(machine, {**KEYS, "AWS_ENDPOINT_URL": url})
    said = machine.failure(["doctor"])
    assert "AWS_ENDPOINT_URL" in said
    assert "hunter2" not in said


def by_role(machine: Machine, token: str) -> None:
    """Let credentials with this session token take a role."""
    role = {"role_arn": ROLE, "source_profile": "default"}
    in_profile(machine, {**KEYS, "AWS_SESSION_TOKEN": token, **role})


def from_container(machine: Machine, token: str) -> None:
    """Let a container's endpoint give credentials for this token."""
    url = "http://127.0.0.1:1/credentials"
    in_environment(machine, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": token})


def by_web_identity(machine: Machine, token: str) -> None:
    """Let a file with this token take a role."""
    file = machine.home / "token"
    file.write_bytes(token.encode(errors="surrogateescape"))
    in_environment(machine, {"AWS_WEB_IDENTITY_TOKEN_FILE": str(file), "AWS_ROLE_ARN": ROLE})


@pytest.mark.parametrize(
    ("put", "bad", "says"),
    [
        (by_role, ("{}\n{}",), "(HTTPClientError): check profile 'default' (assume-role)."),
        (from_container, ("{}\n{}", "{}{}\r", "{}\u20ac{}"), "profile 'default', AWS_CONTAINER_AUTHORIZATION_TOKEN."),
        (by_web_identity, ("{}\udcff{}",), "check profile 'default' (assume-role-with-web-identity)."),
        # AWS accepts a file that ends with a line break. No header holds it.
        (by_web_identity, ("{}\r\n\0\xe9{}\n",), "Can't reach AWS"),
    ],
    ids=["role", "container", "broken-web-identity", "web-identity"],
)
def test_a_token_that_gets_credentials_is_not_shown(
    machine: Machine, put: Callable[[Machine, str], None], bad: tuple[str, ...], says: str
) -> None:
    """A line break in the token of a role or a container would print the token."""
    token = KEYS["AWS_SESSION_TOKEN"]
    for one in bad:
        put(machine, one.format(token[:12], token[12:]))
        for words in every_command():
            assert says in machine.failure(words)


@contextlib.contextmanager
def answering(status: int, body: Callable[[Mapping[str, str]], str]) -> Iterator[str]:
    """Yield the URL of a server that answers each request with a body made of its headers."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body(dict(self.headers)).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("header", ["Authorization", "X-Amz-Security-Token"])
def test_a_refusal_that_quotes_the_request_is_not_shown(machine: Machine, header: str) -> None:
    """An answer that repeats a header would print the key id and the signature, or the session token."""
    in_environment(machine, KEYS)
    refused = "<R><Error><Code>Odd</Code><Message>not valid: {}</Message></Error></R>"
    with answering(403, lambda headers: refused.format(headers[header])) as url:
        machine.patch.setenv("AWS_ENDPOINT_URL", url)
        said = machine.failure(["doctor"])
    assert said.startswith("AWS refused DescribeStacks: Odd: (not shown")


def test_an_unexpected_error_names_its_place_only(machine: Machine) -> None:
    """A traceback would show the text of an error that nobody foresaw."""
    in_environment(machine, KEYS)
    nothing = "<R><DescribeStacksResult><Stacks/></DescribeStacksResult></R>"
    with answering(200, lambda _: nothing) as url:
        machine.patch.setenv("AWS_ENDPOINT_URL", url)
        said = machine.failure(["doctor"])
    assert re.match(r"Unexpected IndexError \(.+/ops/stack\.py:\d+\): ", said)
