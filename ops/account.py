"""`account`: what became of each result in a file of sent results."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import click

from flash_call_relay.models import Confirmed, FlashCallResult
from ops import logs
from ops.ledger import Ledger
from ops.output import DAY_S, count, duration, progress, table, timestamp
from ops.queues import DEAD, PARKED, RESULTS
from ops.send import read
from ops.stack import Stack

STATES = ("confirmed", "parked", "dead-lettered", "waiting", "unknown")
OTHER_STATUS = "other_status"  # the reason if the call is confirmed with the other status
LOG_S = 3 * DAY_S  # how far back the log is read in place of a ledger


class Fate(NamedTuple):
    """What became of a result."""

    state: str  # one of STATES
    reason: str | None = None  # why it is parked or dead-lettered, or OTHER_STATUS
    confirmed_status: str | None = None
    confirmed_at: str | None = None  # a UTC time


def judge(result: FlashCallResult, entry: Confirmed | None, held: tuple[str, str] | None, *, waits: bool) -> Fate:
    """Say what became of a result.

    `held` is the state and the reason of a message about its call that needs a person. A message in flight can't be
    read: `waits` says whether the queues have room for all results of which nothing is known.
    """
    confirmed = (entry.status, timestamp(entry.at)) if entry else (None, None)
    if entry and entry.status == result.status:
        return Fate("confirmed", None, *confirmed)
    if held:
        return Fate(*held, *confirmed)
    if entry:
        return Fate("confirmed", OTHER_STATUS, *confirmed)
    return Fate("waiting" if waits else "unknown")


def _states(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[str]:
    states = text.split(",") if text else []
    if wrong := [state for state in states if state not in STATES]:
        raise click.BadParameter(f"{', '.join(map(repr, wrong))} is not one of {', '.join(STATES)}.")
    return states


@click.command()
@click.option("--file", required=True, help="As for `send`; - is stdin.")
@click.option("--only", callback=_states, help=f"Show these results, with commas between: {', '.join(STATES)}.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per result and line.")
@click.pass_obj
def account(stack: Stack, *, file: str, only: list[str], as_json: bool) -> int:
    """Say what became of the results in a file, such as one that was sent yesterday.

    The command counts them, and shows those that you choose. It reads the ledger and the queues, and changes no
    message. Exit status 1 unless BetaTel has confirmed each result.
    """
    fates, notes = account_for(stack, list(read(file).values()))
    if as_json:
        for one, fate in fates.items():
            if fate.state in (only or STATES):
                click.echo(json.dumps({"uuid": one.uuid, "status": one.status, **fate._asdict()}))
    else:
        rows = [(one.uuid, one.status, fate.state, fate.reason or fate.confirmed_at) for one, fate in fates.items()]
        if shown := [row for row in rows if row[2] in only]:
            table(("uuid", "status", "state", "reason or time"), shown)
            click.echo()
        numbers = sorted(Counter((STATES.index(fate.state), fate.reason or "") for fate in fates.values()).items())
        counts = [(f"{number:,}", STATES[state], reason) for (state, reason), number in numbers]
        table(("results", "state", "reason"), counts, right=("results",))
        click.echo()
    for note in notes:
        click.echo(note, err=as_json)
    return 0 if all(fate.state == "confirmed" and not fate.reason for fate in fates.values()) else 1


def account_for(stack: Stack, results: Sequence[FlashCallResult]) -> tuple[dict[FlashCallResult, Fate], list[str]]:
    """Return what became of each result, and notes about what could not be seen."""
    # In the order in which results move, so that this sees one on its way twice and not never.
    with progress("reading the result queue", None):
        depth = RESULTS.of(stack).depth()
    held, notes, room = dict[str, tuple[str, str]](), list[str](), depth.total
    for kind, state in ((PARKED, "parked"), (DEAD, "dead-lettered")):
        with progress(f"reading the {kind.title}", None) as tell:
            found = kind.of(stack).look(tell)
        for message in found:
            held |= dict.fromkeys(message.calls - held.keys(), (state, message.reason))
        if (unread := kind.of(stack).depth().total - len(found)) > 0:
            notes.append(f"About {unread:,} messages on the {kind.title} could not be read: repeat the command.")
            room += unread
    ledger, uuids = Ledger(stack), list({one.uuid for one in results})
    with progress("looked up", len(uuids) if ledger.table else None) as tell:
        entries = ledger.entries(uuids, tell) if ledger.table else _from_log(stack)
    if not ledger.table:
        notes.append(f"{stack.label} has no ledger: the log of the last {duration(LOG_S)} says what is confirmed.")
    if nowhere := sum(one.uuid not in held and one.uuid not in entries for one in results):
        notes.append(
            f"{count(nowhere, 'result')} of the file: not confirmed, parked or dead-lettered. The result queue, whose "
            f"messages can't be read, has about {depth.total:,}, with {depth.in_flight:,} deferred or in progress."
        )
    waits = nowhere <= room
    return {one: judge(one, entries.get(one.uuid), held.get(one.uuid), waits=waits) for one in results}, notes


def _from_log(stack: Stack) -> dict[str, Confirmed]:
    entries, since = dict[str, Confirmed](), time.time() - LOG_S
    while True:  # Logs Insights gives a limited number of lines at a time
        lines = logs.find(stack, "message", logs.DELIVERED, since)
        entries |= {line["uuid"]: Confirmed(line["status"], logs.at_of(line)) for line in lines}
        if len(lines) < logs.MAX_LINES:
            return entries
        since = max(logs.at_of(lines[-1]), since + 1)
