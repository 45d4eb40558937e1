"""Where the benchmark runs: the deployed stack, a stand-in endpoint, and the processes that it measures.

The measured processes share one CPU. The emulator and the endpoint share another one, if the machine has it.
"""

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from local import ROOT
from local.bench import batch
from local.emulator.deployment import Deployment, sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.emulator.runtime import Runtime
from local.endpoint.standin import StandIn
from local.processes import tool

CPUS = sorted(os.sched_getaffinity(0))
MEASURE_S = 600
IDEMPOTENCY_TABLE = "idempotency"


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Run this thread, and the threads and processes that it starts, on one CPU."""
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
        endpoint: answers the POSTs.
    """

    deployment: Deployment
    package: Path
    endpoint: StandIn

    def measure(self, kind: str, size: int, count: int, variables: dict[str, str]) -> dict[str, float]:
        """Run the worker with these environment variables; return what it measured."""
        result, authority = self.deployment.emulator.state / "result.json", str(self.deployment.emulator.ca_bundle)
        environment = {
            **self.deployment.emulator.environment,
            **self.deployment.variables(),
            "SSL_CERT_FILE": authority,
            "REQUESTS_CA_BUNDLE": authority,
            "PYTHONPATH": str(self.package),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",  # Powertools' own
            **variables,
        }
        python = str(tool("bench/bin/python"))
        command = [python, "-m", "local.bench.worker", str(result), kind, str(size), str(count)]
        with pinned(CPUS[0]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment, timeout=MEASURE_S)
        measured: dict[str, float] = json.loads(result.read_text())
        return measured

    def cold_start(self) -> tuple[float, float, float]:
        """Return the milliseconds of the bare function's init, the relay's, and the relay's first POST.

        They run in AWS's own Lambda runtime, the bare function with the same libraries, without bytecode.
        """
        bare = Path(tempfile.mkdtemp(dir=self.deployment.emulator.state)) / "package"
        shutil.copytree(self.package, bare, ignore=shutil.ignore_patterns("__pycache__", "flash_call_relay"))
        (bare / "flash_call_relay").mkdir()
        shutil.copy(Path(__file__).parent / "bare.py", bare / "flash_call_relay" / "handler.py")
        bare_ms, _ = self._start(bare)
        relay_ms, began = self._start(self.package)
        first = min(request.at for request in self.endpoint.requests if request.at > began)
        return bare_ms, relay_ms, (first - began) * 1000

    def _start(self, package: Path) -> tuple[float, float]:
        """Invoke a new environment; return how long its init phase took in ms, and when it began in epoch seconds."""
        emulator = self.deployment.emulator
        logs = Path(tempfile.mkdtemp(dir=emulator.state))
        with Runtime(self.deployment, package, logs, SSL_CERT_FILE=str(emulator.ca_bundle)) as runtime:
            with pinned(CPUS[0]):
                invocation = runtime.invoke(json.dumps(batch(10)).encode())
            if invocation.error:
                raise RuntimeError(invocation.error)
            return runtime.environments[-1].init_ms, invocation.began


@contextlib.contextmanager
def staged(state: Path, say: Callable[[str], None]) -> Iterator[Stage]:
    """Start the emulator and the endpoint, and deploy the relay."""
    with contextlib.ExitStack() as ending:
        with pinned(CPUS[-1]):
            emulator = ending.enter_context(Emulator(state, say))
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(state / "cert.pem", state / "key.pem")
            endpoint = ending.enter_context(StandIn(tls=tls, every_call_exists=True))
        template = sam_build(emulator)
        deployment = sam_deploy(emulator, "bench", template, {"EventRoute": "none", "WebhookUrl": endpoint.url})
        deployment.fill_secret(*endpoint.credentials)
        deployment.poll(on=False)
        emulator.client("dynamodb").create_table(
            TableName=IDEMPOTENCY_TABLE,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
        yield Stage(deployment, template.parent / "RelayFunction", endpoint)
