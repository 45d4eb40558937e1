"""`make soak`: send results through the deployed relay under every fault together, and check its promises.

The function runs in AWS's own runtime. The seed sets the results and the schedule of the faults. It does not set which
results meet a fault, since the relay works in parallel.
"""

import secrets
import tempfile
from functools import partial
from pathlib import Path

import click

from local.command import exits, stopwatch
from local.emulator.deployment import sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.soak.plan import Plan
from local.soak.run import PARAMETERS, Soak

LEAST_RESULTS = 300  # so that each fault occurs
RESULTS_PER_OUTAGE = 10_000


@click.command()
@click.option(
    "--results", type=click.IntRange(LEAST_RESULTS), default=10_000, show_default=True, help="About how many to send."
)
@click.option("--seed", default=lambda: secrets.token_hex(4), help="Repeats a plan; by default a new one.")
@click.option("--keep", type=click.Path(path_type=Path), help="A directory for the function's logs.")
@exits
def main(results: int, seed: str, keep: Path | None) -> int:
    """Send results through the deployed relay under every fault together, and check its promises."""
    say = stopwatch()
    say(f"seed {seed}: --results {results} --seed {seed} repeats the plan of this run")
    with tempfile.TemporaryDirectory(prefix="flash-call-relay-soak-") as state, Emulator(Path(state), say) as emulator:
        template = sam_build(emulator)
        deployment = sam_deploy(emulator, "soak", template, PARAMETERS)
        package, logs = template.parent / "RelayFunction", keep or emulator.state / "environments"
        with Soak(deployment, package, logs, partial(Plan.of, results, seed), limit_s=900 + results / 20) as run:
            report = run.run(outages=max(1, results // RESULTS_PER_OUTAGE))
    report.show()
    return 1 if any(report.problems()) else 0


if __name__ == "__main__":
    main()
