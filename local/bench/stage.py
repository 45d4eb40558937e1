"""Where the benchmark runs: the deployed stack, stand-in endpoints, and the processes that it measures.

The measured processes share one CPU. The emulator and the endpoints share another one, if the machine has it.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local import ROOT
from local.emulator.deployment import Deployment, sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import WEBHOOK_PATH, start_process
from local.processes import LocalError, held_port, tool

HERE = Path(__file__).parent
CPUS = sorted(os.sched_getaffinity(0))
MEASURE_S = 600


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Run this process, and those that it starts, on one CPU."""
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, CPUS)


@dataclass
class Stage:
    """The servers, and what is measured against them.

    Attributes:
        deployment: the relay's stack in the emulator. Its event source mapping is off.
        package: the function's package, as `sam build` made it.
        endpoints: URLs of stand-in endpoints, by their latency in milliseconds.
        state: a directory for files.
    """

    deployment: Deployment
    package: Path
    endpoints: dict[int, str]
    state: Path

    def worker(self, latency_ms: int, *arguments: object) -> dict[str, Any]:
        """Run the worker against the endpoint of this latency; return what it measured."""
        emulator, result = self.deployment.emulator, self.state / "result.json"
        variables = {
            **emulator.environment,
            **self.deployment.variables(),
            "WEBHOOK_URL": self.endpoints[latency_ms],
            "SSL_CERT_FILE": str(emulator.ca_bundle),
            "REQUESTS_CA_BUNDLE": str(emulator.ca_bundle),
            "PYTHONPATH": str(self.package),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BENCH_RESULT": str(result),
            "BENCH_LEDGER": self.deployment.outputs["LedgerTableName"],
            "BENCH_IDEMPOTENCY": "idempotency",
        }
        command = [str(tool("bench/bin/python")), "-m", "local.bench.worker", *map(str, arguments)]
        with pinned(CPUS[0]):
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=variables,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=MEASURE_S,
                check=False,
            )
        if done.returncode:
            raise LocalError(f"The measured process failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
        measured: dict[str, Any] = json.loads(result.read_text())
        return measured

    def bare_package(self) -> Path:
        """Return a package with the same libraries, without bytecode, and the bare function in the handler's place."""
        bare = self.state / "bare"
        shutil.copytree(self.package, bare, ignore=shutil.ignore_patterns("__pycache__", "flash_call_relay"))
        (bare / "flash_call_relay").mkdir()
        shutil.copy(HERE / "bare.py", bare / "flash_call_relay" / "handler.py")
        return bare


@contextlib.contextmanager
def staged(state: Path, latencies_ms: tuple[int, ...], say: Any) -> Iterator[Stage]:
    """Start the emulator and an endpoint for each latency, and deploy the relay."""
    api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
    with contextlib.ExitStack() as ending:
        with pinned(CPUS[-1]):
            emulator = ending.enter_context(Emulator(state, say=say))
            endpoints: dict[int, str] = {}
            for latency_ms in latencies_ms:
                port = ending.enter_context(held_port())
                endpoints[latency_ms] = f"https://localhost:{port}{WEBHOOK_PATH}"
                options = ["--every-call-exists", "--latency-ms", str(latency_ms)]
                options += ["--certificate", str(state / "cert.pem"), "--key", str(state / "key.pem")]
                start_process(ending, state, port, {"api_key": api_key, "user_id": user_id}, *options)
        template = sam_build(emulator)
        fastest = endpoints[min(latencies_ms)]
        deployment = sam_deploy(emulator, "bench", template, {"EventRoute": "none", "WebhookUrl": fastest})
        deployment.fill_secret(api_key, user_id)
        deployment.poll(on=False)
        emulator.client("dynamodb").create_table(
            TableName="idempotency",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
        yield Stage(deployment, template.parent / "RelayFunction", endpoints, state)
