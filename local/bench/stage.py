"""Where the benchmark runs: the deployed stack, stand-in endpoints, and the processes that it measures.

The measured processes share one CPU. The emulator and the endpoints (threads of this process, which waits meanwhile)
share another one, if the machine has it.
"""

import contextlib
import json
import os
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local import ROOT
from local.bench.batches import batch
from local.emulator.deployment import Deployment, sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.emulator.runtime import Runtime
from local.endpoint.behaviour import late
from local.endpoint.standin import StandIn
from local.processes import LocalError, tool

CPUS = sorted(os.sched_getaffinity(0))
MEASURE_S = 600
BARE, RELAY, FIRST_POST = "bare function: init", "relay: init", "relay: first POST"


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
        endpoints: by their latency in milliseconds.
        state: a directory for files.
    """

    deployment: Deployment
    package: Path
    endpoints: dict[int, StandIn]
    state: Path

    def worker(self, latency_ms: int, *arguments: object) -> dict[str, Any]:
        """Run the worker against the endpoint of this latency; return what it measured."""
        emulator, result = self.deployment.emulator, self.state / "result.json"
        variables = {
            **emulator.environment,
            **self.deployment.variables(),
            "WEBHOOK_URL": self.endpoints[latency_ms].url,
            "SSL_CERT_FILE": str(emulator.ca_bundle),
            "REQUESTS_CA_BUNDLE": str(emulator.ca_bundle),
            "PYTHONPATH": str(self.package),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BENCH_RESULT": str(result),
            "BENCH_LEDGER": self.deployment.outputs["LedgerTableName"],
            "BENCH_IDEMPOTENCY": "idempotency",
        }
        command = [str(tool("bench/bin/python")), "-m", "local.bench.worker", *map(str, arguments)]
        how: dict[str, Any] = {"cwd": ROOT, "env": variables, "timeout": MEASURE_S}
        with pinned(CPUS[0]):
            done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **how)
        if done.returncode:
            raise LocalError(f"The measured process failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
        measured: dict[str, Any] = json.loads(result.read_text())
        return measured

    def cold_starts(self, rounds: int) -> dict[str, list[float]]:
        """Return the measured milliseconds by name, one value per round, in AWS's own Lambda runtime.

        The bare function is in a package with the same libraries, without bytecode.
        """
        bare = self.state / "bare"
        shutil.copytree(self.package, bare, ignore=shutil.ignore_patterns("__pycache__", "flash_call_relay"))
        (bare / "flash_call_relay").mkdir()
        shutil.copy(Path(__file__).parent / "bare.py", bare / "flash_call_relay" / "handler.py")
        measured: dict[str, list[float]] = {BARE: [], RELAY: [], FIRST_POST: []}
        for number in range(rounds):
            logs = self.state / f"start-{number}"
            measured[BARE].append(self._start(bare, logs / "bare")[0])
            init_ms, began = self._start(self.package, logs / "relay")
            measured[RELAY].append(init_ms)
            first = min(one.at for one in self.endpoints[min(self.endpoints)].requests if one.at > began)
            measured[FIRST_POST].append((first - began) * 1000)
        return measured

    def _start(self, package: Path, logs: Path) -> tuple[float, float]:
        """Invoke a new environment; return how long its init phase took in ms, and when it began in epoch seconds."""
        with Runtime(self.deployment, package, logs) as runtime:
            runtime.restart(SSL_CERT_FILE=str(self.deployment.emulator.ca_bundle))  # of the endpoint
            with pinned(CPUS[0]), runtime.environment() as environment:
                began = time.time()  # the runtime emulator starts the function when the first event comes
                invocation = runtime.run(environment, json.dumps(batch(10)).encode())
                if invocation.error:
                    raise RuntimeError(invocation.error)
                return environment.init_ms, began

    def zipped_mb(self) -> float:
        """Return the size of the package as Lambda gets it, in MB (a million bytes)."""
        return Path(shutil.make_archive(str(self.state / "package"), "zip", self.package)).stat().st_size / 1e6


@contextlib.contextmanager
def staged(state: Path, latencies_ms: tuple[int, ...], say: Any) -> Iterator[Stage]:
    """Start the emulator and an endpoint for each latency, and deploy the relay."""
    api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
    with contextlib.ExitStack() as ending:
        with pinned(CPUS[-1]):
            emulator = ending.enter_context(Emulator(state, say=say))
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(state / "cert.pem", state / "key.pem")
            endpoints = {}
            for latency_ms in latencies_ms:
                standin = StandIn(api_key=api_key, user_id=user_id, tls=tls, every_call_exists=True)
                endpoints[latency_ms] = ending.enter_context(standin)
                if latency_ms:
                    standin.override(late(latency_ms / 1000))
        template = sam_build(emulator)
        fastest = endpoints[min(latencies_ms)].url
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
