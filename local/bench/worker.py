"""The measured process. It sees the function's package and `requests`, and runs on one CPU.

    python -m local.bench.worker FILE relay 10 1000    1,000 results through the relay, in batches of 10

It writes the seconds of CPU and of time per result to the file. Standard output takes the log lines, as on Lambda.
"""

import gc
import json
import os
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import urllib3
from aws_lambda_powertools.utilities import parameters

from flash_call_relay.handler import lambda_handler
from local.bench import batch, documented

THREADS = 10
WARM_UP, MOST = 300, 100  # results before the measured ones, in batches of `MOST` at most
# Lambda's context, as far as it is read.
CONTEXT = SimpleNamespace(aws_request_id="-", function_name="bench", get_remaining_time_in_millis=lambda: 60_000)


def poster() -> documented.Handler:
    """Return a function that makes bare POSTs by a pooled urllib3, from ten threads."""
    url, tls, threads = os.environ["WEBHOOK_URL"], ssl.create_default_context(), ThreadPoolExecutor(THREADS)
    pool = urllib3.connection_from_url(url, maxsize=THREADS, block=True, ssl_context=tls)
    target = urllib3.util.parse_url(url).request_uri
    secret: Any = parameters.get_secret(os.environ["CREDENTIALS_SECRET_ARN"], transform="json")
    headers = {"Content-Type": "application/json", "x-api-key": secret["api_key"], "x-user-id": secret["user_id"]}

    def post(record: dict[str, str]) -> None:
        response = pool.request("POST", target, body=record["body"].encode(), headers=headers, retries=False)
        if response.status != 200:
            raise RuntimeError(f"the endpoint answers {response.status}")

    return lambda event, _context: [*threads.map(post, event["Records"])] and None


def main() -> None:
    """Measure what the command line asks for."""
    file, kind, size, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    made = {"posts": poster, "relay": lambda: lambda_handler, "documented": documented.handler}
    function: Any = made[kind]()
    for _ in range(0, WARM_UP, min(size, MOST)):
        function(batch(min(size, MOST)), CONTEXT)
    events = [batch(size) for _ in range(count // size)]
    gc.collect()
    cpu_s, began = time.process_time(), time.perf_counter()
    replies = [function(event, CONTEXT) for event in events]
    taken = {"cpu_s": time.process_time() - cpu_s, "elapsed_s": time.perf_counter() - began}
    if any(reply and reply["batchItemFailures"] for reply in replies):
        raise RuntimeError("a result was not delivered")
    Path(file).write_text(json.dumps({name: seconds / count for name, seconds in taken.items()}))


if __name__ == "__main__":
    main()
    os._exit(0)  # without waiting for the threads' connections
