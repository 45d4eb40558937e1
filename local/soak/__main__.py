"""`make soak`: send results through the deployed relay under every fault together, and check its promises.

The function runs in AWS's own runtime. The seed sets the results and the schedule of the faults. It does not set which
results meet a fault, since the relay works in parallel.
"""

import argparse
import contextlib
import secrets
import sys
import tempfile
from functools import partial
from pathlib import Path

from local.command import Parser, run_command, stopwatch, whole
from local.emulator.deployment import sam_build
from local.emulator.emulator import Emulator
from local.soak.plan import Plan
from local.soak.run import Soak, deployed

LEAST_RESULTS = 300  # so that each fault occurs
RESULTS_PER_OUTAGE = 10_000


def main() -> int:
    """Parse the options and run the soak."""
    parser = Parser(prog="python -m local.soak", description="The relay under every fault together.")
    parser.add_argument(
        "--results", type=whole(LEAST_RESULTS), default=10_000, help="about how many to send (default %(default)s)"
    )
    parser.add_argument("--seed", default=secrets.token_hex(4), help="repeats a plan (default: a new one)")
    parser.add_argument("--keep", type=Path, help="a directory for the function's logs")
    options = parser.parse_args()
    return run_command(lambda: soak(options))


def soak(options: argparse.Namespace) -> int:
    """Set up and run a soak, show its report; return the exit code."""
    say = stopwatch()
    say(f"seed {options.seed}: --results {options.results} --seed {options.seed} repeats the plan of this run")
    plan = partial(Plan.of, options.results, options.seed)
    with contextlib.ExitStack() as ending:
        state = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="flash-call-relay-soak-")))
        emulator = ending.enter_context(Emulator(state, say=say))
        template = sam_build(emulator)
        deployment = ending.enter_context(deployed(emulator, template))
        package, logs = template.parent / "RelayFunction", options.keep or state / "environments"
        run = ending.enter_context(Soak(deployment, package, logs, plan, say))
        run.limit_s += options.results / 20
        report = run.run(outages=max(1, options.results // RESULTS_PER_OUTAGE))
    report.show()
    return 1 if any(report.problems()) else 0


if __name__ == "__main__":
    sys.exit(main())
