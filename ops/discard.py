"""`parked discard` and `dead discard`: off the queue for good, once it is written to a file."""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click

from ops import show
from ops.messages import Filter, Message
from ops.places import MakeStack, Place, filters, go_ahead, sum_up, take
from ops.problems import Problem
from ops.queue import Pace

FAST = 1000  # a second


def command(place: Place) -> click.Command:
    """Return the command for one of the queues."""

    @click.command("discard")
    @filters(place)
    @click.option("--limit", type=click.IntRange(min=0), default=0, help="So many at most, the oldest first.")
    @click.option("--to", "path", help="A new file for what is removed.  [default: named after queue, stack and time]")
    @click.option("--dry-run", is_flag=True, help="Count and show, and do nothing.")
    @click.option("--yes", is_flag=True, help="Don't ask.")
    @click.pass_obj
    def discard(
        make_stack: MakeStack, /, *, hold_s: int, path: str | None, dry_run: bool, yes: bool, **wanted: Any
    ) -> int:
        """Delete messages for good, after writing all that they say to a file.

        The file has a JSON object a line, and `send --file` takes the results in it, if it was a mistake; what was no
        result is in `body`.
        """
        stack = make_stack()
        choice = place.choose(stack, hold_s, Filter(**wanted))
        choice.show(None if dry_run else 0)
        choice = replace(choice, to_follow=0)  # what is not in the file is not deleted
        path = path or f"{place.name}-{stack.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
        question = f"Delete {show.count(len(choice.messages), 'message')} for good, after writing them to {path}?"
        if choice.messages:
            click.echo()
        if not choice.messages or not go_ahead(question, dry_run=dry_run, yes=yes):
            return 0
        write(path, choice.messages)
        click.echo(f"What they say is in {path} now.")
        deleted = take(place.queue(stack, hold_s), choice, _all_of_them, Pace(FAST), "deleted")
        return sum_up("deleted", len(choice.messages), deleted, {})

    return discard


def _all_of_them(messages: Sequence[Message]) -> Collection[str]:
    return [message.message_id for message in messages]


def write(path: str, messages: Sequence[Message]) -> None:
    """Write messages to a new file, and onto the disk.

    Raises:
        Problem: if that can't be.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:  # noqa: PTH123 - of a descriptor
            file.writelines(json.dumps(line) + "\n" for message in messages for line in message.as_json())
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise Problem(f"{path} exists: name a new file with --to. Nothing was deleted.") from None
    except OSError as error:
        raise Problem(f"{path} can't be written ({error.strerror}), so nothing was deleted.") from None
