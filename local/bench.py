"""`make bench`: what the ledger costs in CPU, beside one POST and beside Powertools' idempotency, in one run.

Only this process's CPU counts; the endpoint and DynamoDB are other processes. Rounds of each kind take turns, so that a
noisy machine is noisy for all of them; the median round counts.
"""

import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import uuid as uuids
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import boto3
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from rich.console import Console
from rich.table import Table

from flash_call_relay.credentials import Credentials
from flash_call_relay.handler import DYNAMODB
from flash_call_relay.ledger import Ledger
from flash_call_relay.models import Delivered, FlashCallResult, Processed, Record
from flash_call_relay.settings import Settings
from flash_call_relay.webhook import Webhook
from local import ROOT
from local.command import run_command
from local.emulator.emulator import REGION, Emulator
from local.endpoint.standin import WEBHOOK_PATH
from local.processes import free_port, wait_until

RECORDS = 500
ROUNDS = 7
BATCHES = (10, 25, 100)
# At volume the ledger has to stay cheap: its CPU per record, of one POST's, in the largest of these batches.
ENOUGH = 0.5

POST = "one POST (urllib3)"

Work = Callable[[Sequence[FlashCallResult]], object]


def main() -> int:
    """Run the benchmark."""
    return run_command(bench)


def bench() -> int:
    """Measure, and show the ratios; return the exit code: 1 if the ledger costs more than it may."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as directory:
        credentials = Credentials(secrets.token_urlsafe(24), secrets.token_urlsafe(12))
        with Emulator(Path(directory), free_port(), console.print) as stack:
            endpoint, url = start_endpoint(stack, credentials)
            try:
                measured = measure(kinds(stack, url, credentials))
            finally:
                endpoint.terminate()
                endpoint.wait()
    show(console, measured)
    post, at_volume = measured[POST], measured[ledger_in(BATCHES[-1])]
    verdict = "holds" if at_volume <= ENOUGH * post else "does not hold"
    console.print(f"At most {ENOUGH} of a POST in batches of {BATCHES[-1]}: {verdict} ({at_volume / post:.2f}).")
    return verdict != "holds"


def start_endpoint(stack: Emulator, credentials: Credentials) -> tuple["subprocess.Popen[bytes]", str]:
    """Start the stand-in as a process of its own."""
    known, port = stack.state / "credentials.json", free_port()
    known.write_text(json.dumps({"api_key": credentials.api_key, "user_id": credentials.user_id}))
    # Over https, as DynamoDB is asked, too.
    tls = ["--certificate", str(stack.state / "cert.pem"), "--key", str(stack.state / "key.pem")]
    os.environ["SSL_CERT_FILE"] = str(stack.ca_bundle)
    command = [sys.executable, "-m", "local.endpoint.standin", "--port", str(port), "--credentials", str(known), *tls]
    process = subprocess.Popen([*command, "--every-call-exists"], cwd=ROOT)
    url = f"https://localhost:{port}{WEBHOOK_PATH}"
    webhook = Webhook(settings(url))
    wait_until(lambda: hasattr(webhook.post(results(1)[0], credentials), "http_status"), limit_s=20)
    return process, url


def kinds(stack: Emulator, url: str, credentials: Credentials) -> dict[str, Work]:
    """Return what is measured, by name."""
    dynamodb, webhook = stack.client("dynamodb"), Webhook(settings(url))
    for table, key in (("ledger", "uuid"), ("idempotency", "id")):
        dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        )
    access = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    places = {"endpoint_url": stack.url, "verify": str(stack.ca_bundle)}
    as_deployed = cast("Any", boto3).client("dynamodb", config=DYNAMODB, **access, **places)
    return {
        POST: lambda batch: [webhook.post(result, credentials) for result in batch],
        **{ledger_in(size): remembering(Ledger(as_deployed, "ledger"), size) for size in BATCHES},
        "Powertools idempotency": idempotency(as_deployed),
    }


def ledger_in(size: int) -> str:
    """Name the ledger's work in batches of that size."""
    return f"the ledger, batches of {size}"


def remembering(ledger: Ledger, size: int) -> Work:
    """Return what the ledger does for batches of that size: look up, and write down."""

    def work(batch: Sequence[FlashCallResult]) -> None:
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            with ledger.open([result.uuid for result in part]) as page:
                page.note([Processed(Record("", None, "", 0, 1, one), Delivered(200), 0) for one in part])
            if page.faults:
                raise RuntimeError(page.faults[0])

    return work


def idempotency(dynamodb: Any) -> Work:
    """Return what Powertools does instead: each record by itself, before and after."""
    layer = DynamoDBPersistenceLayer(table_name="idempotency", boto3_client=dynamodb)
    once = idempotent_function(
        data_keyword_argument="result",
        persistence_store=layer,
        config=IdempotencyConfig(event_key_jmespath="uuid"),
    )
    idempotent: Any = once(lambda result: result["status"])

    def work(batch: Sequence[FlashCallResult]) -> None:
        for result in batch:
            idempotent(result={"uuid": result.uuid, "status": result.status})

    return work


def measure(work: dict[str, Work]) -> dict[str, float]:
    """Return the CPU seconds per record of each kind: the median of rounds that take turns."""
    rounds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(ROUNDS + 1):
        for name, do in work.items():
            batch = results(RECORDS)
            began = time.process_time()
            do(batch)
            if number:  # the first is for warming up
                rounds[name].append((time.process_time() - began) / RECORDS)
    return {name: statistics.median(times) for name, times in rounds.items()}


def show(console: Console, measured: dict[str, float]) -> None:
    """Show the CPU of each kind, as a multiple of one POST's."""
    table = Table(
        "per record", "CPU", "of one POST", title=f"{ROUNDS} rounds of {RECORDS} records", title_justify="left"
    )
    for name, seconds in measured.items():
        table.add_row(name, f"{seconds * 1e6:.0f} µs", f"{seconds / measured[POST]:.2f}")
    console.print(table)


def results(count: int) -> list[FlashCallResult]:
    """Return results of calls of their own."""
    return [FlashCallResult(uuids.uuid4().hex, "Success") for _ in range(count)]


def settings(url: str) -> Settings:
    """Return settings for a webhook; the rest is not looked at."""
    unused = dict.fromkeys(Settings.__annotations__, 1)
    return Settings(**cast("Any", {**unused, "webhook_url": url, "request_timeout_seconds": 5}))


if __name__ == "__main__":
    sys.exit(main())
