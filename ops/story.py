"""`story`: all that happened to one result, from the logs, the queues and the ledger, in order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import click

from ops import logs, show
from ops.places import DEAD, PARKED, Moment, Place
from ops.problems import Problem
from ops.stack import Stack

LOOK_BACK = "3d"
SHOWN = ("reason", "detail", "http_status", "duration_ms", "retry_in_s", "receive_count", "message_id")


@dataclass(order=True)
class Event:
    """Something that happened to the result, at `at` (seconds since the epoch)."""

    at: float
    where: str = field(compare=False)
    what: str = field(compare=False)


@click.command()
@click.argument("uuid")
@click.option("--since", type=Moment(), default=LOOK_BACK, show_default=True, help="How far to look back in the logs.")
@click.pass_obj
def story(make_stack: Callable[[], Stack], *, uuid: str, since: float) -> int:
    """Tell what happened to one result: each try, what is confirmed, where it is now.

    Exit status 1 if nothing is known of it.
    """
    if not uuid:
        raise Problem("Say of which result: its uuid is missing.")
    stack = make_stack()
    lines = _lines(stack, uuid, since)
    events = [_event(line) for line in lines]
    events += _ledger(stack, uuid)
    for place in (PARKED, DEAD):
        events += _queue(stack, place, uuid)
    if not events:
        click.echo(
            f"Nothing is known of {uuid} in {stack.name} ({stack.region}) since {show.moment(since)}: it was not "
            "received, or waits for its first try. Look further back with --since, and see `doctor`."
        )
        return 1
    show.table(("when", "where", "what"), [(show.moment(one.at), one.where, one.what) for one in sorted(events)])
    click.echo(f"\n{_verdict(uuid, lines, events)}")
    return 0


def _lines(stack: Stack, uuid: str, since: float) -> list[dict[str, Any]]:
    lines = [line for line in logs.lines(stack, "uuid", uuid, since) if line.get("uuid") == uuid]
    messages = {line.get("message_id") for line in lines} - {None}
    troubled = any(line.get("outcome") in ("deferred", "parked") for line in lines)
    if troubled:  # what SQS did not do is logged by message id
        wanted = {("settle.failed", message_id) for message_id in messages}
        trouble = logs.lines(stack, "message", "settle.failed", since)
        lines += [line for line in trouble if (line.get("message"), line.get("message_id")) in wanted]
    return sorted(lines, key=lambda line: str(line.get("timestamp")))


def _event(line: dict[str, Any]) -> Event:
    fields = ", ".join(f"{name}={line[name]}" for name in SHOWN if name in line)
    what = f"{line['message'].removeprefix('result.')} {line.get('status', '')}".rstrip()
    return Event(datetime.fromisoformat(line["timestamp"]).timestamp(), "log", f"{what}: {fields}")


def _ledger(stack: Stack, uuid: str) -> list[Event]:
    if "LedgerTableName" not in stack.outputs:
        return []
    key = {"TableName": stack.output("LedgerTableName"), "Key": {"uuid": {"S": uuid}}, "ConsistentRead": True}
    item = stack.client("dynamodb").get_item(**key).get("Item")
    if not item:
        return []
    at = float(item["confirmed_at"]["N"]) + 0.999  # cut to seconds: after all else of that second
    return [Event(at, "ledger", f"confirmed with status {item['status']['S']}")]


def _queue(stack: Stack, place: Place, uuid: str) -> list[Event]:
    events = []
    for message in place.queue(stack, hold_s=60).look(lambda _seen: None):
        if message.is_about(uuid):
            statuses = ", ".join(result.status for result in message.results if result.uuid == uuid)
            what = f"waits there as {statuses or 'no result'}: {message.reason} {message.detail}".rstrip()
            events.append(Event(message.sent_at, place.title, what))
    return events


def _verdict(uuid: str, lines: list[dict[str, Any]], events: list[Event]) -> str:
    places = [event.where for event in events]
    group = next((place.name for place in (PARKED, DEAD) if place.title in places), None)
    if group:
        return f"It needs a person: see `{group} list --uuid {uuid}`, and `{group} replay` or `{group} discard`."
    outcomes = [line["outcome"] for line in lines if "outcome" in line]
    if "ledger" in places or "delivered" in outcomes:
        return "It is confirmed."
    last = next((line for line in reversed(lines) if line.get("outcome") == "deferred"), None)
    if last and outcomes[-1] == "deferred":
        at = datetime.fromisoformat(last["timestamp"]).timestamp() + (last.get("retry_in_s") or 0)
        return f"It waits on the result queue; its next try is due at {show.moment(at)}."
    return "It is on no queue any more: it was replayed and waits for its next try, or was discarded."
