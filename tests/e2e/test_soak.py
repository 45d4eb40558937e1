"""All faults together, in AWS's own Lambda runtime."""

from pathlib import Path

from local.soak.plan import Plan
from local.soak.report import show
from local.soak.run import Soak
from tests.support.deployed import SOAK_SOURCE, SoakStage

RESULTS = 300


def test_every_promise_holds_under_every_fault(stage: SoakStage, package: Path, tmp_path: Path) -> None:
    """When several things fail on the same day, a result would be lost, sent twice or shown to a stranger."""
    plan = Plan.of(RESULTS, "pytest", stage.other_host.url, SOAK_SOURCE)
    with Soak(stage.deployment, stage.port, package, tmp_path, plan, stage.other_host) as soak:
        report = soak.run(outages=1)
    show(report)
    assert {promise.name: promise.broken for promise in report.broken} == {}
    assert report.missing_faults == []
    assert report.settled
    assert all(promise.checked for promise in report.promises)
