"""`parked discard` and `dead discard`: delete messages permanently, after saving them to a file."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click

from ops.files import write
from ops.list import show
from ops.messages import Filter, Message
from ops.options import confirmed, dry_run_option, filter_options, limit_option, yes_option
from ops.output import count
from ops.queues import QueueKind, print_taken, take_with_progress
from ops.stack import Stack

RATE = 1000  # messages per second


def discard_command(kind: QueueKind) -> click.Command:
    """Return the `discard` command of a queue."""

    @click.command("discard", params=filter_options(kind))
    @limit_option
    @click.option("--to", "path", help="A new file for the messages.  [default: named after queue, stack and time]")
    @dry_run_option
    @yes_option
    @click.pass_obj
    def discard(stack: Stack, /, *, hold_s: int, path: str | None, dry_run: bool, yes: bool, **filters: Any) -> int:
        """Delete messages permanently, after saving them to a file.

        The file has one JSON object per line. `send --file` sends the results in it again (with --skip-bad if some
        messages were no results). `body` has every message as it was.
        """
        selection = kind.select(stack, hold_s, Filter(**filters))
        show(selection, None if dry_run else 0)
        selection = replace(selection, beyond=0)  # only messages in the file are deleted
        if not selection.messages:
            return 0
        path = path or f"{kind.group}-{stack.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
        click.echo()
        question = f"Delete {count(len(selection.messages), 'message')} permanently, after saving them to {path}?"
        if not confirmed(question, dry_run=dry_run, yes=yes):
            return 0
        write(path, selection.messages)
        click.echo(f"The messages are saved in {path}.")
        deleted = take_with_progress(kind.of(stack, hold_s), selection, _all_ids, RATE, "deleted")
        return print_taken("deleted", len(selection.messages), deleted, refused={})

    return discard


def _all_ids(messages: Sequence[Message]) -> list[str]:
    return [message.message_id for message in messages]
