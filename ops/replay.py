"""`parked replay` and `dead replay`: send messages to the result queue again, then delete them."""

from collections.abc import Collection, Sequence
from typing import Any

import click

from flash_call_relay.models import Reason, Status
from ops.errors import CommandError
from ops.ledger import Ledger
from ops.list import show
from ops.messages import Filter, Message
from ops.options import STATUS, confirmed, dry_run_option, filter_options, limit_option, yes_option
from ops.output import count
from ops.queues import Queue, QueueKind, print_taken, take_with_progress
from ops.stack import Stack


def replay_command(kind: QueueKind) -> click.Command:
    """Return the `replay` command of a queue."""

    @click.command("replay", short_help="Send messages to the result queue again.", params=filter_options(kind))
    @limit_option
    @click.option("--rate", type=click.IntRange(1, 1000), default=100, show_default=True, help="Messages per second.")
    @click.option("--set-status", type=STATUS, help="Report this status instead.")
    @dry_run_option
    @yes_option
    @click.pass_obj
    def replay(
        stack: Stack, /, *, hold_s: int, rate: int, set_status: Status | None, dry_run: bool, yes: bool, **filters: Any
    ) -> int:
        """Send messages to the result queue again, and delete them from this queue.

        You can interrupt and repeat this safely: the command sends a message before it deletes it, and the relay does
        not report a confirmed result twice. --set-status corrects a contradiction: the relay forgets the other status.
        """
        if set_status and not (filters["uuids"] or filters["reasons"]):
            raise CommandError("--set-status changes what is reported: choose the results with --uuid or --reason.")
        selection = kind.select(stack, hold_s, Filter(**filters))
        show(selection, None if dry_run else 0)
        if not selection.messages:
            return 0
        click.echo()
        warn(selection.messages, set_status)
        up_to = "up to " if selection.beyond else ""
        question = f"Send {up_to}{count(selection.size, 'message')} to the result queue of {stack.label}?"
        if not confirmed(question, dry_run=dry_run, yes=yes):
            return 0
        sender, queue = Sender(stack, set_status), kind.of(stack, hold_s)
        replayed = take_with_progress(queue, selection, sender.send, rate, "replayed")
        status = print_taken("replayed", len(selection.messages), replayed, sender.refused)
        if selection.beyond and (left := queue.depth().total):
            click.echo(f"About {left:,} messages remain on the {kind.title}: they don't match, or are newer.")
        return status

    return replay


class Sender:
    """Sends messages to the result queue, from several threads."""

    def __init__(self, stack: Stack, set_status: Status | None) -> None:
        self.refused: dict[str, str] = {}  # the faults of the messages that SQS did not take, by message id
        self._set_status = set_status
        self._results = Queue.of(stack, "ResultQueueUrl")
        self._ledger = Ledger(stack)

    def send(self, messages: Sequence[Message]) -> Collection[str]:
        """Send messages; return the ids of those that were sent in full."""
        bodies = {}
        for message in messages:
            if self._set_status:  # because of the other status, the relay would park this one again
                for result in message.results:
                    self._ledger.remove(result.uuid, "#status <> :status", status={"S": self._set_status})
            for number, body in enumerate(message.replay_bodies(self._set_status)):
                bodies[f"{message.message_id} {number}"] = body
        refused = {key.partition(" ")[0]: fault for key, fault in self._results.send(bodies).items()}
        self.refused.update(refused)
        return {message.message_id for message in messages} - refused.keys()


def warn(messages: Sequence[Message], set_status: Status | None) -> None:
    """Print how many of the messages the relay will park again."""
    invalid = sum(not message.results for message in messages)
    if invalid:
        click.echo(f"The relay will park {count(invalid, 'message')} again for not being a result.")
    conflicting = sum(message.reason == Reason.CONFLICTING_STATUS for message in messages)
    if conflicting and not set_status:
        click.echo(
            f"The relay will park {count(conflicting, 'message')} again for contradicting a confirmed result, unless "
            "--set-status gives the correct status."
        )
