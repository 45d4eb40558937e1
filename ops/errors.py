"""Errors that end a command, each as one sentence that says what to do."""

import traceback
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import click
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from flash_call_relay.text import error_code

EXPLAINED = (aws.BotoCoreError, aws.ClientError, ResponseParserError, UnicodeEncodeError)

SESSION_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
NOT_ALLOWED = {
    *("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "Unauthorized"),
    "KMS.AccessDeniedException",  # by SQS, for the key of a queue
}
NOT_KNOWN = {
    *("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException"),
}
BUSY = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "RequestThrottled"}

LOG_IN = "log in again (`aws sso login` or `aws login`)"
# The text of an exception can hold credentials: http.client quotes a header that it refuses. So a sentence names the
# fields that it shows, and the text of an exception is never shown.
SENTENCES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (aws.NoCredentialsError, aws.PartialCredentialsError),
        "No AWS credentials: log in (`aws sso login` or `aws login`), or name a profile with --profile.",
    ),
    ((aws.NoRegionError,), "No AWS region: name one with --region, or set AWS_REGION."),
    ((aws.InvalidRegionError, aws.UnknownRegionError), "{region_name!r} is no AWS region: name another with --region."),
    ((aws.ProfileNotFound,), "There is no AWS profile {profile!r}: see `aws configure list-profiles`."),
    ((aws.ConfigParseError, aws.ConfigNotFound), "Unable to parse config file {path!r}: correct it."),
    ((aws.MissingDependencyException,), "botocore needs another library for these credentials: install botocore[crt]."),
    (
        (aws.SSOError, aws.LoginError, aws.TokenRetrievalError, aws.CredentialRetrievalError),
        f"The AWS session has expired or can't be read: {LOG_IN}.",
    ),
    ((aws.SSLError,), "The certificate of AWS is not trusted: check AWS_CA_BUNDLE. {host}: {cause}"),
    (
        (aws.ConnectionError, aws.ReadTimeoutError, aws.ConnectionClosedError, aws.ResponseStreamingError),
        "Can't reach AWS: check the network, the region and AWS_ENDPOINT_URL. {host}: {cause}",
    ),
    ((aws.HTTPClientError,), "A request to AWS can't be made: check the credentials, AWS_ENDPOINT_URL and the proxy."),
    ((ResponseParserError,), "The answer did not come from AWS: check AWS_ENDPOINT_URL."),
    ((UnicodeEncodeError,), "An argument or a setting is not valid text."),  # it holds bytes of another encoding
    ((OSError,), "The output can't be written: {cause}."),
)
GETS_CREDENTIALS = {"AssumeRoleWithWebIdentity", "GetRoleCredentials"}  # from a token in the request
SIGNED = {"Credential=", "Signature="}
REFUSALS = (
    (SESSION_EXPIRED, f"The AWS session has expired: {LOG_IN}."),
    (NOT_ALLOWED, "Not allowed to call {call}: ask for the permissions in docs/operating.md. AWS says: {message}"),
    (NOT_KNOWN, "AWS doesn't know these credentials: log in again, or name another --profile."),
    (BUSY, "AWS throttles {call} ({code}): repeat the command in a minute."),
    ({"QueueDoesNotExist", "NonExistentQueue"}, "The stack's queue does not exist: was it deleted by hand?"),
)


class CommandError(Exception):
    """The command cannot continue. The message says why, and what to do."""


class KeyRefusedError(CommandError):
    """A service cannot use a KMS key for this operator."""


_withheld: set[str] = set()


def withhold(secrets: Iterable[str]) -> None:
    """Never show a message of AWS that holds one of these credentials. AWS's own have 16 characters or more."""
    _withheld.update(secret for secret in secrets if len(secret) >= 16)


def explain(error: Exception) -> str:
    """Return an error as one line that says what to do."""
    return str(error) if isinstance(error, CommandError) else " ".join(_sentence(error).split())


def cause(error: Exception) -> str:
    """Return the operating system's words for an error, or the name of its type."""
    one: BaseException | None = error
    while one:
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
        one = one.__context__
    return type(error).__name__


def _sentence(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, aws.ClientError):
        return _refusal(error)
    for kinds, sentence in SENTENCES:
        if isinstance(error, kinds):
            fields: dict[str, Any] = getattr(error, "kwargs", {})
            host = urlsplit(str(fields.get("endpoint_url") or fields.get("proxy_url"))).hostname or "AWS"
            return sentence.format(**fields, host=host, cause=cause(error))
    where = [f" ({frame.filename}:{frame.lineno})" for frame in traceback.extract_tb(error.__traceback__)[-1:]]
    return f"Unexpected {type(error).__name__}{''.join(where)}: check the AWS configuration, or report this line."


def _usage(error: click.UsageError) -> str:
    """Return click's message with what was expected, the nearest words, or the help to look at."""
    said = error.format_message()
    if isinstance(error, click.NoSuchOption | click.exceptions.NoSuchCommand) and error.possibilities:
        return f"{error.message.rstrip('.')}: did you mean {' or '.join(map(repr, error.possibilities))}?"
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        kind = error.param.type if error.param else None
        whole = isinstance(kind, click.types.IntParamType)
        return f"{said.rpartition(' is not ')[0]} is not {_whole_number(kind)}." if whole else said
    said = said.partition(". Choose from")[0].rstrip(".")
    return f"{said}: see `{error.ctx.command_path} --help`." if error.ctx else f"{said}."


def _whole_number(kind: object) -> str:
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    if most is not None:
        return f"a whole number from {least} to {most}"
    return "a whole number" if least is None else f"a whole number of at least {least}"


def _refusal(error: aws.ClientError) -> str:
    code, call = error_code(error).removeprefix("AWS.SimpleQueueService."), error.operation_name
    message = str(error.response.get("Error", {}).get("Message", ""))
    if call in GETS_CREDENTIALS or any(secret in message for secret in _withheld | SIGNED):
        message = "(not shown, since it may hold credentials)"
    other = "AWS refused {call}: {code}: {message}"
    sentence = next((sentence for codes, sentence in REFUSALS if code in codes), other)
    return sentence.format(call=call, code=code, message=message)
