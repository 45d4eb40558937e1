"""Errors that end a command, each as one sentence that says what to do."""

import re

import click
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from flash_call_relay.models import error_code

EXPLAINED = (aws.BotoCoreError, aws.ClientError, ResponseParserError, UnicodeEncodeError)

SESSION_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
NOT_ALLOWED = {
    *("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "Unauthorized"),
    "KMS.AccessDeniedException",  # by SQS, for the key of a queue
}
NOT_KNOWN = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
BUSY = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "RequestThrottled"}

LOG_IN = "log in again (`aws sso login` or `aws login`)"
SENTENCES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (aws.NoCredentialsError, aws.PartialCredentialsError),
        "No AWS credentials: log in (`aws sso login` or `aws login`), or name a profile with --profile.",
    ),
    ((aws.NoRegionError,), "No AWS region: name one with --region, or set AWS_REGION."),
    ((aws.InvalidRegionError, aws.UnknownRegionError), "{error}: name another with --region."),
    ((aws.ProfileNotFound,), "{error}: see `aws configure list-profiles`."),
    (
        (aws.SSOError, aws.LoginError, aws.TokenRetrievalError, aws.CredentialRetrievalError),
        f"The AWS session has expired or can't be read: {LOG_IN}.",
    ),
    ((aws.SSLError,), "The certificate of AWS is not trusted: check AWS_CA_BUNDLE. {error}"),
    (
        (aws.HTTPClientError, aws.ConnectionError),
        "Can't reach AWS: check the network, the region and AWS_ENDPOINT_URL. {error}",
    ),
    ((ResponseParserError,), "The answer did not come from AWS: check AWS_ENDPOINT_URL."),
)
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


def explain(error: Exception) -> str:
    """Return an error as one line that says what to do."""
    if isinstance(error, CommandError):
        return str(error)
    line = " ".join(_sentence(error).split())
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", line)  # AWS_ENDPOINT_URL may hold a password


def _sentence(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, aws.ClientError):
        return _refusal(error)
    if isinstance(error, UnicodeEncodeError):  # an argument of the command holds bytes of another encoding
        return f"{error.object!r} is not valid text."
    for kinds, sentence in SENTENCES:
        if isinstance(error, kinds):
            return sentence.format(error=str(error).rstrip("."))
    return f"{type(error).__name__}: {error}"


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
    message = error.response.get("Error", {}).get("Message", "")
    other = "AWS refused {call}: {code}: {message}"
    sentence = next((sentence for codes, sentence in REFUSALS if code in codes), other)
    return sentence.format(call=call, code=code, message=message)
