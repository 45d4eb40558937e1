"""`parked` and `dead`: list, replay or discard the messages of a queue that needs a person."""

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, get_args

import click

from flash_call_relay.events import MAX_UUID_LENGTH
from flash_call_relay.models import Status
from flash_call_relay.text import printable
from ops.errors import CommandError
from ops.ledger import Ledger
from ops.output import DAY_S, Tell, complain, confirmed, count, duration, progress, table, yes_option
from ops.queues import DEAD, HOLD_S, MAX_ENTRIES, PARKED, RESULTS, Depth, Message, Queue, QueueKind
from ops.stack import Stack

ROWS = 8  # of messages on a terminal: with the counts they fit on 24 lines
UUID_CHARACTERS = 36
DETAILS = 2  # of one reason
EXPIRES_SOON_S = 3 * DAY_S

Messages = Sequence[Message]
Filters = Mapping[str, Sequence[str]]
Act = Callable[[Queue, Messages, Tell], Mapping[str, str]]  # returns the faults of those that it leaves on the queue


def _group(kind: QueueKind, title: str, why: str) -> click.Group:
    """Return the commands of a queue."""
    filters: list[click.Parameter] = [
        click.Option(["--reason", "reasons"], multiple=True, type=click.Choice(kind.reasons), help="Repeatable."),
        click.Option(["--uuid", "uuids"], multiple=True, help="Repeatable."),
        click.Option(["--message-id", "message_ids"], multiple=True, help="As --json shows it. Repeatable."),
    ]

    @click.command("list", params=[*filters])
    @click.option("--json", "as_json", is_flag=True, help="One JSON object per message and line, in full.")
    @click.pass_obj
    def list_messages(stack: Stack, /, *, as_json: bool, **filters: Any) -> None:
        """Show the oldest messages, and count all by reason.

        Afterwards each message is visible again. Only SQS's count of its receives has grown.
        """
        with progress(f"reading the {kind.title}", None) as tell:
            queue = kind.of(stack)
            found = queue.look(tell)
        if as_json:
            for message in _choose(found, filters):
                click.echo(message.as_json())
        elif _show(f"{kind.title} of {stack.label}", queue.depth(), found, filters, rows=True):
            click.echo(f"What to do, by reason: {kind.section}")

    @click.command("replay", short_help="Send messages to the result queue again.", params=[*filters])
    @click.option("--rate", type=click.IntRange(1, 1000), default=100, help="Messages per second.")
    @click.option("--set-status", type=click.Choice(get_args(Status)), help="Report this status instead.")
    @yes_option
    @click.pass_obj
    def replay(stack: Stack, /, *, rate: int, set_status: Status | None, **options: Any) -> int:
        """Send messages to the result queue again, and delete them from this queue.

        You can interrupt and repeat this safely: the command sends a message before it deletes it, and the relay does
        not report a confirmed result twice. --set-status corrects a contradiction, or a status that is none: the relay
        forgets the other status.
        """
        if set_status and not (options["uuids"] or options["reasons"]):
            raise CommandError("--set-status changes what is reported: choose the results with --uuid or --reason.")
        again = partial(_send_again, stack, status=set_status, rate=rate)
        return _take(stack, kind, f"Send them to the result queue of {stack.label}?", again, did="replayed", **options)

    @click.command("discard", params=[*filters])
    @click.option("--to", "path", help="A new file for the messages.  [default: named after queue, stack and time]")
    @yes_option
    @click.pass_obj
    def discard(stack: Stack, /, *, path: str | None, **options: Any) -> int:
        """Delete messages permanently, after saving them to a file.

        The file has one JSON object per line. `send --file` sends the results in it again. `body` has every message as
        it was.
        """
        name = path or f"{kind.group}-{stack.description['StackName']}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"

        def save_first(queue: Queue, messages: Messages, tell: Tell) -> Mapping[str, str]:
            _save(name, messages)
            return queue.delete(messages, tell)

        return _take(stack, kind, f"Delete them, after saving them to {name}?", save_first, did="deleted", **options)

    about = f"List, replay or discard {title}.\n\n{why}"
    return click.Group(kind.group, help=about, commands=[list_messages, replay, discard])


parked = _group(PARKED, "parked results", "A person has to decide about them; each has its reason.")
dead = _group(DEAD, "dead letters", "The relay failed on them, or EventBridge could not deliver them.")


def _take(stack: Stack, kind: QueueKind, asks: str, act: Act, *, did: str, yes: bool, **filters: Any) -> int:
    """Ask, and act on the chosen messages, which others can't see meanwhile; return the exit status."""
    with ExitStack() as hidden:
        with progress(f"reading the {kind.title}", None) as tell:
            queue = kind.of(stack)
            found = hidden.enter_context(queue.hidden(tell))
        read_at, where = time.monotonic(), f"{kind.title} of {stack.label}"
        chosen = _show(where, queue.depth(), found, filters, rows=False)
        if not chosen or not confirmed(f"{count(len(chosen), 'message')}. {asks}", yes=yes):
            return 0
        if time.monotonic() > read_at + HOLD_S:
            raise CommandError("The messages are visible to others again: repeat the command.")
        with progress(did, len(chosen)) as tell:
            faults = act(queue, chosen, tell)
    complain(f"SQS refused {message_id}: {fault}" for message_id, fault in faults.items())
    click.echo(f"{count(len(chosen) - len(faults), 'message')} {did}.")
    if faults:
        click.echo(f"SQS did not take or delete {count(len(faults), 'message')}. Repeat the command safely.", err=True)
    return 1 if faults else 0


def _send_again(
    stack: Stack, queue: Queue, messages: Messages, tell: Tell, *, status: Status | None, rate: int
) -> Mapping[str, str]:
    """Send messages to the result queue, and delete each that it took from this one."""
    if status and len({one.detail for one in messages if one.uuid and not one.status}) > 1:
        raise CommandError(
            "Their wrong statuses differ, and may not all mean one: choose with --uuid, or correct them."
        )
    ledger, faults, size = Ledger(stack), dict[str, str](), min(MAX_ENTRIES, rate)
    for start in range(0, len(messages), size):
        began, some = time.monotonic(), messages[start : start + size]
        for uuid in [one.uuid for one in some if one.uuid and status and ledger.table]:
            # Because of the other status, the relay would park this result again.
            ledger.remove(uuid, "#status <> :status", status={"S": str(status)})
        faults |= RESULTS.of(stack).send({one.message_id: one.to_replay(status) for one in some})
        faults |= queue.delete([one for one in some if one.message_id not in faults])
        tell(start + len(some) - len(faults))
        time.sleep(max(0, began + len(some) / rate - time.monotonic()))
    return faults


def _choose(messages: Messages, filters: Filters) -> Messages:
    """Return the messages that meet each filter that is not empty."""
    reasons, calls, ids = (set(filters[name]) for name in ("reasons", "uuids", "message_ids"))
    chosen = [one for one in messages if not reasons or one.reason in reasons]
    chosen = [one for one in chosen if not calls or calls & one.calls]
    return [one for one in chosen if not ids or one.message_id in ids]


def _show(where: str, depth: Depth, found: Messages, filters: Filters, *, rows: bool) -> Messages:
    """Print the oldest of the chosen messages, then the numbers by reason, then the whole number; return the chosen."""
    chosen, groups = _choose(found, filters), defaultdict[str, list[Message]](list)

    def left(message: Message) -> str:
        left_s = message.sent_at + depth.retention_s - time.time()
        return ("! " if left_s < EXPIRES_SOON_S else "") + duration(left_s)

    if chosen and rows:
        number, size = (ROWS, UUID_CHARACTERS) if sys.stdout.isatty() else (len(chosen), MAX_UUID_LENGTH)
        lines = [(left(one), printable(one.uuid or "", size), one.status, _why(one)) for one in chosen[:number]]
        table(("expires in", "uuid", "status", "reason"), lines)
        if number < len(chosen):
            click.echo(f"... and {len(chosen) - number:,} more: --json shows each in full.")
        click.echo()
    for one in chosen:
        groups[_why(one)].append(one)
    if chosen:
        counts = [
            (f"{len(some):,}", why, duration(time.time() - some[-1].sent_at), left(some[0]), _details(some))
            for why, some in sorted(groups.items(), key=lambda group: -len(group[1]))
        ]
        table(("messages", "reason", "newest", "expires in", "detail"), counts, right=("messages",))
        click.echo()
    whole = count(len(found), "message") if found else "No visible messages"
    match = "" if len(chosen) == len(found) else f"; {len(chosen):,} match"
    click.echo(f"{whole} on the {where}{match}.")
    known = {one for message in chosen for one in (*message.calls, message.message_id)}
    if chosen and (missing := [one for one in (*filters["uuids"], *filters["message_ids"]) if one not in known]):
        click.echo(f"No match for {', '.join(missing)}.")
    if (others := depth.total - len(found)) > 0:
        held = f"or another command holds them for up to {duration(HOLD_S)}"
        click.echo(f"About {others:,} more have just arrived, {held}. Repeat the command for them.")
    return chosen


def _why(message: Message) -> str:
    return f"{message.reason} {message.http_status or ''}".rstrip()


def _details(messages: Messages) -> str:
    """Return the most frequent details, each with its number if there are several."""
    details = Counter(message.detail for message in messages).most_common()
    if len(details) == 1:
        return details[0][0]
    others = sum(number for _, number in details[DETAILS:])
    texts = [f"{number:,} x {detail or 'no detail'}" for detail, number in details[:DETAILS]]
    return "; ".join(texts + [f"{others:,} others"] * bool(others))


def _save(path: str, messages: Messages) -> None:
    """Write messages to a new file, and wait until the disk has it. Without it the command ends."""
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.writelines(f"{message.as_json()}\n" for message in messages)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}. Nothing was deleted.") from None
    click.echo(f"The messages are saved in {path}.")
