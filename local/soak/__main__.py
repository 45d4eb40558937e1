"""`make soak`: send results through the deployed relay under every fault together, and check its promises.

The function runs in AWS's own runtime. The seed sets the results and the schedule of the faults. It does not set which
results meet a fault, since the relay works in parallel.
"""

import contextlib
import secrets
import sys
import tempfile
from functools import partial
from pathlib import Path

import click

from local.command import run_command, stopwatch
from local.emulator.deployment import sam_build
from local.emulator.emulator import Emulator
from local.soak.plan import Plan
from local.soak.run import Soak, deployed

LEAST_RESULTS = 300  # so that each fault occurs
RESULTS_PER_OUTAGE = 10_000


@click.command()
@click.option(
    "--results", type=click.IntRange(LEAST_RESULTS), default=10_000, show_default=True, help="About how many to send."
)
@click.option("--seed", default=lambda: secrets.token_hex(4), help="Repeats a plan; by default a new one.")
@click.option("--keep", type=click.Path(path_type=Path), help="A directory for the function's logs.")
def main(results: int, seed: str, keep: Path | None) -> None:
    """Send results through the deployed relay under every fault together, and check its promises."""
    sys.exit(run_command(lambda: soak(results, seed, keep)))


def soak(results: int, seed: str, keep: Path | None) -> int:
    """Set up and run a soak, show its report; return the exit code."""
    say = stopwatch()
    say(f"seed {seed}: --results {results} --seed {seed} repeats the plan of this run")
    plan = partial(Plan.of, results, seed)
    with contextlib.ExitStack() as ending:
        state = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="flash-call-relay-soak-")))
        emulator = ending.enter_context(Emulator(state, say))
        template = sam_build(emulator)
        deployment = ending.enter_context(deployed(emulator, template))
        package, logs = template.parent / "RelayFunction", keep or state / "environments"
        run = ending.enter_context(Soak(deployment, package, logs, plan, say))
        run.limit_s += results / 20
        report = run.run(outages=max(1, results // RESULTS_PER_OUTAGE))
    report.show()
    return 1 if any(report.problems()) else 0


if __name__ == "__main__":
    main()
