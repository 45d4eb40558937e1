"""Errors of AWS and boto3 become one line that names the cause, and shows no credential."""

import base64
import json
import shlex
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as aws
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from local import ROOT
from ops.errors import explain
from tests.support.operator import in_this_process

Failure = Callable[..., str]

# A message of botocore can hold an address with a password, and line breaks.
VALUE = "https://operator:hunter2@proxy.example:8080/path\n  and {more}"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAZ4XJ7Q2MWN5RTUVB",
    "AWS_SECRET_ACCESS_KEY": "pE5+cXq8/Wm3Zt7LrVd2Ks9Jf4Gh6Nb1Qa0Yx/Uo",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjEJz/7vR2nqL9Xk4TgWb8Ym3Hs6Pd0Fc5",
}
ROLE = "arn:aws:iam::111122223333:role/operator"
CANONICAL = "does not match. Check your key.\n\nThe Canonical String should have been signed-token"


def one_of(kind: type[BotoCoreError], **fields: Any) -> BotoCoreError:
    """Return an exception of this kind with a bad value in each other field."""
    names = {name for _, name, _, _ in string.Formatter().parse(kind.fmt) if name}
    return kind(**{**dict.fromkeys(names, VALUE), **fields})


def said_of(error: Exception) -> str:
    """Return the explanation of an error, after checking that it is one line without a password."""
    said = explain(error)
    assert said.isprintable()
    assert said.strip() == said
    assert "hunter2" not in said
    return said


def refusal(code: str, message: str = "", call: str = "ReceiveMessage") -> ClientError:
    """Return a refusal of AWS."""
    return ClientError({"Error": {"Code": code, "Message": message}}, call)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (one_of(aws.UnauthorizedSSOTokenError), "log in again"),
        (one_of(aws.CredentialRetrievalError, provider="iam-role", error_msg="hunter2"), "credentials can't be read: "),
        (one_of(aws.InvalidIMDSEndpointError), "https://***@proxy.example:8080/path and {more}: check the AWS"),
        (one_of(aws.ProxyConnectionError), "network, the region and AWS_ENDPOINT_URL. proxy.example: "),
        (one_of(aws.SSLError), "AWS_CA_BUNDLE. proxy.example: "),
        (one_of(aws.HTTPClientError, error=ValueError("Invalid header value b'hunter2'")), "check the credentials"),
        (ResponseParserError("invalid XML:\n<html>hunter2</html>"), "did not come from AWS: check AWS_ENDPOINT_URL."),
        (LookupError("hunter2"), "Unexpected LookupError: "),
        # A wrong clock.
        (refusal("SignatureDoesNotMatch", "Signature expired: 1"), "The clock of this machine is wrong: set"),
        (refusal("InvalidSignatureException", "not yet current: 2"), "The clock of this machine is wrong: set"),
        (refusal("RequestExpired"), "The clock of this machine is wrong, or the AWS session has expired"),
        # Credentials.
        (refusal("ExpiredToken"), "The AWS session has expired: log in again"),
        (refusal("InvalidClientTokenId", "The token is"), "enable the region for the account. AWS says: The token is"),
        (refusal("SignatureDoesNotMatch", CANONICAL), "secret access key and the proxy. AWS says: does not match."),
        (refusal("ExpiredToken", "hunter2", "GetRoleCredentials"), "AWS says: (not shown"),
        # Anything else.
        (refusal("AWS.SimpleQueueService.NonExistentQueue"), "AWS refused ReceiveMessage: NonExistentQueue."),
        (refusal("KMS.DisabledException", "two\nlines"), "ReceiveMessage: KMS.DisabledException. AWS says: two lines"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_says_what_to_do(error: Exception, wanted: str) -> None:
    """An operator would look for the wrong cause, or set the wrong thing right."""
    said = said_of(error)
    assert wanted in said
    assert "signed-token" not in said


@pytest.fixture
def failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Failure:
    """Return a function that runs a command with these settings, and returns the sentence of its failure.

    Settings in lower case stand in the AWS profile, others in the environment. AWS's endpoint is a closed port.
    """
    usual = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_REGION": "eu-west-1",
    }

    def run(settings: Mapping[str, str], *words: str) -> str:
        profile = [f"{name} = {value}\n" for name, value in settings.items() if name.islower()]
        (tmp_path / "config").write_text("".join(["[default]\n", *profile]))
        with monkeypatch.context() as patch:
            for name, value in {**usual, **settings}.items():
                if name.isupper():
                    patch.setenv(name, value)
            ended = in_this_process(*words or ("doctor",))
        secret = {key for value in KEYS.values() for key in (value, base64.b64encode(value.encode()).decode())}
        parts = {key[at : at + 8] for key in secret for at in range(len(key) - 7)} | {"hunter2"}
        assert not [part for part in parts if part in ended.out + ended.err + caplog.text], settings
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), settings
        return ended.err

    return run


@pytest.mark.parametrize(
    ("settings", "words", "says"),
    [
        ({"AWS_REGION": ""}, "doctor", "You must specify a region: check the AWS configuration, --region and"),
        ({"AWS_REGION": "eu west"}, "pause", "check the AWS configuration, --region"),
        ({}, "--profile none doctor", "The config profile (none) could not be found: check the AWS"),
        ({"AWS_CONFIG_FILE": str(ROOT / "README.md")}, "doctor", "Unable to parse config file: "),
        ({}, "--stack \udcff parked list", "is not valid text"),
        ({"AWS_ENDPOINT_URL": "operator:hunter2@127.0.0.1"}, "doctor", "is not a URL: check AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://a:hunter2/3@127.0.0.1:1"}, "doctor", "check AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://a:hunter2@127.0.0.1:hunter2"}, "doctor", "check AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://a:hunter2@127.0.0.1:1/hunter2?hunter2"}, "doctor", "Can't reach AWS: check the"),
    ],
)
def test_a_wrong_setting_is_named(failure: Failure, settings: dict[str, str], words: str, says: str) -> None:
    """An operator would read a traceback, or a password of the endpoint would be in the log of a terminal."""
    assert says in failure({**KEYS, **settings}, *shlex.split(words))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "Unable to locate credentials: log in again"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token"}, "(No such file or directory: /nowhere/token)"),
        ({"credential_process": "/nowhere/program"}, "(No such file or directory: /nowhere/program)"),
        ({"credential_process": "echo hello"}, "(JSONDecodeError): check"),
        ({"credential_process": "sh -c 'echo my own words >&2; exit 3'"}, "custom-process: my own words: check"),
        ({"role_arn": ROLE, "source_profile": "gone"}, 'The source_profile "gone" referenced in the profile'),
    ],
)
def test_credentials_that_cannot_be_read_have_their_own_cause(
    failure: Failure, settings: dict[str, str], says: str
) -> None:
    """An operator would log in again, or check the output or the URL, because of a mistyped file name."""
    assert says in failure({**settings, "AWS_ROLE_ARN": ROLE})


@pytest.mark.parametrize("bad", ["{}\n{}", "{}{}\r", "{}\xe9{}", "{}\udcff{}", "{}\u20ac{}"])
@pytest.mark.parametrize("name", KEYS)
def test_credentials_that_no_request_can_hold_are_not_shown(
    failure: Failure, tmp_path: Path, name: str, bad: str
) -> None:
    """A line break in a session token would print the token, on a screen or in the log of a job."""
    keys = {**KEYS, name: bad.format(KEYS[name][:12], KEYS[name][12:])}
    assert failure(keys)  # after a check that it shows none
    names = "AccessKeyId", "SecretAccessKey", "SessionToken"
    printed = json.dumps({"Version": 1, **dict(zip(names, keys.values(), strict=True))})
    (tmp_path / "printed").write_text(printed)
    assert failure({"credential_process": f"cat {tmp_path / 'printed'}"})


def test_a_refusal_that_quotes_the_request_is_not_shown(failure: Failure) -> None:
    """An answer that repeats a header would print the key id and the signature, or the session token."""
    failure(KEYS)  # which reads the credentials
    signature = "AWS4-HMAC-SHA256 Credential=AKIA/20261124/eu-west-1, Signature=1f2e3d"
    for quoted in (*KEYS.values(), signature, signature.partition(", ")[0], signature.partition(", ")[2]):
        said = said_of(refusal("Odd", f"not valid: {quoted}"))
        assert said == "AWS refused ReceiveMessage: Odd. AWS says: (not shown, since it may hold credentials)"
