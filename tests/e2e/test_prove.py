"""`prove` against the relay and the sandbox, both deployed into the emulator, and the sandbox over its HTTP API."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import urllib3

from local import ROOT
from local.emulator.deployment import Deployment, deploy_stack, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import StandIn
from sandbox import judge, prove
from tests.support.deployed import VISIBILITY_S, DeployedRelay, wait_for
from tests.support.operator import Operator

SHORT: dict[str, str | int] = {"RetryBaseSeconds": 1, "RetryCapSeconds": 3, "UnknownCallGraceSeconds": 60}
# So few that one execution environment meets fewer than five failures or refusals in a row, which would take 30 s.
PROVE = ("--stack", "proved", "prove", "--sandbox", "sandbox", "--results", "24", "--outage")


class Stage(NamedTuple):
    """The sandbox, and a relay that reports to it."""

    sandbox: Deployment
    relay: DeployedRelay
    url: str

    @property
    def key(self) -> str:
        """The key in the sandbox's secret."""
        asked = {"SecretId": self.relay.deployment.outputs["CredentialsSecretArn"]}
        secret = self.sandbox.client("secretsmanager").get_secret_value(**asked)
        return str(json.loads(secret["SecretString"])["api_key"])

    def post(self, uuid: str, status: str = "Success", **headers: str) -> tuple[int, Any]:
        """POST a result to the sandbox; return status and body."""
        headers = {"x-api-key": self.key, "x-user-id": "made-up-user-of-sandbox", **headers}
        with urllib3.PoolManager(ca_certs=str(self.sandbox.emulator.ca_bundle), retries=False, timeout=60) as http:
            reply = http.request("POST", self.url, json={"uuid": uuid, "status": status}, headers=headers)
        return reply.status, reply.json()

    def items(self) -> list[dict[str, Any]]:
        """Return what the sandbox's table has."""
        found = self.sandbox.client("dynamodb").scan(TableName=self.sandbox.outputs["TableName"])["Items"]
        return [{name: next(iter(value.values())) for name, value in item.items()} for item in found]


@pytest.fixture(scope="module")
def stage(emulator: Emulator, built: Path) -> Iterator[Stage]:
    """Deploy the sandbox, and a relay that reports to it."""
    sandbox = deploy_stack(emulator, "sandbox", ROOT / "sandbox" / "template.yaml", {})
    parameters = dict(word.split("=") for word in sandbox.outputs["RelayParameters"].split())
    deployment = sam_deploy(emulator, "proved", built, {**SHORT, **parameters})
    deployment.shorten_visibility(VISIBILITY_S)
    deployment.limit_environments(1)  # so that all results meet the same gate
    relay = DeployedRelay(deployment, StandIn())
    relay.active()
    # No name server knows the host of the API. The emulator serves it below a path of its own, too.
    served = rf"//localhost:{emulator.port}/_aws/execute-api/\1/$default"
    url = re.sub(r"//(\w+)\.execute-api\.localhost:\d+", served, parameters["WebhookUrl"])
    with relay.reconfigured(WEBHOOK_URL=url, SSL_CERT_FILE=str(emulator.ca_bundle)):
        yield Stage(sandbox, relay, url)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Wait less for what AWS needs longer for."""
    monkeypatch.setattr(prove, "LAG_S", 0)
    monkeypatch.setattr(prove, "POLL_S", 0.5)
    return monkeypatch


def test_the_sandbox_keeps_the_contract_and_records_what_it_accepts(stage: Stage) -> None:
    """A developer would test against something that BetaTel is not, or a proof would rest on nothing."""
    assert stage.post("one") == (200, {"uuid": "one", "status": "Success", "message": "OK"})
    assert [stage.post("one", "success")[0], stage.post("one", **{"x-api-key": "other"})[0]] == [400, 401]
    assert [stage.post("test-500x2-a")[0] for _ in range(3)] == [500, 500, 200]
    assert sorted(item["uuid"] for item in stage.items() if item["accepted"]) == ["one", "test-500x2-a"]
    assert len(stage.items()) == 4  # a stranger can't fill the table


def test_all_is_accounted_for(stage: Stage, operator: Operator, quick: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A buyer would have to believe an emulator, and would get a page that shows a key or needs the network."""
    before, report = stage.key, tmp_path / "proof.html"
    drill, answers = prove.Proof.drill, list[int]()

    def drill_and_ask(proof: prove.Proof, **spans_s: float) -> None:
        drill(proof, **dict.fromkeys(spans_s, 600.0))  # it lasts until the answer
        answers.append(stage.post("one")[0])
        drill(proof, **spans_s)

    quick.setattr(prove.Proof, "drill", drill_and_ask)
    proved = operator(*PROVE, "1", "--report", str(report))
    assert (proved.status, proved.err, answers) == (0, "", [200, 200, 500, 401, 200])
    rows = dict(re.findall(r"^(\S.*\S) +(\d+ +\d+)$", proved.out, re.MULTILINE))
    assert {name: numbers.split() for name, numbers in rows.items()} == {
        "accepted once": ["17", "17"],
        "nothing: a copy": ["1", "1"],
        "parked: conflicting_status": ["1", "1"],
        "parked: invalid_event": ["4", "4"],
        "parked: rejected": ["1", "1"],
    }
    assert stage.key != before
    text = report.read_text()
    assert text.index("Proved: each result") < text.index("500 to everything")
    assert not [key for key in (before, stage.key) if key in text]
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", text)


def test_a_forgetful_relay_is_noticed(stage: Stage, operator: Operator, quick: pytest.MonkeyPatch) -> None:
    """A relay that reports copies again would be proved."""
    quick.setattr(judge, "AT_ONCE_S", 0)
    quick.setattr(prove, "SETTLE_S", 3)
    with stage.relay.reconfigured(LEDGER_TABLE_NAME=""):
        proved = operator(*PROVE, "1")
    assert proved.status == 1
    assert re.search(r"^deviates: proof-\w+-\d+: accepted 2 times$", proved.out, re.MULTILINE)


def test_an_interruption_heals_the_sandbox(stage: Stage, operator: Operator) -> None:
    """After Ctrl-C the sandbox would fail for ever, and nobody would know how far the proof was."""
    command = [sys.executable, "-m", "ops", *PROVE, "600"]
    own = {"PATH": os.defpath, "HOME": os.devnull, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    with subprocess.Popen(
        command, env={**own, **operator.emulator.environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: any("outage_until" in item for item in stage.items()), "the outage")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"^Stopped in outage, after \d+ results of 24\.\n.* keeps its contract again", said)
    assert stage.post("one")[0] == 200
