"""`make soak`: send results through the deployed relay under every fault together, and check its promises.

The function runs in AWS's own runtime. The seed sets the results and the schedule of the faults. It does not set which
results a fault fault_counts, since the relay works in parallel.
"""

import argparse
import contextlib
import pickle
import secrets
import sys
import tempfile
from pathlib import Path

from local.command import Parser, run_command, stopwatch, whole
from local.emulator.deployment import sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from local.processes import held_port
from local.soak.facts import Facts
from local.soak.plan import Plan
from local.soak.report import show
from local.soak.run import PARAMETERS, Soak

LEAST_RESULTS = 300  # so that each fault occurs
RESULTS_PER_OUTAGE = 10_000


def main() -> int:
    """Parse the options and run the soak."""
    parser = Parser(prog="python -m local.soak", description="The relay under every fault together.")
    parser.add_argument(
        "--results", type=whole(LEAST_RESULTS), default=10_000, help="about how many to send (default %(default)s)"
    )
    parser.add_argument("--seed", default=secrets.token_hex(4), help="repeats a plan (default: a new one)")
    parser.add_argument("--keep", type=_directory, help="a directory for the function's log and all facts")
    options = parser.parse_args()
    return run_command(lambda: soak(options))


def soak(options: argparse.Namespace) -> int:
    """Set up and run a soak, show its report; return the exit code."""
    say = stopwatch()
    say(f"seed {options.seed}: --results {options.results} --seed {options.seed} repeats the plan of this run")
    with contextlib.ExitStack() as ending:
        state = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="flash-call-relay-soak-")))
        other_host = ending.enter_context(StandIn(api_key="none", user_id="none"))
        port = ending.enter_context(held_port())
        emulator = ending.enter_context(Emulator(state, say=say))
        template = sam_build(emulator)
        parameters = {"WebhookUrl": f"http://127.0.0.1:{port}{WEBHOOK_PATH}", **PARAMETERS}
        deployment = sam_deploy(emulator, "flash-call-relay-soak", template, parameters)
        plan = Plan.of(options.results, options.seed, other_host.url)
        package, logs = template.parent / "RelayFunction", state / "environments"
        with Soak(deployment, port, package, logs, plan, other_host, say) as run:
            run.limit_s += options.results / 20
            report = run.run(outages=max(1, options.results // RESULTS_PER_OUTAGE))
        show(report)
        if options.keep:
            _keep(report.facts, options.keep)
    return 0 if report.passed else 1


def _directory(text: str) -> Path:
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"expected a directory to write, got {text!r} ({error.strerror})") from None
    return Path(text)


def _keep(facts: Facts, directory: Path) -> None:
    (directory / "runtime.log").write_text("\n".join(facts.raw_log))
    # `promises.check` can check these facts again. The credentials in them were made up.
    (directory / "facts.pickle").write_bytes(pickle.dumps(facts))


if __name__ == "__main__":
    sys.exit(main())
