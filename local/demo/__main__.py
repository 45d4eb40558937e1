"""`make demo`: send results through the deployed relay to an endpoint that misbehaves, and account for each of them."""

import contextlib
import secrets
import sys
import tempfile
from pathlib import Path

import click

from local.command import run_command, stopwatch
from local.demo.report import show
from local.demo.run import PARAMETERS, Run
from local.emulator.deployment import sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import WEBHOOK_PATH, StandIn

LEAST_RESULTS = 40  # to hold each kind of result
MOST_SHOWN = 20


@click.command()
@click.option("--results", type=click.IntRange(LEAST_RESULTS), default=400, show_default=True, help="How many to send.")
def main(results: int) -> None:
    """Show the relay end to end on this machine."""
    sys.exit(run_command(lambda: demonstrate(results)))


def demonstrate(results: int) -> int:
    """Set up and run a scenario, show its outcomes; return the exit code."""
    say = stopwatch()
    api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
    with contextlib.ExitStack() as ending:
        state = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="flash-call-relay-")))
        endpoint = ending.enter_context(StandIn(api_key=api_key, user_id=user_id))
        say(f"the stand-in endpoint listens on {endpoint.url.removesuffix(WEBHOOK_PATH)}")
        emulator = ending.enter_context(Emulator(state, say=say))
        parameters = {"WebhookUrl": endpoint.url, **PARAMETERS}
        deployment = sam_deploy(emulator, "flash-call-relay-demo", sam_build(emulator), parameters)
        say("filling the secret with made-up credentials")
        deployment.fill_secret(api_key, user_id)
        run = Run(deployment, endpoint, results, say)
        run.send_all()
        say("counting the outcomes")
        deviations = show(run)
        say("ending the emulator and the endpoint")
    for deviation in deviations[:MOST_SHOWN]:
        print(deviation)
    print(f"{len(deviations)} deviations." if deviations else "Every result sent is accounted for.")
    return 1 if deviations else 0


if __name__ == "__main__":
    main()
