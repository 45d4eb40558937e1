"""Carry a boto3 client's requests over the relay's own kept connections.

botocore still builds, signs and repeats the requests, and reads the replies. But its own HTTP layers take a third of a
small call's CPU (docs/decisions.md), and their time-outs do not bound a whole call.
"""

import http.client
import os
from collections.abc import Iterator
from typing import Any

import urllib3
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError
from urllib3.util import parse_url

from flash_call_relay.budget import Call
from flash_call_relay.connection import Connections, tls_context


def use_kept_connections(client: Any, call: Call) -> None:
    """Register the sender with a client of a service that takes each request at one path, as JSON services do.

    Args:
        client: of boto3. `AWS_CA_BUNDLE` names its certificate authorities, as for botocore.
        call: bounds one attempt, its connection included.
    """
    client.meta.events.register("before-send", _Sender(client.meta.endpoint_url, call))


class _Sender:
    def __init__(self, endpoint_url: str, call: Call) -> None:
        url = parse_url(endpoint_url)
        tls = tls_context(os.environ.get("AWS_CA_BUNDLE")) if url.scheme == "https" else None
        self._connections, self._timeout_s = Connections(url, tls), call.connect + call.read
        self._head = f"POST {url.request_uri} HTTP/1.1\r\nHost: {self._connections.host_header}\r\n".encode()

    def __call__(self, request: Any, **_: object) -> AWSResponse:
        """Send the request; return the reply. botocore repeats a request after these exceptions."""
        head = bytearray(self._head)
        for name, value in request.headers.items():
            head += b"%s: %s\r\n" % (name.encode(), value if isinstance(value, bytes) else value.encode())
        try:
            reply, body = self._connections.exchange(
                b"%s\r\n%s" % (head, request.body), http.client.HTTPResponse.read, timeout_s=self._timeout_s
            )
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
        except (http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            raise ConnectionClosedError(endpoint_url=request.url, error=error) from error
        except OSError as error:
            raise EndpointConnectionError(endpoint_url=request.url, error=error) from error
        headers: Any = reply.headers
        return AWSResponse(request.url, reply.status, headers, _Body(body))


class _Body:
    """A body that was read, as botocore takes it from urllib3."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self._body
