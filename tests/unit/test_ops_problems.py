"""What AWS or its library complains about becomes one line that says what to do."""

import string
from collections.abc import Iterator
from typing import Any

import pytest
from botocore import exceptions as aws
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ops.problems import BUSY, NOT_ALLOWED, NOT_KNOWN, SESSION_EXPIRED, Explained, explain

# What may stand in a message of botocore's: an address with a password, in several lines.
VALUE = "https://operator:hunter2@proxy.example:8080/path\n  and {more}"


def kinds(of: type[BotoCoreError] = BotoCoreError) -> Iterator[type[BotoCoreError]]:
    """All that botocore raises of its own."""
    yield of
    for kind in of.__subclasses__():
        if kind.__module__ == "botocore.exceptions":
            yield from kinds(kind)


KINDS = sorted(set(kinds()), key=lambda kind: kind.__name__)


def one_of(kind: type[BotoCoreError]) -> BotoCoreError:
    """An exception of this kind whose every field is as bad as it can be."""
    names = {name for _, name, _, _ in string.Formatter().parse(kind.fmt) if name}
    fields: dict[str, Any] = dict.fromkeys(names, VALUE)
    if kind is aws.WaiterError:
        fields["last_response"] = {}
    return kind(**fields)


def said_of(error: Explained) -> str:
    """What the operator reads: one line, without a password."""
    said = explain(error)
    assert said.isprintable()
    assert said.strip() == said
    assert "hunter2" not in said
    assert "Traceback" not in said
    return said


def refusal(code: str, message: str = "AWS's words\nin lines") -> ClientError:
    """What a call refused by AWS raises."""
    return ClientError({"Error": {"Code": code, "Message": message}}, "ReceiveMessage")


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_botocore_is_one_line(kind: type[BotoCoreError]) -> None:
    """A rare trouble would end in lines of noise, or show the password of a proxy."""
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
def test_the_way_out_is_named(kinds: set[type[BotoCoreError]], wanted: str) -> None:
    """The operator would have to look up what botocore means."""
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
        ({"KMS.DisabledException", ""}, "AWS refuses ReceiveMessage: "),
    ],
)
def test_what_aws_refuses(codes: set[str], wanted: str) -> None:
    """The operator would read a code instead of what to do."""
    for code in codes:
        assert wanted in said_of(refusal(code))


def test_the_words_of_aws_are_kept_where_they_help() -> None:
    """The operator could not tell which permission to ask for."""
    said = said_of(refusal("AccessDenied", "User: arn:u is not authorized to perform: sqs:ReceiveMessage"))
    assert "arn:u is not authorized to perform: sqs:ReceiveMessage" in said
    assert "AWS's words in lines" in said_of(refusal("Other"))


@pytest.mark.parametrize("code", sorted(NOT_KNOWN | SESSION_EXPIRED))
def test_what_was_signed_is_not_shown(code: str) -> None:
    """A signature or a token that AWS quotes would end up in a terminal's log."""
    assert "signed-token" not in said_of(refusal(code, "The Canonical String should have been signed-token"))


def test_an_answer_without_a_fault() -> None:
    """A proxy's refusal would end in a traceback."""
    assert "AWS refuses ReceiveMessage" in said_of(ClientError({}, "ReceiveMessage"))


def test_who_is_not_aws() -> None:
    """A login page in place of AWS would be shown as pages of HTML."""
    assert said_of(ResponseParserError("invalid XML:\n<html>hunter2</html>")).endswith("is AWS_ENDPOINT_URL right?")
