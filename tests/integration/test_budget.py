"""The time reserved at the end of an invocation covers the slowest calls to AWS."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay import budget, handler
from tests.support.template import template

NOISE_S = 20  # a test machine can pause for seconds
CALLS = {
    "sqs": (handler.AWS_CLIENTS, budget.AWS_CALL, "list_queues", {}),
    "secretsmanager": (handler.AWS_CLIENTS, budget.AWS_CALL, "get_secret_value", {"SecretId": "none"}),
    "dynamodb": (handler.DYNAMODB, budget.LEDGER_CALL, "list_tables", {}),
    "events": (handler.EVENTBRIDGE, budget.EVENTS_CALL, "list_rules", {}),
}


class StallingHandler(BaseHTTPRequestHandler):
    """Throttles the first call just before its read time-out and asks for a minute's wait; then stays silent."""

    server: "StallingServer"

    def do_POST(self) -> None:
        """Stall."""
        self.server.asked.append(time.monotonic())
        if len(self.server.asked) > 1:
            self.server.over.wait(NOISE_S)
            return
        time.sleep(self.server.stall_s)
        body = b'{"__type": "ThrottlingException"}'
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amz-retry-after", "60000")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class StallingServer(ThreadingHTTPServer):
    """A server that stalls each call."""

    daemon_threads = True

    def __init__(self, stall_s: float) -> None:
        super().__init__(("127.0.0.1", 0), StallingHandler)
        self.stall_s, self.asked, self.over = stall_s, list[float](), threading.Event()


def error_of_stalled_call(service: str, server: StallingServer) -> BaseException | None:
    """Make a call that the server stalls; return its error, within the call's worst case."""
    config, call, operation, arguments = CALLS[service]
    make: Any = boto3.client
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-central-1"}
    client = make(service, endpoint_url=f"http://127.0.0.1:{server.server_port}", config=config, **keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with ThreadPoolExecutor(1) as caller:
            return caller.submit(getattr(client, operation), **arguments).exception(call.worst + NOISE_S)
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


def test_a_call_to_a_silent_service_ends_within_its_worst_case() -> None:
    """Lambda would kill the function while it hides or parks, and its whole batch would come back."""
    servers = {service: StallingServer(call.read * 0.8) for service, (_, call, *_) in CALLS.items()}
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(error_of_stalled_call, servers, servers.values()))
    for error, (service, server) in zip(errors, servers.items(), strict=True):
        assert isinstance(error, ClientError | BotoCoreError)
        assert len(server.asked) == CALLS[service][1].attempts
        # botocore waited as the reply asked, up to its own limit of 5 s, which the worst case includes.
        assert all(later - earlier >= server.stall_s + 5 for earlier, later in pairwise(server.asked))


def test_the_parts_of_the_budget_fit_the_functions_timeout() -> None:
    """The parts of an invocation would take longer than Lambda gives the function."""
    timeout_s = template()["Resources"]["RelayFunction"]["Properties"]["Timeout"]
    longest_attempt_s = template()["Parameters"]["RequestTimeoutSeconds"]["MaxValue"]
    assert budget.AWS_CALL.worst == 2 * (1 + 2) + 1 + 5
    assert budget.SETTLE_S == budget.CALLS_S + budget.LAST_CALL_S
    # The ledger read, a slow fetch of the secret, and the longest attempt.
    assert budget.LEDGER_S + budget.AWS_CALL.worst + longest_attempt_s <= timeout_s - budget.SETTLE_S


def test_a_third_attempt_makes_the_worst_case_longer() -> None:
    """A change could give botocore a third attempt without a longer worst case."""
    assert budget.Call(1, 2, attempts=3).worst == 3 * (1 + 2) + (1 + 5) + (2 + 5)
    for config, call, *_ in CALLS.values():
        assert isinstance(config, Config)
        known: Any = config
        assert (known.connect_timeout, known.read_timeout) == (call.connect, call.read)
