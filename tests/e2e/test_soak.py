"""All faults together, under AWS's own Lambda runtime."""

from pathlib import Path

from rich.console import Console

from local.soak.plan import Plan
from local.soak.report import show
from local.soak.run import Soak
from tests.support.deployed import SOAK_SOURCE, SoakStage

RESULTS = 300


def test_every_promise_holds_under_every_fault(stage: SoakStage, package: Path, tmp_path: Path) -> None:
    """When several things fail on the same day, a result would be lost, sent twice or shown to a stranger."""
    plan = Plan.of(RESULTS, "pytest", stage.trap.url, SOAK_SOURCE)
    with Soak(stage.deployment, stage.port, package, tmp_path, plan, stage.trap) as soak:
        outcome = soak.run(storms=1)
    show(outcome, Console())
    assert {line.promise: line.broken for line in outcome.broken} == {}
    assert outcome.missed == []
    assert outcome.drained
    assert all(line.checked for line in outcome.report)
