"""Errors of AWS and boto3 become one line that says what to do."""

import string
from collections.abc import Iterator
from typing import Any

import pytest
from botocore import exceptions as aws
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ops.errors import BUSY, NOT_ALLOWED, NOT_KNOWN, SESSION_EXPIRED, explain

# A message of botocore can hold an address with a password, and line breaks.
VALUE = "https://operator:hunter2@proxy.example:8080/path\n  and {more}"


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
    fields: dict[str, Any] = dict.fromkeys(names, VALUE)
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


def refusal(code: str, message: str = "a message\nin lines") -> ClientError:
    """Return the exception that a call raises if AWS refuses it."""
    return ClientError({"Error": {"Code": code, "Message": message}}, "ReceiveMessage")


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
