"""The time that is kept back at the end of an invocation is enough for the worst that AWS may do to a call."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay import budget, handler
from tests.support.template import template

NOISE_S = 20  # these machines stand still for seconds
CALLS = {
    "sqs": (handler.AWS_CLIENTS, budget.AWS_CALL, "list_queues", {}),
    "secretsmanager": (handler.AWS_CLIENTS, budget.AWS_CALL, "get_secret_value", {"SecretId": "none"}),
    "dynamodb": (handler.DYNAMODB, budget.LEDGER_CALL, "list_tables", {}),
}


class Slow(BaseHTTPRequestHandler):
    """Answers at the last moment that it throttles, and asks for a minute's wait; then says nothing more."""

    server: "Server"

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
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """What stalls."""

    daemon_threads = True

    def __init__(self, stall_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Slow)
        self.stall_s, self.asked, self.over = stall_s, list[float](), threading.Event()


def outlast(service: str, server: Server) -> BaseException | None:
    """Make a call that the server stalls; return what it ends with, within its worst case."""
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
    """The function would be killed while it hides or parks, and its whole batch would come back."""
    servers = {service: Server(call.read * 0.8) for service, (_, call, *_) in CALLS.items()}
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(outlast, servers, servers.values()))
    for error, (service, server) in zip(errors, servers.items(), strict=True):
        assert isinstance(error, ClientError | BotoCoreError)
        assert len(server.asked) == CALLS[service][1].attempts
        # It did wait for what the reply asked, as far as botocore does: without that, the sum would rest on nothing.
        assert server.asked[1] - server.asked[0] >= server.stall_s + 5


def test_the_parts_of_the_budget_add_up_to_the_functions_timeout() -> None:
    """The parts would add up to more than the function has."""
    timeout_s = template()["Resources"]["RelayFunction"]["Properties"]["Timeout"]
    longest_attempt_s = template()["Parameters"]["RequestTimeoutSeconds"]["MaxValue"]
    assert budget.AWS_CALL.worst == 2 * (1 + 2) + 1 + 5
    assert budget.SETTLE_S == budget.CALLS_S + budget.LAST_CALL_S
    # The ledger, credentials that are slow to come, and the longest attempt.
    assert budget.LEDGER_S + budget.AWS_CALL.worst + longest_attempt_s <= timeout_s - budget.SETTLE_S


def test_a_third_attempt_makes_the_worst_case_longer() -> None:
    """Somebody could have botocore try once more, and the worst case would not say so."""
    assert budget.Call(1, 2, attempts=3).worst == 3 * (1 + 2) + (1 + 5) + (2 + 5)
    for config, call, *_ in CALLS.values():
        assert isinstance(config, Config)
        known: Any = config
        assert (known.connect_timeout, known.read_timeout) == (call.connect, call.read)
