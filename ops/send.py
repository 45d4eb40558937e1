"""`send`: put results on the result queue."""

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import click

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult
from ops.errors import CommandError
from ops.files import Lines, read
from ops.options import STATUS
from ops.output import count, progress
from ops.queues import WORKERS, Pace, Queue, chunks
from ops.stack import Stack

BAD_SHOWN = 20


@click.command()
@click.option("--uuid", help="The call, as BetaTel named it.")
@click.option("--status", type=STATUS, help="The call's status.")
@click.option("--file", "file", help="CSV with the header uuid,status, or one JSON object per line; - is stdin.")
@click.option("--skip-bad", is_flag=True, help="Send the good lines of a file that has bad ones.")
@click.option("--rate", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Results per second.")
@click.option("--dry-run", is_flag=True, help="Check the file, and send nothing.")
@click.pass_obj
def send(
    stack: Stack, *, uuid: str | None, status: str | None, file: str | None, skip_bad: bool, rate: int, dry_run: bool
) -> int:
    """Put one result, or a file of results, on the result queue.

    The command checks the whole file first. If a line is bad, it sends nothing.
    """
    if file and not (uuid or status):
        lines = read(file)
    elif uuid is not None and status and not file:
        lines = _one(uuid, status)
    else:
        raise CommandError("Say what to send: --uuid and --status, or --file.")
    good, bad = lines.good, lines.bad
    shown = len(bad) if skip_bad else BAD_SHOWN  # with --skip-bad, name every line that is left out
    for number in list(bad)[:shown]:
        click.echo(f"line {number}: {bad[number]}", err=True)
    if len(bad) > shown:
        click.echo(f"... and {len(bad) - shown:,} more bad lines", err=True)
    if lines.copies:
        click.echo(f"{count(lines.copies, 'repeated line')} left out.", err=True)
    if bad and not skip_bad:
        whole, verb = count(len(good) + len(bad), "line"), "is" if len(bad) == 1 else "are"
        click.echo(f"Nothing was sent: {len(bad):,} of {whole} {verb} bad. Fix them, or add --skip-bad.", err=True)
        return 1
    if dry_run:
        click.echo(f"Dry run: {count(len(good), 'result')} would be sent.")
        return 0
    refused = _send(Queue.of(stack, "ResultQueueUrl"), good, rate)
    for line, fault in list(refused.items())[:BAD_SHOWN]:
        click.echo(f"SQS refused line {line}: {fault}", err=True)
    sent = count(len(good) - len(refused), "result")
    left_out = f" {count(len(bad), 'bad line')} left out." if bad else ""
    click.echo(f"{sent} sent to the result queue of {stack.label}.{left_out}")
    return 1 if refused else 0


def _one(uuid: str, status: str) -> Lines:
    content = parse_body(json.dumps({"uuid": uuid, "status": status}))
    if not isinstance(content, FlashCallResult):
        raise CommandError(f"{content.fault}.")
    return Lines(good={1: content})


def _send(queue: Queue, results: Mapping[int, FlashCallResult], rate: int) -> dict[str, str]:
    """Send results at a rate; return the fault of each result that SQS refused, by its line."""
    bodies = {str(line): json.dumps({"uuid": one.uuid, "status": one.status}) for line, one in results.items()}
    groups = list(chunks({line: {"MessageBody": body} for line, body in bodies.items()}))
    pace, over = Pace(rate), threading.Event()
    sent = 0
    refused: dict[str, str] = {}

    def work(lines: list[str]) -> dict[str, str]:
        pace.wait_for(len(lines), over)
        return {} if over.is_set() else queue.send({line: bodies[line] for line in lines})

    with progress("sending", len(bodies)) as tell, ThreadPoolExecutor(WORKERS) as pool:
        try:
            for lines, faults in zip(groups, pool.map(work, groups), strict=True):
                refused |= faults
                sent += len(lines) - len(faults)
                tell(sent)
        except BaseException:
            over.set()
            whole = count(len(bodies), "result")
            click.echo(f"At least {sent:,} of {whole} were sent. You can send all of them again safely.", err=True)
            raise
    return refused
