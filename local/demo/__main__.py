"""`make demo`: send results through the deployed relay to an endpoint that misbehaves, and account for each of them."""

import click

from local.command import exits, stopwatch
from local.demo import running
from local.demo.report import show
from local.demo.run import PARAMETERS, Run

LEAST_RESULTS = 40  # to hold each kind of result
MOST_SHOWN = 20


@click.command()
@click.option("--results", type=click.IntRange(LEAST_RESULTS), default=400, show_default=True, help="How many to send.")
@exits
def main(results: int) -> int:
    """Show the relay end to end on this machine."""
    say = stopwatch()
    with running("flash-call-relay-demo", PARAMETERS, say) as (deployment, endpoint):
        run = Run(deployment, endpoint, results)
        run.send_all()
        say("counting the outcomes")
        deviations = show(run)
    for deviation in deviations[:MOST_SHOWN]:
        print(deviation)
    print(f"{len(deviations)} deviations." if deviations else "Every result sent is accounted for.")
    return 1 if deviations else 0


if __name__ == "__main__":
    main()
