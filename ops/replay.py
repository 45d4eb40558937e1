"""`parked replay` and `dead replay`: results onto the result queue again, and then off the queue they lie on."""

from collections.abc import Collection, Sequence
from typing import Any

import click
from botocore.exceptions import ClientError

from flash_call_relay.models import Reason, Status
from ops import show
from ops.messages import Filter, Message
from ops.places import MakeStack, Place, filters, go_ahead, sum_up, take
from ops.problems import Problem
from ops.queue import Pace
from ops.sending import send
from ops.stack import Stack


def command(place: Place) -> click.Command:
    """Return the command for one of the queues."""

    @click.command("replay")
    @filters(place)
    @click.option("--limit", type=click.IntRange(min=0), default=0, help="So many at most, the oldest first.")
    @click.option("--rate", type=click.IntRange(1, 1000), default=100, show_default=True, help="So many a second.")
    @click.option("--set-status", type=click.Choice(["Success", "Failed"]), help="Report this status instead.")
    @click.option("--dry-run", is_flag=True, help="Count and show, and do nothing.")
    @click.option("--yes", is_flag=True, help="Don't ask.")
    @click.pass_obj
    def replay(
        make_stack: MakeStack,
        /,
        *,
        hold_s: int,
        rate: int,
        set_status: Status | None,
        dry_run: bool,
        yes: bool,
        **wanted: Any,
    ) -> int:
        """Send results to the result queue again, and delete them here once they are there.

        Safe to interrupt and to repeat: a result is sent before it is deleted, and what is confirmed is not reported
        twice. --set-status corrects a contradiction: the relay forgets the other status, and reports this one.
        """
        if set_status and not (wanted["uuids"] or wanted["reasons"]):
            raise Problem("--set-status changes what is reported: say of which results, with --uuid or --reason.")
        stack = make_stack()
        choice = place.choose(stack, hold_s, Filter(**wanted))
        choice.show(None if dry_run else 0)
        if not choice.messages:
            return 0
        click.echo()
        warn(choice.messages, set_status)
        where = f"the result queue of {stack.name} ({stack.region})"
        number = ("up to " if choice.to_follow else "") + show.count(choice.number, "message")
        if not go_ahead(f"Send {number} to {where}?", dry_run=dry_run, yes=yes):
            return 0
        sender = Sender(stack, set_status)
        deleted = take(place.queue(stack, hold_s), choice, sender.send, Pace(rate), "replayed")
        done = len(deleted | sender.refused.keys())
        status = sum_up("replayed", max(done, len(choice.messages)), deleted, sender.refused)
        if choice.to_follow and (left := stack.depth(place.output).total):
            click.echo(f"About {left:,} messages are left on the {place.title}: others, or those that came since.")
        return status

    return replay


class Sender:
    """Sends messages to the result queue; from several threads.

    Attributes:
        refused: what SQS did not take, by message id.
    """

    def __init__(self, stack: Stack, set_status: Status | None) -> None:
        self.refused: dict[str, str] = {}
        self._set_status = set_status
        self._sqs, self._url = stack.client("sqs"), stack.output("ResultQueueUrl")
        self._dynamodb = stack.client("dynamodb")
        self._table = stack.outputs.get("LedgerTableName")

    def send(self, messages: Sequence[Message]) -> Collection[str]:
        """Send messages; return the ids of those of which all is sent."""
        bodies = {}
        for message in messages:
            self._forget_contradicting(message)
            for number, body in enumerate(message.for_the_relay(self._set_status)):
                bodies[f"{message.message_id} {number}"] = body
        refused = {key.partition(" ")[0]: fault for key, fault in send(self._sqs, self._url, bodies).items()}
        self.refused |= refused
        return {message.message_id for message in messages} - refused.keys()

    def _forget_contradicting(self, message: Message) -> None:
        """Let the ledger forget that the other status is confirmed: or the relay would park this one again."""
        if not self._set_status or not self._table:
            return
        for result in message.results:
            try:
                self._dynamodb.delete_item(
                    TableName=self._table,
                    Key={"uuid": {"S": result.uuid}},
                    ConditionExpression="#status <> :status",
                    ExpressionAttributeNames={"#status": "status"},
                    ExpressionAttributeValues={":status": {"S": self._set_status}},
                )
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
                    raise


def warn(chosen: Sequence[Message], set_status: Status | None) -> None:
    """Say which of these the relay will only park again."""
    unreadable = sum(1 for message in chosen if not message.results)
    if unreadable:
        click.echo(f"{unreadable:,} of these messages are no results: the relay will park them again.")
    conflicting = sum(1 for message in chosen if message.reason == Reason.CONFLICTING_STATUS)
    if conflicting and not set_status:
        click.echo(
            f"{conflicting:,} of these messages contradict what is confirmed: the relay will park them "
            "again, unless --set-status says what is true."
        )
