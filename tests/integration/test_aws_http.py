"""botocore's requests over the relay's own connections."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from flash_call_relay import handler
from flash_call_relay.aws_http import use_kept_connections
from flash_call_relay.budget import Call
from local.endpoint.behaviour import answer, drip_body, error, in_turn, reset
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from local.processes import wait_until
from tests.support.relay import KEY, PATIENCE_S, USER, failing_service

FOUND: dict[str, Any] = {"Responses": {"table": []}}
ASKED = {"RequestItems": {"table": {"Keys": [{"uuid": {"S": "call"}}]}}}


def client(url: str, read_s: float = PATIENCE_S) -> Any:
    """Return a client of DynamoDB at this URL, as the handler makes it."""
    make: Any = boto3.Session().client
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-central-1"}
    made = make("dynamodb", endpoint_url=url, config=handler.DYNAMODB, **keys)
    use_kept_connections(made, Call(connect=0.0, read=read_s))
    return made


@pytest.fixture
def dynamodb() -> Iterator[StandIn]:
    """Run a server that finds nothing."""
    with StandIn(api_key=KEY, user_id=USER) as server:
        server.override(answer(200, FOUND))
        yield server


def url_of(server: StandIn) -> str:
    """Return the server's URL without the webhook's path."""
    return server.url.removesuffix(WEBHOOK_PATH)


def open_files() -> int:
    """Return how many files this process has open, the server's sockets too."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_calls_share_a_connection(dynamodb: StandIn) -> None:
    """Each call would cost a TLS handshake."""
    caller = client(url_of(dynamodb))
    for _ in range(3):
        assert caller.batch_get_item(**ASKED)["Responses"] == {"table": []}
    assert dynamodb.connections == 1
    headers = [{name.lower(): value for name, value in one.headers} for one in dynamodb.requests]
    assert {one["x-amz-target"] for one in headers} == {"DynamoDB_20120810.BatchGetItem"}
    assert {one["user-agent"].partition("/")[0] for one in headers} == {"flash-call-relay"}
    assert {one["accept-encoding"] for one in headers} == {"identity"}
    assert all(one["authorization"].startswith("AWS4-HMAC-SHA256 ") for one in headers)


@pytest.mark.parametrize(
    "failure",
    [
        reset(),
        error(500),
        answer(200, FOUND, headers={"Content-Length": "2"}),
        answer(200, b"-%s\r\n{}" % (b"f" * 20), headers={"Transfer-Encoding": "chunked"}),
    ],
    ids=["reset", "HTTP 500", "two lengths", "chunk far below 0"],
)
def test_botocore_repeats_a_failed_request(dynamodb: StandIn, failure: Any) -> None:
    """A connection that the service closed during a quiet minute would cost the ledger's read."""
    caller = client(url_of(dynamodb))
    caller.batch_get_item(**ASKED)
    dynamodb.override(in_turn(failure, answer(200, FOUND)))
    assert caller.batch_get_item(**ASKED)["Responses"] == {"table": []}


def test_a_reply_that_drips_ends_in_time(dynamodb: StandIn) -> None:
    """Each byte would extend the call, and the invocation could not tell when its ledger is done."""
    dynamodb.override(drip_body(0.05))
    caller = client(url_of(dynamodb), read_s=0.2)
    with pytest.raises(ReadTimeoutError):
        caller.batch_get_item(**ASKED)


def test_a_failed_call_leaves_no_open_socket(dynamodb: StandIn) -> None:
    """An outage of DynamoDB would use up the function's file descriptors."""
    dynamodb.override(drip_body(0.05))
    caller = client(url_of(dynamodb), read_s=0.1)
    before = open_files()
    failures = []
    for _ in range(3):
        with pytest.raises(ReadTimeoutError) as failure:
            caller.batch_get_item(**ASKED)
        failures.append(failure)  # keeps the traceback, and what it refers to
    assert wait_until(lambda: open_files() <= before, PATIENCE_S), "the server's ends close a moment later"


def test_a_failure_has_botocores_exception() -> None:
    """Botocore would not repeat the call, and the log would name an error that AWS's documentation does not know."""
    with failing_service("unreachable") as url, pytest.raises(EndpointConnectionError):
        client(url).batch_get_item(**ASKED)
    with failing_service("throttled") as url, pytest.raises(ClientError, match="ThrottlingException"):
        client(url).batch_get_item(**ASKED)
