"""Send one result in one POST, bounded in time and size, and return the endpoint's answer."""

import http.client
import ssl
import time
from dataclasses import replace

import urllib3

from flash_call_relay import __version__, reply
from flash_call_relay.budget import Deadline
from flash_call_relay.connections import Connections, UnfitReplyError
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import FlashCallResult, Reason, Reply
from flash_call_relay.settings import Settings
from flash_call_relay.text import printable


class Webhook:
    """The endpoint. Any number of threads may call `post`; each attempt has a connection to itself."""

    def __init__(self, settings: Settings) -> None:
        url = urllib3.util.parse_url(settings.webhook_url)
        self._path = url.request_uri
        self._connections = Connections(url, settings.request_timeout_seconds, settings.connections_per_function)

    def post(self, result: FlashCallResult, credentials: Credentials, deadline: Deadline, *, kept: bool) -> Reply:
        """Make one attempt, until `deadline` at most; if `kept`, on a connection that is open already.

        A failure of the endpoint or the network raises nothing.

        Raises:
            StaleConnectionError: the connection was open before, and has died. This says nothing of the endpoint.
        """
        began = time.monotonic()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"flash-call-relay/{__version__}",
            "x-api-key": credentials.api_key,
            "x-user-id": credentials.user_id,
        }
        head: urllib3.BaseHTTPResponse | None = None
        try:
            with self._connections.borrow(deadline, kept=kept) as connection:
                # A connection, unlike a pool, follows no redirect and repeats nothing.
                connection.request("POST", self._path, result.as_json(), headers, preload_content=False)
                response = connection.getresponse()
                # http.client skips only the status 100. After another interim reply, the real one would answer the
                # connection's next request.
                if response.status < 200:
                    raise UnfitReplyError("an interim reply")
                head = response
                said = reply.parse(response.status, response.headers, reply.read_body(response), credentials)
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError, OverflowError) as error:
            failure, message = _failure(error)
            wait_s = reply.retry_after_s(head.headers.get("Retry-After"), time.time()) if head else None
            said = Reply(head.status if head else None, message=message, failure=failure, wait_s=wait_s)
        return replace(said, duration_ms=(time.monotonic() - began) * 1000)


_FAILURES: tuple[tuple[type[Exception], Reason, str], ...] = (
    (TimeoutError, Reason.TIMEOUT, "no whole answer in time"),
    (ssl.SSLError, Reason.TLS_FAILED, "TLS failed"),
    (UnfitReplyError, Reason.BAD_REPLY, ""),  # its own words
    (urllib3.exceptions.DecodeError, Reason.BAD_REPLY, "the reply has too many codings"),
    (http.client.RemoteDisconnected, Reason.BAD_REPLY, "no reply"),
    (http.client.IncompleteRead, Reason.BAD_REPLY, "the reply is cut short"),
    (http.client.BadStatusLine, Reason.BAD_REPLY, "the reply is not HTTP"),
    (http.client.HTTPException, Reason.BAD_REPLY, "too many headers, or too long a line"),
    (OSError, Reason.CONNECTION_FAILED, "no connection"),
    (Exception, Reason.BAD_REPLY, "the reply is not HTTP"),  # wrong sizes and lengths
)


def _failure(error: Exception) -> tuple[Reason, str]:
    """Classify an error by the first kind that matches; return what to call it. Quotes nothing of the endpoint."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # urllib3 wraps most errors
    reason, text = next((reason, text) for kind, reason, text in _FAILURES if isinstance(cause, kind))
    words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or ""
    return reason, printable(f"{text or cause} ({type(cause).__name__} {words}".rstrip() + ")")
