"""The ledger of confirmed results, and `forget`, which removes an entry of it."""

import shlex
import time
from collections.abc import Sequence
from typing import Any

import click

from flash_call_relay.models import Confirmed
from ops.errors import CommandError
from ops.output import Tell, confirmed, timestamp, yes_option
from ops.stack import Stack

MAX_KEYS = 100  # of DynamoDB in one call
PAUSE_S = 0.2  # before the command asks again for what DynamoDB left out


class Ledger:
    """The ledger of a stack. It is empty if the stack has none."""

    def __init__(self, stack: Stack) -> None:
        self.table = stack.outputs.get("LedgerTableName")
        self._dynamodb: Any = stack.client("dynamodb")

    def entries(self, uuids: Sequence[str], tell: Tell = lambda _: None) -> dict[str, Confirmed]:
        """Return the entries of these calls, by uuid. `tell` takes the number of calls so far."""
        found: dict[str, Confirmed] = {}
        for start in range(0, len(uuids) if self.table else 0, MAX_KEYS):
            keys = [{"uuid": {"S": uuid}} for uuid in uuids[start : start + MAX_KEYS]]
            wanted = {self.table: {"Keys": keys, "ConsistentRead": True}}
            while wanted:
                reply = self._dynamodb.batch_get_item(RequestItems=wanted)
                for item in reply["Responses"].get(self.table, ()):
                    found[item["uuid"]["S"]] = Confirmed(item["status"]["S"], float(item["confirmed_at"]["N"]))
                if wanted := reply.get("UnprocessedKeys"):
                    time.sleep(PAUSE_S)
            tell(start + len(keys))
        return found

    def remove(self, uuid: str, condition: str, **values: dict[str, str]) -> bool:
        """Remove the entry of a call if it meets the condition; return whether it did."""
        try:
            self._dynamodb.delete_item(
                TableName=self.table,
                Key={"uuid": {"S": uuid}},
                ConditionExpression=condition,
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={f":{name}": value for name, value in values.items()},
            )
        except self._dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True


@click.command()
@click.option("--uuid", required=True, help="The call, as BetaTel named it.")
@yes_option
@click.pass_obj
def forget(stack: Stack, *, uuid: str, yes: bool) -> int:
    """Forget that a result is confirmed, so that it can be sent again.

    For a confirmation that was none. The command removes the call's entry from the ledger, and sends nothing itself.
    Exit status 1 if there is no entry.
    """
    ledger = Ledger(stack)
    if not ledger.table:
        raise CommandError(f"{stack.label} has no ledger (Deduplication is false): the relay sends every result.")
    entry = ledger.entries([uuid]).get(uuid)
    if not entry:
        click.echo(f"The ledger of {stack.label} has no entry of {uuid}: the relay sends a result of it.", err=True)
        return 1
    click.echo(f"The ledger of {stack.label} has {uuid}: {entry.status}, confirmed at {timestamp(entry.at)}.")
    if not confirmed("Remove this entry?", yes=yes):
        return 0
    same, at = "#status = :status AND confirmed_at = :at", str(int(entry.at))
    if not ledger.remove(uuid, same, status={"S": entry.status}, at={"N": at}):
        click.echo("The entry has changed meanwhile, so nothing was removed: repeat the command.", err=True)
        return 1
    again = stack.command(f"send --uuid {shlex.quote(uuid)} --status {entry.status}")
    click.echo(f"Removed. To send the result again, with the other status if that is the true one: {again}")
    return 0
