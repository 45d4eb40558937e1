"""The measured process. It sees the function's package and `requests`, and runs on one CPU.

    python -m local.bench.worker cpu 7            CPU seconds per result of each kind, in 7 rounds
    python -m local.bench.worker rate 10 100 600 3   results per second: 10 connections, batches of 100, 600 results,
                                                     in each of 3 rounds

It writes JSON to the file named in BENCH_RESULT. Standard output takes the log lines, as on Lambda.
"""

import gc
import json
import os
import platform
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import urllib3

from flash_call_relay import handler
from local.bench import batches, documented

THREADS = 10
BATCHES = (10, 100, 1000)
RESULTS = 1000  # in each round
SLOW_RESULTS = 200  # in each round of a kind that takes milliseconds per result

Round = Callable[[], object]


# Lambda's context, as far as it is read.
CONTEXT = SimpleNamespace(aws_request_id="-", function_name="bench", get_remaining_time_in_millis=lambda: 60_000)


def posts(count: int) -> Round:
    """Return a round of bare POSTs by a pooled urllib3, from ten threads."""
    secret = boto3.client("secretsmanager").get_secret_value(SecretId=os.environ["CREDENTIALS_SECRET_ARN"])
    credentials = json.loads(secret["SecretString"])
    headers = {
        "Content-Type": "application/json",
        "x-api-key": credentials["api_key"],
        "x-user-id": credentials["user_id"],
    }

    def post(body: bytes) -> None:
        response = POOL.request("POST", TARGET.request_uri, body=body, headers=headers, retries=False)
        if response.status != 200:
            raise RuntimeError(f"the endpoint answers {response.status}")

    bodies = [record["body"].encode() for record in batches.batch(count)["Records"]]
    return lambda: list(POSTERS.map(post, bodies))


def invocations(function: Callable[[Any, Any], Any], size: int, count: int) -> Round:
    """Return a round of invocations with batches of `size`."""
    events = [batches.batch(size) for _ in range(count // size)]

    def run() -> None:
        for event in events:
            if (reply := function(event, CONTEXT)) and reply["batchItemFailures"]:
                raise RuntimeError("a result was not delivered")

    return run


def relay(table: str) -> Callable[[Any, Any], Any]:
    """Return the relay's handler, wired with this ledger's table; empty: without a ledger."""
    os.environ["LEDGER_TABLE_NAME"] = table
    handler.wire.cache_clear()
    wired = handler.wire()

    def function(event: Any, context: Any) -> Any:
        handler.wire = lambda: wired  # type: ignore[assignment]
        return handler.lambda_handler(event, context)

    return function


def cpu(rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds per result of each kind, a value for each round. The kinds take turns."""
    plain, with_ledger = relay(""), relay(os.environ["BENCH_LEDGER"])
    kinds: dict[str, tuple[int, Callable[[int], Round]]] = {batches.POST: (RESULTS, posts)}
    for size in BATCHES:
        for name, function in (("relay", plain), ("relay with ledger", with_ledger)):
            kinds[f"{name}, batches of {size}"] = (RESULTS, partial(invocations, function, size))
    for name, table in (("documented way", ""), ("documented way with idempotency", os.environ["BENCH_IDEMPOTENCY"])):
        function = documented.handler(table)
        kinds[f"{name}, batches of 10"] = (SLOW_RESULTS, partial(invocations, function, 10))
    measured: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, (count, prepare) in kinds.items():
            run = prepare(count)
            gc.collect()
            began = time.process_time()
            run()
            if number:  # the first round warms up
                measured[name].append((time.process_time() - began) / count)
    return measured


def rate(connections: int, size: int, results: int, rounds: int) -> list[float]:
    """Return results per second of the relay without a ledger, a value for each round."""
    os.environ["CONNECTIONS_PER_FUNCTION"] = str(connections)
    function = relay("")
    invocations(function, connections, connections)()  # opens the connections
    count = max(1, round(results / size)) * size
    measured = []
    for _ in range(rounds):
        run = invocations(function, size, count)
        began = time.perf_counter()
        run()
        measured.append(count / (time.perf_counter() - began))
    return measured


TARGET = urllib3.util.parse_url(os.environ["WEBHOOK_URL"])
POOL = urllib3.connection_from_url(
    os.environ["WEBHOOK_URL"], maxsize=THREADS, block=True, ssl_context=ssl.create_default_context()
)
POSTERS = ThreadPoolExecutor(THREADS)


def main() -> None:
    """Measure what the command line asks for."""
    kind, *numbers = sys.argv[1:]
    measured: object = cpu(*map(int, numbers)) if kind == "cpu" else rate(*map(int, numbers))
    packages = {
        "urllib3": "urllib3",
        "botocore": "botocore",
        "Powertools": "aws-lambda-powertools",
        "requests": "requests",
    }
    versions = {"Python": platform.python_version(), **{name: version(one) for name, one in packages.items()}}
    Path(os.environ["BENCH_RESULT"]).write_text(json.dumps({"measured": measured, "versions": versions}))


if __name__ == "__main__":
    main()
    os._exit(0)  # without waiting for the threads' connections
