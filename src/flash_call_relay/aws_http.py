"""Carry a boto3 client's requests over the relay's own kept connections.

botocore still builds, signs and repeats the requests, and reads the replies. But its own HTTP layers take a third of a
small call's CPU (docs/decisions.md), and their time-outs do not bound a whole call.
"""

import functools
import http.client
import os
import ssl
from collections.abc import Iterator
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError, SSLError
from urllib3.util import parse_url

from flash_call_relay.budget import Call
from flash_call_relay.connection import Connections


def use_kept_connections(client: Any, call: Call) -> None:
    """Have a client send its requests over kept connections.

    Args:
        client: a boto3 client of a service that takes each request at one path, as JSON services do. `AWS_CA_BUNDLE`
            names its certificate authorities, as for botocore.
        call: bounds one attempt, its connection included.
    """
    client.meta.events.register("before-send", _Sender(client.meta.endpoint_url, call))


class _Sender:
    def __init__(self, endpoint_url: str, call: Call) -> None:
        self._url, self._timeout_s = parse_url(endpoint_url), call.connect + call.read

    @functools.cached_property
    def _connections(self) -> Connections:
        # Made with the first call, so that a wrong AWS_CA_BUNDLE fails the call and not the function.
        return Connections(self._url, os.environ.get("AWS_CA_BUNDLE"))

    def __call__(self, request: Any, **_: object) -> AWSResponse:
        """Send the request; return the reply. botocore repeats a request after these exceptions."""
        head = [f"POST {self._url.request_uri} HTTP/1.1", f"Host: {self._connections.host_header}"]
        for name, value in request.headers.items():
            head.append(f"{name}: {value.decode() if isinstance(value, bytes) else value}")
        if any(not line.isprintable() for line in head):
            raise ValueError("a header holds a control character")
        data = "\r\n".join([*head, "Accept-Encoding: identity", "", ""]).encode() + request.body
        place: Any = {"endpoint_url": request.url}
        try:
            reply = self._connections.exchange(data, timeout_s=self._timeout_s)
        except TimeoutError as error:
            raise ReadTimeoutError(**place, error=error) from error
        except ssl.SSLError as error:
            raise SSLError(**place, error=error) from error
        except (http.client.HTTPException, ConnectionResetError, BrokenPipeError) as error:
            raise ConnectionClosedError(**place, error=error) from error
        except OSError as error:
            raise EndpointConnectionError(**place, error=error) from error
        headers: Any = reply.headers
        return AWSResponse(request.url, reply.status, headers, _Body(reply.body))


class _Body:
    """The body of a reply, in the shape in which botocore takes it from urllib3."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self._body
