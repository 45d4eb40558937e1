"""`prove` against the relay and the sandbox, both deployed into the emulator, and the sandbox over its HTTP API."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import urllib3

from local import ROOT
from local.emulator.deployment import Deployment, deploy_stack, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import StandIn
from sandbox import prove
from sandbox.judge import HEALTH
from tests.support.deployed import VISIBILITY_S, DeployedRelay, wait_for
from tests.support.operator import Operator

SHORT: dict[str, str | int] = {"RetryBaseSeconds": 1, "RetryCapSeconds": 3, "UnknownCallGraceSeconds": 60}
PROVE = ("--stack", "proved", "prove", "--sandbox", "sandbox", "--results", "40")


class Stage(NamedTuple):
    """The sandbox, where the emulator serves its API, and a relay that reports to it."""

    sandbox: Deployment
    url: str
    relay: DeployedRelay

    @property
    def key(self) -> str:
        """The key that the relay uses."""
        secret = self.client("secretsmanager").get_secret_value(SecretId=self.sandbox.outputs["CredentialsSecretArn"])
        return str(json.loads(secret["SecretString"])["api_key"])

    def client(self, service: str) -> Any:
        """Return a client of the emulator."""
        return self.sandbox.emulator.client(service)

    def drill(self) -> dict[str, float]:
        """Return what the sandbox is told to do, and until when."""
        item = self.client("dynamodb").get_item(TableName=self.sandbox.outputs["TableName"], Key=prove.DRILL)
        return {name: float(value["N"]) for name, value in item.get("Item", {}).items() if "N" in value}


@pytest.fixture(scope="module")
def stage(emulator: Emulator, built: Path) -> Iterator[Stage]:
    """Deploy the sandbox, and a relay that reports to it.

    The emulator names the API by a host that no name server knows, and serves it below a path of its own, too.
    """
    sandbox = deploy_stack(emulator, "sandbox", ROOT / "sandbox" / "template.yaml", {})
    parameters = {name: sandbox.outputs[name] for name in ("WebhookUrl", "CredentialsSecretArn")}
    deployment = sam_deploy(emulator, "proved", built, {**SHORT, **parameters})
    deployment.shorten_visibility(VISIBILITY_S)
    relay = DeployedRelay(deployment, StandIn())
    relay.active()
    url = re.sub(
        r"//(\w+)\.execute-api\.localhost:\d+",
        rf"//localhost:{emulator.port}/_aws/execute-api/\1/$default",
        parameters["WebhookUrl"],
    )
    with relay.reconfigured(WEBHOOK_URL=url, SSL_CERT_FILE=str(emulator.ca_bundle)):
        yield Stage(sandbox, url, relay)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Wait less for what AWS needs longer for."""
    monkeypatch.setattr(prove, "LAG_S", 3)
    monkeypatch.setattr(prove, "POLL_S", 0.5)
    return monkeypatch


@pytest.fixture
def post(stage: Stage) -> Iterator[Callable[..., tuple[int, Any, Any]]]:
    """Return a function that POSTs a result to the sandbox; it returns status, body and headers."""
    with urllib3.PoolManager(ca_certs=str(stage.sandbox.emulator.ca_bundle), retries=False, timeout=60) as http:

        def post(uuid: str, status: str = "Success", **headers: str) -> tuple[int, Any, Any]:
            names = {"x-api-key": stage.key, "x-user-id": "made-up-user-of-sandbox", **headers}
            reply = http.request("POST", stage.url, json={"uuid": uuid, "status": status}, headers=names)
            is_json = reply.headers["Content-Type"] == "application/json"
            return reply.status, reply.json() if is_json else reply.data.decode(), reply.headers

        yield post


def test_the_sandbox_keeps_the_contract_and_records_what_it_accepts(stage: Stage, post: Callable[..., Any]) -> None:
    """A developer would test against something that BetaTel is not, or a proof would rest on nothing."""
    assert post("one")[:2] == (200, {"uuid": "one", "status": "Success", "message": "OK"})
    assert [post("one", "success")[0], post("one", **{"x-api-key": "other"})[0]] == [400, 401]
    assert [post("test-500x2-a")[0] for _ in range(3)] == [500, 500, 200]
    assert (post("test-429-7-a")[2]["Retry-After"], post("test-429-7-a")[0]) == ("7", 200)
    table = stage.client("dynamodb").scan(TableName=stage.sandbox.outputs["TableName"])["Items"]
    accepted = [one["uuid"]["S"] for one in table if one.get("accepted", {}).get("BOOL")]
    assert sorted(accepted) == ["one", "test-429-7-a", "test-500x2-a"]
    assert sum(one["uuid"]["S"] == "one" for one in table) == 2  # a stranger can't fill the table


@pytest.mark.usefixtures("quick")
def test_each_result_is_accounted_for(stage: Stage, operator: Operator, tmp_path: Path) -> None:
    """A buyer would have to believe an emulator, and would get a page that shows a key or needs the network."""
    before, report = stage.key, tmp_path / "proof.html"
    proved = operator(*PROVE, "--outage", "3", "--report", str(report))
    assert (proved.status, proved.err) == (0, "")
    assert "Proved: each result" in proved.out
    rows = dict(re.findall(r"^(\S.*\S) +(\d+ +\d+)$", proved.out, re.MULTILINE))
    assert {name: numbers.split() for name, numbers in rows.items()} == {
        "accepted once": ["31", "31"],
        "nothing: a copy": ["2", "2"],
        "parked: conflicting_status": ["2", "2"],
        "parked: invalid_event": ["4", "4"],
        "parked: rejected": ["1", "1"],
    }
    assert stage.relay.deployment.depth("ParkedQueueUrl") == 0  # it leaves nothing behind
    assert stage.key != before
    text = report.read_text()
    assert text.index("Proved: each result") < text.index("500 to everything")
    assert not [key for key in (before, stage.key) if key in text]
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", text)


def _health_only(quick: pytest.MonkeyPatch) -> None:
    quick.setattr(prove, "PHASES", (HEALTH,))


def test_a_relay_that_forgets_what_is_confirmed_is_noticed(
    stage: Stage, operator: Operator, quick: pytest.MonkeyPatch
) -> None:
    """A relay that reports copies again would be proved."""
    _health_only(quick)
    quick.setattr(prove, "SETTLE_S", 5)
    with stage.relay.reconfigured(LEDGER_TABLE_NAME=""):
        proved = operator(*PROVE)
    assert proved.status == 1
    assert len(re.findall(r"^deviates: proof-\w+-\d+: accepted 2 times$", proved.out, re.MULTILINE)) == 4


@pytest.mark.usefixtures("quick")
def test_an_interruption_heals_the_sandbox(stage: Stage, operator: Operator) -> None:
    """After Ctrl-C the sandbox would fail for ever, and nobody would know how far the proof was."""
    command = [sys.executable, "-m", "ops", *PROVE, "--outage", "600"]
    own = {"PATH": os.defpath, "HOME": os.devnull, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    with subprocess.Popen(
        command, env={**own, **operator.emulator.environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: stage.drill().get("outage_until"), "the outage")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"^Stopped in outage, after \d+ results of 40\.\n.* keeps its contract again", said)
    assert set(stage.drill().values()) == {0}


def test_a_sandbox_that_takes_nothing_is_noticed(stage: Stage, operator: Operator, quick: pytest.MonkeyPatch) -> None:
    """A proof would end well with results that nobody has accepted."""
    _health_only(quick)
    for name in ("PATIENCE_S", "SETTLE_S"):
        quick.setattr(prove, name, 3)
    found = stage.client("cloudformation").describe_stack_resource(
        StackName="sandbox", LogicalResourceId="SandboxFunction"
    )
    places = {"TABLE_NAME": "no-such-table", "SECRET_ARN": stage.sandbox.outputs["CredentialsSecretArn"]}
    stage.client("lambda").update_function_configuration(
        FunctionName=found["StackResourceDetail"]["PhysicalResourceId"], Environment={"Variables": places}
    )
    proved = operator(*PROVE)
    assert (proved.status, proved.out.count("never accepted: waiting")) == (1, 16)
