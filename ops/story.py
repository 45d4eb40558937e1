"""`story`: the events of one result in order, and what they mean, from the logs, the ledger and both queues."""

import itertools
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click

from ops import logs
from ops.ledger import Ledger
from ops.output import DAY_S, paragraph, progress, table, timestamp
from ops.queues import DEAD, PARKED, VISIBILITY_S, Message
from ops.stack import Stack

LATE_S = 60  # a next attempt that is due for longer is late
WRITE_S = 100  # at most this long after a delivery, the same invocation writes the ledger


class Event(NamedTuple):
    """Something that happened to the result."""

    at: float  # in seconds since the epoch
    where: str  # the log, the ledger, or the name of a queue
    what: str  # a description for people
    fields: dict[str, Any]  # the facts behind the description, by name


class History:
    """All that is known of a call: log lines, oldest first, the ledger's entry, and the messages that need a person."""

    def __init__(self, stack: Stack, uuid: str, since: float) -> None:
        lines = logs.find(stack, "uuid", uuid, since)
        if any(line.get("outcome") in ("deferred", "parked") for line in lines):
            # A failed call to SQS is logged with the message id, not with the uuid.
            ids = {line["message_id"] for line in lines if "message_id" in line}
            failures = logs.find(stack, "message", logs.NOT_SETTLED, since)
            lines += [line for line in failures if line.get("message_id") in ids]
        ledger = Ledger(stack)
        self.stack, self.uuid, self.lines = stack, uuid, sorted(lines, key=logs.at_of)
        self.held = {kind: [one for one in kind.of(stack).look() if uuid in one.calls] for kind in (PARKED, DEAD)}
        self.entry, self.has_ledger = ledger.entries([uuid]).get(uuid), bool(ledger.table)

    def events(self) -> list[Event]:
        """Return the events, oldest first."""
        events = [Event(logs.at_of(line), "log", _words(line), line) for line in self.lines]
        if self.entry:
            at = self.entry.at + 0.999  # whole seconds: sort after the log of that second
            fields = {"status": self.entry.status}
            events.append(Event(at, "ledger", f"confirmed with status {self.entry.status}", fields))
        for kind, messages in self.held.items():
            for one in messages:
                fields = {name: getattr(one, name) for name in ("reason", "detail", "http_status", "message_id")}
                what = f"holds {self._status(one)}: {one.reason} {one.detail}".rstrip()
                events.append(Event(one.sent_at, kind.title, what, fields))
        return sorted(events, key=lambda event: event.at)

    def verdict(self) -> str:
        """Return what became of the call. The latest outcome of each status and the ledger decide together."""
        confirmed, to_do = self._confirmations(), []
        for kind, messages in self.held.items():
            if what := ", ".join(f"{self._status(one)} ({one.reason})" for one in messages):
                to_do.append(f"It needs a person: the {kind.title} holds {what}. {kind.section} says what to do.")
        waits, gone = self._unconfirmed(confirmed[-1][1] if confirmed else None)
        marks = [line["message"] for line in self.lines if line["message"] in (logs.DELIVERED, logs.CONFLICT)]
        clash = marks[-1:] == [logs.CONFLICT]  # a later delivery is the correction
        clash |= bool(self.entry and confirmed and confirmed[-1][1] != self.entry.status)
        forgotten = self.has_ledger and not self.entry
        if clash and not (forgotten and waits):
            keeps = f"the ledger has {self.entry.status if self.entry else 'no entry'}"
            section = "docs/runbook.md#both-statuses-confirmed"
            to_do.append(f"It needs a person: both statuses were confirmed, and {keeps}: {section}.")
        to_do += waits + gone
        if not confirmed:
            return " ".join(to_do) or "It was received, and its outcome is not in the log yet."
        if not to_do and forgotten:
            to_do = ["The ledger has no entry of it (forgotten, or never written): the relay sends its next result."]
        got = "BetaTel got " + ", then ".join(f"{status} {word} {timestamp(at)}" for at, status, word in confirmed)
        got += f"; its last word is {confirmed[-1][1]}." if len(confirmed) > 1 else "."
        return " ".join([*to_do, got]) if to_do else f"It is confirmed: {got}"

    def _status(self, message: Message) -> str:
        return (message.uuid == self.uuid and message.status) or "no result"

    def _confirmations(self) -> list[tuple[float, str, str]]:
        """Return time, status and "at" of each confirmation, oldest first; "before" if only a duplicate shows it."""
        found = [(logs.at_of(line), line["status"], "at") for line in self.lines if line.get("outcome") == "delivered"]
        entry = self.entry
        if entry and not any(status == entry.status and abs(entry.at - at) < WRITE_S for at, status, _ in found):
            found.append((entry.at, entry.status, "at"))
        for line in self.lines:
            if line.get("outcome") == "duplicate" and line["status"] not in {status for _, status, _ in found}:
                found.append((logs.at_of(line), line["status"], "before"))
        return sorted(found)

    def _unconfirmed(self, last_word: str | None) -> tuple[list[str], list[str]]:
        """Return sentences about results that wait, and about parked results that are gone."""
        waits, gone = [], []
        known = (self.entry and self.entry.status) if self.has_ledger else last_word
        parked, dead = ({one.status for one in self.held[kind]} for kind in (PARKED, DEAD))
        for status, line in {line["status"]: line for line in self.lines if "outcome" in line}.items():
            failure, at = self._settle_failure(line), logs.at_of(line)
            if status not in dead and (line["outcome"] == "deferred" or failure):
                due = f"{status} waits on the result queue; {self._due(line, failure)}"
                if known and known != status and self.has_ledger:
                    waits.append(f"{due}: the relay then parks it (conflicting_status), because {known} is confirmed.")
                elif known != status:  # else it is a copy
                    waits.append(f"Not yet: {due}.")
            elif line["outcome"] == "parked" and status not in parked | dead:
                where = f"{status} was parked at {timestamp(at)} ({line.get('reason')}) and is on neither queue"
                gone.append(f"{where}: it was discarded, or replayed and waits.")
        return waits, gone

    def _settle_failure(self, outcome: dict[str, Any]) -> str:
        """Return what SQS did not do after an outcome; empty if it did all."""
        failures = (line for line in self.lines if line["message"] == logs.NOT_SETTLED)
        after = (line for line in failures if line["message_id"] == outcome.get("message_id"))
        return next((line["detail"] for line in after if logs.at_of(line) >= logs.at_of(outcome)), "")

    def _due(self, line: dict[str, Any], failure: str) -> str:
        if failure.startswith("requeue"):  # an event that the function got without a queue
            return "Lambda tries the event again"
        delay_s = None if failure else line.get("retry_in_s")
        at = logs.at_of(line) + (VISIBILITY_S if delay_s is None else delay_s)
        is_due = "was due at {} (run `doctor`)" if at < time.time() - LATE_S else "is due at {}"
        return f"its next attempt {is_due.format(timestamp(at))}"


@click.command()
@click.argument("uuid")
@click.option("--days", type=click.IntRange(1, 3650), default=3, help="How far back to search logs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event and line.")
@click.pass_obj
def story(stack: Stack, *, uuid: str, days: int, as_json: bool) -> int:
    """Show the events of one result in order, and what became of it.

    The events are its attempts, its confirmations, and its arrival on the parked or the dead-letter queue. The last
    line is the answer. Exit status 1 if the result is unknown.
    """
    since = time.time() - days * DAY_S
    with progress("reading the log, the ledger and the queues", None):
        history = History(stack, uuid, since)
    events = history.events()
    if not events:
        click.echo(
            f"Nothing is known of {uuid} in {stack.label} since {timestamp(since)}: the relay did not receive it, or "
            "it waits for its first attempt. Search further back with --days, run `doctor`, and see "
            "docs/runbook.md#what-became-of-a-call.",
            err=as_json,
        )
        return 1
    if as_json:
        for one in events:
            click.echo(json.dumps({**one._asdict(), "at": timestamp(one.at)}))
        return 0
    rows = [(timestamp(one.at), one.where.partition(" ")[0], one.what) for one in _folded(events)]
    table(("when", "where", "what"), rows)
    click.echo()
    paragraph(history.verdict())
    for kind in (kind for kind, held in history.held.items() if held):
        click.echo(f"-> {stack.command(f'{kind.group} list --uuid {shlex.quote(uuid)}')}")
    return 0


def _words(line: dict[str, Any]) -> str:
    """Return what a log line says of the result."""
    if line["message"] == logs.CONFLICT:
        return "ledger.conflict: the other status was confirmed at the same moment"
    status, receive = line.get("http_status"), line.get("receive_count")
    facts = (line.get("reason"), line.get("detail", status and f"HTTP {status}"), receive and f"receive {receive}")
    what = f"{line['message'].removeprefix('result.')} {line.get('status', '')}".rstrip()
    return ": ".join(part for part in (what, ", ".join(str(fact) for fact in facts if fact)) if part)


def _folded(events: Sequence[Event]) -> Iterator[Event]:
    """Yield the events; of deferrals with one cause in a row, yield the last with their number."""

    def cause(event: Event) -> object:
        facts = [event.fields.get(name) for name in ("status", "reason", "detail", "http_status")]
        return facts if event.fields.get("outcome") == "deferred" else id(event)

    for _, group in itertools.groupby(events, cause):
        first, *more = group
        times = f"; {len(more) + 1} times since {timestamp(first.at)}"
        yield more[-1]._replace(what=more[-1].what + times) if more else first
