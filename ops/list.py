"""`parked list` and `dead list`: show messages, and the counts that `replay` and `discard` show first."""

import json
import time
from collections.abc import Sequence
from typing import Any

import click

from ops.messages import Filter, Message, Selection
from ops.options import filter_options
from ops.output import DAY_S, HOUR_S, count, duration, table, timestamp
from ops.queues import QueueKind
from ops.stack import Stack

ROWS = 20
UUID_CHARACTERS = 40
EXPIRES_SOON_S = 3 * DAY_S


def list_command(kind: QueueKind) -> click.Command:
    """Return the `list` command of a queue."""

    @click.command("list", params=filter_options(kind))
    @click.option("--limit", type=click.IntRange(min=0), help=f"Messages to show; 0: all.  [default: {ROWS}]")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object per line, of all messages that match.")
    @click.pass_obj
    def list_messages(stack: Stack, /, *, hold_s: int, limit: int | None, as_json: bool, **filters: Any) -> None:
        """Count the messages by reason, HTTP status and age, and show the oldest.

        Afterwards each message is visible again. Only SQS's count of its receives has grown.
        """
        selection = kind.select(stack, hold_s, Filter(**filters))
        if as_json:
            for message in selection.messages[: limit or None]:
                for line in message.as_json():
                    click.echo(json.dumps(line))
            return
        show(selection, ROWS if limit is None else limit or None)
        if limit is None and len(selection.messages) > ROWS:
            more = len(selection.messages) - ROWS
            click.echo(f"\n... and {more:,} more: --limit 0 shows all, --json shows each in full.")
        if selection.messages:
            click.echo(f"\nWhat to do, by reason: {kind.section}")

    return list_messages


def show(selection: Selection, rows: int | None) -> None:
    """Print how many messages a queue has and how many match, then the oldest of them; `rows` None: all."""
    if selection.found:
        matching = len(selection.messages)
        match = "" if matching == selection.found else f"; {matching:,} match"
        click.echo(f"{count(selection.found, 'message')} on {selection.where}{match}.")
    else:
        click.echo(f"No visible messages on {selection.where}.")
    if selection.messages and selection.missing:
        click.echo(f"No match for {', '.join(selection.missing)}.")
    if selection.hidden:
        click.echo(
            f"About {selection.hidden:,} more have just arrived, or another command holds them. If that was killed, "
            "they become visible again within its --hold seconds."
        )
    if selection.beyond:
        click.echo(
            f"SQS allows about 120,000 messages in flight: about {selection.beyond:,} more follow when these are gone."
        )
    if selection.messages:
        _show_counts(selection.messages)
        if rows != 0:
            columns = ("since", "expires in", "reason", "HTTP", "uuid", "status", "detail")
            click.echo()
            lines = [_row(message, selection.retention_s) for message in selection.messages[:rows]]
            table(columns, lines, right=("HTTP", "expires in"))


def _show_counts(messages: Sequence[Message]) -> None:
    now = time.time()
    ages: dict[tuple[str, int | None], list[float]] = {}
    for message in messages:
        ages.setdefault((message.reason, message.http_status), []).append(now - message.sent_at)
    groups = sorted(ages.items(), key=lambda group: (-len(group[1]), str(group[0])))
    rows = [
        (reason, http_status, f"{len(of_group):,}", *_by_age(of_group), duration(max(of_group)))
        for (reason, http_status), of_group in groups
    ]
    figures = ("HTTP", "messages", "< 1 h", "< 1 d", "older", "oldest")
    click.echo()
    table(("reason", *figures), rows, right=figures)


def _by_age(ages: Sequence[float]) -> list[str]:
    hour = sum(age < HOUR_S for age in ages)
    day = sum(HOUR_S <= age < DAY_S for age in ages)
    return [f"{number:,}" if number else "" for number in (hour, day, len(ages) - hour - day)]


def _row(message: Message, retention_s: int) -> tuple[object, ...]:
    left_s = message.sent_at + retention_s - time.time()
    warning = "! " if left_s < EXPIRES_SOON_S else ""
    first = message.results[0] if message.results else None
    uuid = first.uuid if first else "-"
    if len(uuid) > UUID_CHARACTERS:
        uuid = uuid[: UUID_CHARACTERS - 1] + "…"
    if len(message.contents) > 1:
        uuid += f" +{len(message.contents) - 1}"
    return (
        timestamp(message.sent_at),
        warning + duration(left_s),
        message.reason,
        message.http_status,
        uuid,
        first.status if first else None,
        message.detail,
    )
