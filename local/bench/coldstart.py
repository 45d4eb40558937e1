"""Cold starts in AWS's own Lambda runtime, and the size of the package."""

import json
import shutil
import time
from pathlib import Path

import urllib3

from local.bench.batches import batch
from local.bench.stage import CPUS, Stage, pinned
from local.emulator.runtime import Runtime

BATCH = 10
BARE, RELAY, FIRST_POST = "bare function: init", "relay: init", "relay: first POST"


def cold_starts(stage: Stage, rounds: int) -> dict[str, list[float]]:
    """Return the measured milliseconds by name, one value per round."""
    bare = stage.bare_package()
    measured: dict[str, list[float]] = {BARE: [], RELAY: [], FIRST_POST: []}
    for number in range(rounds):
        logs = stage.state / f"start-{number}"
        measured[BARE].append(_start(stage, bare, logs / "bare")[0])
        init_ms, began = _start(stage, stage.package, logs / "relay")
        measured[RELAY].append(init_ms)
        measured[FIRST_POST].append((_first_request_after(stage, began) - began) * 1000)
    return measured


def _start(stage: Stage, package: Path, logs: Path) -> tuple[float, float]:
    """Invoke a new environment; return how long its init phase took in ms, and when it began in epoch seconds."""
    with Runtime(stage.deployment, package, logs) as runtime:
        runtime.restart(SSL_CERT_FILE=str(stage.deployment.emulator.ca_bundle))  # of the endpoint
        with pinned(CPUS[0]), runtime.environment() as environment:
            began = time.time()  # the runtime emulator starts the function when the first event comes
            invocation = runtime.run(environment, json.dumps(batch(BATCH)).encode())
            if invocation.error:
                raise RuntimeError(invocation.error)
            return environment.init_ms, began


def _first_request_after(stage: Stage, began: float) -> float:
    url = stage.endpoints[min(stage.endpoints)].partition("/api/")[0]
    with urllib3.PoolManager(ca_certs=str(stage.deployment.emulator.ca_bundle)) as http:
        requests = http.request("GET", f"{url}/_standin/requests").json()
    return min(float(request["at"]) for request in requests if request["at"] > began and request["method"] == "POST")


def zipped_mb(package: Path, archive: Path) -> float:
    """Return the size of a package as Lambda gets it, in MB (a million bytes)."""
    return Path(shutil.make_archive(str(archive), "zip", package)).stat().st_size / 1e6
