"""All faults together, in AWS's own Lambda runtime."""

from functools import partial
from pathlib import Path

from local.emulator.deployment import Deployment
from local.soak.plan import Plan
from local.soak.run import Soak


def test_every_promise_holds_under_every_fault(soaked: Deployment, package: Path, tmp_path: Path) -> None:
    """When several things fail on the same day, a result would be lost, sent twice or shown to a stranger."""
    with Soak(soaked, package, tmp_path, partial(Plan.of, 300, "pytest")) as soak:
        report = soak.run(outages=1)
    report.show()
    problems = [*report.problems()]
    assert not problems, "\n".join(problems)
