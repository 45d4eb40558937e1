"""Errors that end a command, each as one sentence that says what to do."""

import errno
import re
import traceback
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import click
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from flash_call_relay.settings import SettingsError
from flash_call_relay.text import error_code

EXPLAINED = (aws.BotoCoreError, aws.ClientError, ResponseParserError, SettingsError, UnicodeEncodeError)
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "Unauthorized")
NOT_ALLOWED = {*DENIED, "KMS.AccessDeniedException"}  # the last by SQS, for the key of a queue
BAD_KEY = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"}
UNSIGNED = {"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException"}
LOG_IN = "log in again (`aws sso login` or `aws login`), or name another --profile"
CHECK = "check the AWS configuration, --region and --profile"
CLOCK = re.compile("Signature expired|not yet current")
REFUSALS = (
    ({"RequestTimeTooSkewed"}, "The clock of this machine is wrong: set it."),
    ({"RequestExpired"}, f"The clock of this machine is wrong, or the AWS session has expired: set it, or {LOG_IN}."),
    ({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}, f"The AWS session has expired: {LOG_IN}."),
    (NOT_ALLOWED, "Not allowed to call {call}: ask for the permissions in docs/operating.md."),
    (BAD_KEY, f"AWS doesn't know these credentials in this region: {LOG_IN}, or enable the region for the account."),
    (UNSIGNED, "AWS doesn't accept the signature: check the secret access key and the proxy."),
)
UNREACHABLE = (aws.ConnectionError, aws.ReadTimeoutError, aws.ConnectionClosedError, aws.ResponseStreamingError)
NEEDS_LOGIN = (aws.NoCredentialsError, aws.SSOError, aws.LoginError, aws.TokenRetrievalError)
GETS_CREDENTIALS = {"AssumeRoleWithWebIdentity", "GetRoleCredentials"}  # from a token in the request
NOT_SHOWN = "(not shown, since it may hold credentials)"


class CommandError(click.ClickException):
    """The command cannot continue. The message says why, and what to do."""


_withheld = {"Credential=", "Signature="}  # of a signed request


def withhold(secrets: Iterable[str]) -> None:
    """Never show a message of AWS that holds one of these credentials. AWS's own have 16 characters or more."""
    _withheld.update(secret for secret in secrets if len(secret) >= 16)


def explain(error: Exception) -> str:
    """Return an error as one line that says what to do."""
    return " ".join(_sentence(error).split())


def cause(error: Exception) -> str:
    """Return the operating system's words for an error, or the name of its type."""
    one: BaseException | None = error
    while one:
        if isinstance(one, OSError) and one.strerror:
            return f"{one.strerror}: {one.filename}" if isinstance(one.filename, str) else one.strerror
        one = one.__context__
    return type(error).__name__


def _sentence(error: Exception) -> str:  # noqa: C901, PLR0911 - a table
    fields: dict[str, Any] = getattr(error, "kwargs", {})
    host = urlsplit(str(fields.get("endpoint_url") or fields.get("proxy_url"))).hostname or "AWS"
    match error:
        case click.ClickException():
            return error.format_message()
        case aws.ClientError():
            return _refusal(error)
        case SettingsError():
            return f"The function has a wrong setting: {error}. See docs/runbook.md#function-errors."
        case aws.SSLError():
            return f"The certificate of AWS is not trusted: check AWS_CA_BUNDLE. {host}: {cause(error)}"
        case _ if isinstance(error, UNREACHABLE):
            return f"Can't reach AWS: check the network, the region and AWS_ENDPOINT_URL. {host}: {cause(error)}"
        case aws.HTTPClientError():  # its text may quote a header, which may hold credentials
            return "A request to AWS can't be made: check the credentials, AWS_ENDPOINT_URL and the proxy."
        case ResponseParserError():
            return "The answer did not come from AWS: check AWS_ENDPOINT_URL."
        case OSError(errno=errno.ENOSPC):
            return "The output can't be written: No space left on device."
        case UnicodeEncodeError():  # an argument holds bytes of another encoding
            return "An argument or a setting is not valid text."
        case aws.BotoCoreError():
            said = re.sub("//[^/@ ]*@", "//***@", " ".join(str(error).split())).rstrip(".")
            if isinstance(error, aws.CredentialRetrievalError) and fields["provider"] != "custom-process":
                said = "The AWS credentials can't be read"  # the text may quote the token that gets them
            return f"{_shown(said)}: {LOG_IN if isinstance(error, NEEDS_LOGIN) else CHECK}."
    where = [f" ({frame.filename}:{frame.lineno})" for frame in traceback.extract_tb(error.__traceback__)[-1:]]
    return f"Unexpected {type(error).__name__}{''.join(where)}: check the AWS configuration, or report this line."


def _shown(text: str) -> str:
    return NOT_SHOWN if any(secret in text for secret in _withheld) else text


def _refusal(error: aws.ClientError) -> str:
    code, call = error_code(error).removeprefix("AWS.SimpleQueueService."), error.operation_name
    said = str(error.response.get("Error", {}).get("Message", "")).partition("The Canonical String")[0].strip()
    code = "RequestTimeTooSkewed" if CLOCK.search(said) else code
    sentence = next((sentence for codes, sentence in REFUSALS if code in codes), "AWS refused {call}: {code}.")
    said = f" AWS says: {NOT_SHOWN if call in GETS_CREDENTIALS else _shown(said)}" if said else ""
    return sentence.format(call=call, code=code) + said
