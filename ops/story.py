"""`story`: the events of one result in order, from the logs, the ledger, the parked and the dead-letter queue."""

import json
import shlex
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import click

from ops import logs
from ops.ledger import Ledger
from ops.options import Time, named
from ops.output import table, timestamp
from ops.queues import DEAD, PARKED, QueueKind
from ops.stack import Stack

HOLD_S = 60
SHOWN = ("reason", "event", "detail", "http_status", "duration_ms", "retry_in_s", "receive_count", "message_id")


@dataclass(order=True)
class Event:
    """Something that happened to the result."""

    at: float  # in seconds since the epoch
    where: str = field(compare=False)  # the log, the ledger, or the name of a queue
    what: str = field(compare=False)  # a description for people
    fields: dict[str, Any] = field(compare=False)  # the facts behind the description, by name


@click.command()
@click.argument("uuid", callback=named)
@click.option("--since", type=Time(), default="3d", show_default=True, help="How far back to search the logs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event and line.")
@click.pass_obj
def story(stack: Stack, *, uuid: str, since: float, as_json: bool) -> int:
    """Show the events of one result in order.

    The events are its attempts, its confirmation, and its arrival on the parked or the dead-letter queue. Exit status 1
    if the result is unknown.
    """
    lines = _log_lines(stack, uuid, since)
    events = [_log_event(line) for line in lines]
    events += _ledger_events(stack, uuid)
    for kind in (PARKED, DEAD):
        events += _queue_events(stack, kind, uuid)
    if not events:
        click.echo(
            f"Nothing is known of {uuid} in {stack.label} since {timestamp(since)}: the relay did not receive it, or "
            "it waits for its first attempt. Search further back with --since, and run `doctor`.",
            err=as_json,
        )
        return 1
    if as_json:
        for one in sorted(events):
            line = {"at": timestamp(one.at), "where": one.where, "what": one.what, "fields": one.fields}
            click.echo(json.dumps(line))
        return 0
    table(("when", "where", "what"), [(timestamp(one.at), one.where, one.what) for one in sorted(events)])
    click.echo(f"\n{_verdict(stack, uuid, lines, events)}")
    return 0


def _log_lines(stack: Stack, uuid: str, since: float) -> list[dict[str, Any]]:
    lines = list(logs.find(stack, "uuid", uuid, since))
    if any(line.get("outcome") in ("deferred", "parked") for line in lines):
        # A failed call to SQS is logged with the message id, not with the uuid.
        message_ids = {line["message_id"] for line in lines if "message_id" in line}
        failures = logs.find(stack, "message", "settle.failed", since)
        lines += [line for line in failures if line.get("message_id") in message_ids]
    return sorted(lines, key=lambda line: str(line.get("timestamp")))


def _log_event(line: dict[str, Any]) -> Event:
    fields = ", ".join(f"{name}={line[name]}" for name in SHOWN if name in line)
    what = f"{line['message'].removeprefix('result.')} {line.get('status', '')}".rstrip()
    return Event(datetime.fromisoformat(line["timestamp"]).timestamp(), "log", f"{what}: {fields}", line)


def _ledger_events(stack: Stack, uuid: str) -> list[Event]:
    entry = Ledger(stack).entry(uuid)
    if not entry:
        return []
    at = float(entry.confirmed_at) + 0.999  # the ledger keeps whole seconds: sort after the log of that second
    return [Event(at, "ledger", f"confirmed with status {entry.status}", {"status": entry.status})]


def _queue_events(stack: Stack, kind: QueueKind, uuid: str) -> list[Event]:
    events = []
    for message in kind.of(stack, HOLD_S).look(lambda _seen: None):
        if message.is_about(uuid):
            statuses = ", ".join(result.status for result in message.results if result.uuid == uuid)
            what = f"holds {statuses or 'no result'}: {message.reason} {message.detail}".rstrip()
            fields = {
                "reason": message.reason,
                "detail": message.detail,
                "http_status": message.http_status,
                "message_id": message.message_id,
            }
            events.append(Event(message.sent_at, kind.title, what, fields))
    return events


def _verdict(stack: Stack, uuid: str, lines: list[dict[str, Any]], events: list[Event]) -> str:
    places = {event.where for event in events}
    for kind in (PARKED, DEAD):
        if kind.title in places:
            command = stack.command(f"{kind.group} list --uuid {shlex.quote(uuid)}")
            return f"It needs a person: {kind.section} says what to do. First: {command}"
    outcomes = [line for line in lines if "outcome" in line]
    if "ledger" in places or any(line["outcome"] == "delivered" for line in outcomes):
        return "It is confirmed."
    if outcomes and outcomes[-1]["outcome"] == "deferred":
        last = outcomes[-1]
        at = datetime.fromisoformat(last["timestamp"]).timestamp() + (last.get("retry_in_s") or 0)
        return f"It waits on the result queue; its next attempt is due at {timestamp(at)}."
    return "It is on neither the parked nor the dead-letter queue: it was discarded, or replayed and waits."
