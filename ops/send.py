"""`send`: put results on the result queue."""

import json
from itertools import islice

import click

from flash_call_relay.events import parse_body
from flash_call_relay.models import FlashCallResult
from ops.errors import CommandError
from ops.files import read
from ops.options import STATUS
from ops.output import count, progress
from ops.queues import MAX_ENTRIES, REFUSALS_SHOWN, Queue
from ops.stack import Stack


@click.command()
@click.option("--uuid", help="The call, as BetaTel named it.")
@click.option("--status", type=STATUS, help="The call's status.")
@click.option("--file", help="CSV with the header uuid,status, or JSON lines; - is stdin.")
@click.option("--dry-run", is_flag=True, help="Check the file, and send nothing.")
@click.pass_obj
def send(stack: Stack, *, uuid: str | None, status: str | None, file: str | None, dry_run: bool) -> int:
    """Put one result, or a file of results, on the result queue.

    The command checks the whole file first. If a line is bad, it sends nothing.
    """
    if file and not (uuid or status):
        results = read(file)
    elif uuid is not None and status and not file:
        content = parse_body(json.dumps({"uuid": uuid, "status": status}))
        if not isinstance(content, FlashCallResult):
            raise CommandError(f"{content.fault}.")
        results = {1: content}
    else:
        raise CommandError("Say what to send: --uuid and --status, or --file.")
    whole = count(len(results), "result")
    if dry_run:
        click.echo(f"Dry run: {whole} would be sent.")
        return 0
    queue, refused, sent = Queue.of(stack, "ResultQueueUrl"), dict[str, str](), 0
    bodies = ((f"line {line}", json.dumps({"uuid": one.uuid, "status": one.status})) for line, one in results.items())
    try:
        with progress("sending", len(results)) as tell:
            while some := dict(islice(bodies, MAX_ENTRIES)):
                faults = queue.send(some)
                refused |= faults
                sent += len(some) - len(faults)
                tell(sent)
    except BaseException:
        if sent:
            click.echo(f"At least {sent:,} of {whole} sent. You can send all of them again safely.", err=True)
        raise
    for line, fault in islice(refused.items(), REFUSALS_SHOWN):
        click.echo(f"SQS refused {line}: {fault}", err=True)
    click.echo(f"{count(sent, 'result')} sent to the result queue of {stack.label}.")
    return 1 if refused else 0
