"""The package that `sam build` makes, under AWS's own Lambda runtime, behind the emulator's queue."""

import math
import shutil
import signal
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from flash_call_relay import budget
from local import ROOT, TOOLS
from local.emulator.runtime import Environment, Invocation, Runtime
from local.endpoint.behaviour import hang
from tests.support.deployed import LIMIT_S, VISIBILITY_S, DeployedRelay, wait_for
from tests.support.payloads import pairs, result

TIMEOUT_S = math.ceil(budget.SETTLE_S) + 15


def test_the_runtime_starts_from_the_packages_bytecode(relay: DeployedRelay, package: Path, tmp_path: Path) -> None:
    """Each cold start would compile 11 MB of sources: /var/task is read-only, so Lambda keeps no bytecode."""
    other = tmp_path / "package"
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__"))
    # The runtime here may have another version of Python than the function, which needs other bytecode.
    python = TOOLS / "runtime" / "bin" / "python"
    make = ("make", "--silent", "build-RelayFunction", "--old-file=sources")
    subprocess.run([*make, f"ARTIFACTS_DIR={other}", f"VERSION_PYTHON={python}"], cwd=ROOT / "src", check=True)
    with (other / "flash_call_relay" / "handler.py").open("a") as source:
        source.write("\nraise RuntimeError('compiled from the source')\n")
    with Runtime(relay.deployment, other, tmp_path / "logs"):
        assert relay.deployment.invoke({"Records": []})["FunctionError"] is None


def test_the_real_runtime_delivers_parks_and_logs_a_batch(relay: DeployedRelay, package: Path, tmp_path: Path) -> None:
    """The function would start, end or log on Lambda in another way than in the other tests."""
    results = [result(status="Success" if number % 2 else "Failed") for number in range(20)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    with Runtime(relay.deployment, package, tmp_path) as runtime:
        ids = relay.send(*results, "no result")
        assert relay.accepted(*results) == pairs(*results)
        assert relay.parked(1).keys() == {ids[-1]}
        relay.settled()
        wait_for(lambda: {line.get("message_id") for line in runtime.log()} >= set(ids), "the outcomes in the log")
        lines = [line for line in runtime.log() if line.get("outcome")]
    assert {line["message_id"]: line["outcome"] for line in lines} == {
        message_id: "parked" if message_id == ids[-1] else "delivered" for message_id in ids
    }
    by_number = {(invocation.environment, invocation.number): invocation for invocation in runtime.invocations}
    for line in lines:
        records = by_number[line["environment"], line["invocation"]].records
        assert line["message_id"] in {record["messageId"] for record in records}
    assert any(line.startswith("REPORT RequestId: ") for line in runtime.raw_log())


def test_the_runtime_has_only_the_roles_permissions(relay: DeployedRelay, package: Path, tmp_path: Path) -> None:
    """A permission that the template lacks would be found missing on AWS only."""
    one = result()
    document = relay.role_policy()
    less = [statement for statement in document["Statement"] if statement["Sid"] != "ReadCredentials"]
    with (
        relay.with_role_policy("relay", {**document, "Statement": less}),
        Runtime(relay.deployment, package, tmp_path) as runtime,
    ):
        relay.send(one)
        wait_for(lambda: "AccessDenied" in str(runtime.log()), "the refusal in the log")
    relay.endpoint.issue(one["uuid"])
    assert relay.accepted(one) == pairs(one)
    relay.settled()


def test_a_package_without_a_library_fails_to_import(relay: DeployedRelay, package: Path, tmp_path: Path) -> None:
    """A package that lacks a library would pass every test and fail on Lambda."""
    lacking = tmp_path / "package"
    shutil.copytree(package, lacking)
    shutil.rmtree(lacking / "urllib3")
    with Runtime(relay.deployment, lacking, tmp_path / "logs") as runtime:
        reply = relay.deployment.invoke({"Records": []})
    assert reply["FunctionError"]
    assert "Runtime.ImportModuleError" in runtime.invocations[0].error
    assert "urllib3" in runtime.invocations[0].error


def test_the_messages_of_a_crashed_or_frozen_function_come_back(
    relay: DeployedRelay, package: Path, tmp_path: Path
) -> None:
    """A crash or a time-out would lose the batch."""
    crashed, frozen = ([result() for _ in range(5)] for _ in range(2))
    faults = {crashed[0]["uuid"]: signal.SIGKILL, frozen[0]["uuid"]: signal.SIGSTOP}
    failed: list[Future[None]] = []
    relay.endpoint.issue(*(one["uuid"] for one in [*crashed, *frozen]))

    def run(runtime: Runtime, event: bytes) -> Invocation:
        with runtime.environment() as environment:
            due = [uuid for uuid in faults if uuid.encode() in event]
            failed.extend(threads.submit(fail_in_mid_batch, uuid, environment, faults.pop(uuid)) for uuid in due)
            return runtime.run(environment, event)

    def fail_in_mid_batch(uuid: str, environment: Environment, fault: signal.Signals) -> None:
        relay.endpoint.wait_until(lambda endpoint: uuid in {r.uuid for r in endpoint.requests}, LIMIT_S, "an attempt")
        environment.signal(fault)

    def was_received(uuid: str) -> bool:
        return uuid not in faults

    relay.deployment.shorten_visibility(TIMEOUT_S + 2)
    try:
        with (
            ThreadPoolExecutor() as threads,
            Runtime(relay.deployment, package, tmp_path, timeout_s=TIMEOUT_S, on_event=run) as runtime,
        ):
            runtime.restart(REQUEST_TIMEOUT_SECONDS="5")
            for results in (frozen, crashed):
                relay.endpoint.misbehave(results[0]["uuid"], hang())
                relay.send(*results)
                wait_for(partial(was_received, results[0]["uuid"]), "an invocation with the result")
            assert set(relay.accepted(*crashed, *frozen)) == set(pairs(*crashed, *frozen))
            relay.settled()
            for one in failed:
                one.result()
    finally:
        relay.deployment.shorten_visibility(VISIBILITY_S)
    lost = [invocation for invocation in runtime.invocations if invocation.error]
    assert sorted(invocation.error.split()[0] for invocation in lost) == ["Runtime.ExitError:", "Task"]
    assert any(invocation.error.startswith(f"Task timed out after {TIMEOUT_S}") for invocation in lost)
    for invocation in lost:
        later = [other for other in runtime.invocations if other.began > invocation.began and not other.error]
        back = {record["messageId"] for other in later for record in other.records}
        assert back >= {record["messageId"] for record in invocation.records}
