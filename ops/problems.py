"""What goes wrong, in one sentence that says what to do about it."""

import re

from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

Explained = aws.BotoCoreError | aws.ClientError | ResponseParserError | UnicodeEncodeError
EXPLAINED = (aws.BotoCoreError, aws.ClientError, ResponseParserError, UnicodeEncodeError)

SESSION_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
NOT_ALLOWED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "Unauthorized"}
NOT_KNOWN = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
BUSY = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "RequestThrottled"}


class Problem(Exception):  # noqa: N818 - the person's, who may have done nothing wrong
    """The command can't go on. The message is for the person, and says what to do."""


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
    ((aws.SSLError,), "AWS's certificate isn't trusted: is AWS_CA_BUNDLE right? {error}"),
    (
        (aws.HTTPClientError, aws.ConnectionError),
        "Can't reach AWS: check the network, the region and AWS_ENDPOINT_URL. {error}",
    ),
)


def explain(error: Explained) -> str:
    """Return what AWS or its library complains about, as one line with the way out."""
    line = " ".join(_sentence(error).split())
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", line)  # who sets AWS_ENDPOINT_URL may put a password in it


def _sentence(error: Explained) -> str:
    if isinstance(error, aws.ClientError):
        return _refusal(error)
    if isinstance(error, ResponseParserError):
        return "Whoever answers is not AWS: is AWS_ENDPOINT_URL right?"
    if isinstance(error, UnicodeEncodeError):  # of bytes among the arguments
        return f"{error.object!r} is no text."
    for kinds, sentence in SENTENCES:
        if isinstance(error, kinds):
            return sentence.format(error=str(error).rstrip("."))
    return f"{type(error).__name__}: {error}"


def _refusal(error: aws.ClientError) -> str:
    fault = error.response.get("Error", {})
    code, said, call = fault.get("Code", ""), fault.get("Message", ""), error.operation_name
    code = code.removeprefix("AWS.SimpleQueueService.")
    if code in SESSION_EXPIRED:
        return f"The AWS session has expired: {LOG_IN}."
    if code in NOT_ALLOWED:
        return f"Not allowed to call {call}: ask for the permissions in docs/operating.md. AWS says: {said}"
    if code in NOT_KNOWN:
        return "AWS doesn't know these credentials: log in again, or name another --profile."
    if code in BUSY:
        return f"AWS has too much to do ({call}: {code}): repeat the command in a minute."
    if code in {"QueueDoesNotExist", "NonExistentQueue"}:
        return "The queue that the stack names does not exist (any more): was it deleted by hand?"
    return f"AWS refuses {call}: {code}: {said}"
