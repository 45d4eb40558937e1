"""`parked list` and `dead list`: what lies there, and why."""

import json
from typing import Any

import click

from ops.messages import Filter
from ops.places import MakeStack, Place, filters

SHOWN = 20


def command(place: Place) -> click.Command:
    """Return the command for one of the queues."""

    @click.command("list")
    @filters(place)
    @click.option("--limit", type=click.IntRange(min=0), help=f"Messages shown; 0: all.  [default: {SHOWN}]")
    @click.option("--json", "as_json", is_flag=True, help="A JSON object a line, of all that match.")
    @click.pass_obj
    def list_messages(
        make_stack: MakeStack, /, *, hold_s: int, limit: int | None, as_json: bool, **wanted: Any
    ) -> None:
        """Count the messages by reason, answer and age, and show the oldest.

        Each is visible again afterwards, and unchanged but for SQS's count of how often it was received.
        """
        stack = make_stack()
        choice = place.choose(stack, hold_s, Filter(**wanted))
        if as_json:
            for message in choice.messages[: limit or None]:
                for line in message.as_json():
                    click.echo(json.dumps(line))
            return
        choice.show(SHOWN if limit is None else limit or None)
        if limit is None and len(choice.messages) > SHOWN:
            click.echo(
                f"\n... and {len(choice.messages) - SHOWN:,} more: --limit 0 shows all, --json all that each says."
            )

    return list_messages
