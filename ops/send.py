"""`send`: results onto the result queue."""

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import click

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult
from ops import show
from ops.files import Lines, read
from ops.problems import Problem
from ops.queue import GLANCE_S, MAX_ENTRIES, WORKERS, Pace
from ops.sending import send as send_bodies
from ops.stack import Stack

BAD_SHOWN = 20


@click.command()
@click.option("--uuid", help="The call, as BetaTel named it.")
@click.option("--status", type=click.Choice(["Success", "Failed"]), help="Its verdict.")
@click.option("--file", "file", help="CSV with the header uuid,status, or a JSON object a line; - is standard input.")
@click.option("--skip-bad", is_flag=True, help="Send the good lines of a file that has bad ones.")
@click.option("--rate", type=click.IntRange(1, 10_000), default=500, show_default=True, help="So many a second.")
@click.option("--dry-run", is_flag=True, help="Check the file, and send nothing.")
@click.pass_obj
def send(
    make_stack: Callable[[], Stack],
    *,
    uuid: str | None,
    status: str | None,
    file: str | None,
    skip_bad: bool,
    rate: int,
    dry_run: bool,
) -> int:
    """Put one result, or a file of them, on the result queue.

    A file is checked whole first; if a line of it is bad, none is sent.
    """
    if file and not (uuid or status):
        lines = read(file)
    elif uuid is not None and status and not file:
        lines = _one(uuid, status)
    else:
        raise Problem("Say what to send: --uuid and --status, or --file.")
    good, bad = lines.good, lines.bad
    shown = None if skip_bad else BAD_SHOWN  # what is left out for good is named
    for number in list(bad)[:shown]:
        click.echo(f"line {number}: {bad[number]}", err=True)
    if shown and len(bad) > shown:
        click.echo(f"... and {len(bad) - BAD_SHOWN:,} more bad lines", err=True)
    if lines.copies:
        click.echo(f"{show.count(lines.copies, 'line')} left out: they repeat others.", err=True)
    if bad and not skip_bad:
        whole = show.count(len(good) + len(bad), "line")
        click.echo(f"Nothing was sent: {len(bad):,} of {whole} can't be. Mend them, or add --skip-bad.", err=True)
        return 1
    if dry_run:
        click.echo(f"A dry run: {show.count(len(good), 'result')} would be sent.")
        return 0
    stack = make_stack()
    refused = _send(stack, {str(number): result for number, result in good.items()}, rate)
    for line, fault in list(refused.items())[:BAD_SHOWN]:
        click.echo(f"SQS refused line {line}: {fault}", err=True)
    sent = show.count(len(good) - len(refused), "result")
    left_out = f" {show.count(len(bad), 'bad line')} left out." if bad else ""
    click.echo(f"{sent} sent to the result queue of {stack.name} ({stack.region}).{left_out}")
    return 1 if refused else 0


def _one(uuid: str, status: str) -> Lines:
    content = parse_body(json.dumps({"uuid": uuid, "status": status}))
    if not isinstance(content, FlashCallResult):
        raise Problem(f"{content.fault}.")
    return Lines(good={1: content})


def _send(stack: Stack, results: Mapping[str, FlashCallResult], rate: int) -> dict[str, str]:
    sqs, url, pace, over = stack.client("sqs"), stack.output("ResultQueueUrl"), Pace(rate), threading.Event()
    bodies = [(key, json.dumps({"uuid": r.uuid, "status": r.status})) for key, r in results.items()]
    parts = [dict(bodies[start : start + MAX_ENTRIES]) for start in range(0, len(bodies), MAX_ENTRIES)]
    sent = 0
    refused: dict[str, str] = {}

    def work(part: dict[str, str]) -> tuple[int, dict[str, str]]:
        pace.wait_for(len(part), over)
        if over.is_set():
            return 0, {}
        failures = send_bodies(sqs, url, part)
        return len(part) - len(failures), failures

    with show.progress("sending", len(bodies)) as tell, ThreadPoolExecutor(WORKERS) as pool:
        working = {pool.submit(work, part) for part in parts}
        try:
            while working:
                ended, working = wait(working, timeout=GLANCE_S, return_when=FIRST_COMPLETED)
                for each in ended:
                    taken, failures = each.result()
                    sent += taken
                    refused |= failures
                tell(sent)
        except BaseException:
            over.set()
            click.echo(
                f"At least {sent:,} of {show.count(len(bodies), 'result')} were sent. To send all again is safe.",
                err=True,
            )
            raise
    return refused
