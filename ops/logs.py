"""The function's log, by CloudWatch Logs Insights: the lines about one value, and the recent outcomes."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from flash_call_relay.models import Reason
from flash_call_relay.text import InvalidJSONError, decode_json
from ops.errors import CommandError
from ops.stack import Stack

RECENT_S = 15 * 60  # the span that `doctor` and `watch` look at
DELIVERED, DEFERRED = "result.delivered", "result.deferred"
NOT_SETTLED, CONFLICT = "settle.failed", "ledger.conflict"
THROTTLING, THROTTLING_ENDED = "endpoint.throttling", "endpoint.throttling_ended"
COUNTED = (DELIVERED, DEFERRED, NOT_SETTLED, THROTTLING, THROTTLING_ENDED)
MAX_LINES = 10_000  # of one query
PATIENCE_S, POLL_S = 60, 0.5

Line = dict[str, Any]


def at_of(line: Line) -> float:
    """Return the time of a log line in seconds since the epoch."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def recent(stack: Stack) -> list[Line]:
    """Return the lines about outcomes of the last 15 minutes, the newest 10,000 at most, oldest first."""
    query = f"fields @message | filter message in {json.dumps(COUNTED)} | sort @timestamp desc"
    lines = sorted(parsed(run_query(stack, query, time.time() - RECENT_S)), key=at_of)
    return [line for line in lines if line["message"] in COUNTED]  # the emulator ignores the filter


def throttled(lines: list[Line]) -> bool:
    """Return whether results wait because of a lower rate that the endpoint asks for, or that the relay keeps to."""
    marks = [line.get("reason", line["message"]) for line in lines]
    marks = [mark for mark in marks if mark in (Reason.THROTTLED, THROTTLING, THROTTLING_ENDED)]
    return marks[-1:] not in ([], [THROTTLING_ENDED])


def find(stack: Stack, field: str, value: str, since: float) -> list[Line]:
    """Return the log lines in which a field has a value, since a time in seconds since the epoch, oldest first."""
    query = f"fields @message | filter {field} = {json.dumps(value)} | sort @timestamp asc"
    return sorted((line for line in parsed(run_query(stack, query, since)) if line.get(field) == value), key=at_of)


def parsed(messages: Iterable[str]) -> Iterator[Line]:
    """Yield the relay's lines among messages of the log; the others are those of the Lambda runtime."""
    for message in messages:
        with suppress(InvalidJSONError):
            if isinstance(line := decode_json(message), dict) and {"timestamp", "message"} <= line.keys():
                yield line


def run_query(stack: Stack, query: str, since: float) -> list[str]:
    """Return the messages of the log that a query finds. One that fails, or takes over a minute, ends the command."""
    client, group = stack.client("logs"), stack.output("LogGroupName")
    span = {"startTime": int(since), "endTime": int(time.time()) + 1}
    query_id = client.start_query(logGroupName=group, queryString=query, limit=MAX_LINES, **span)["queryId"]
    deadline = time.monotonic() + PATIENCE_S
    while (reply := client.get_query_results(queryId=query_id))["status"] in ("Scheduled", "Running"):
        if time.monotonic() > deadline:
            raise CommandError(f"Logs Insights did not finish within {PATIENCE_S} s: search fewer days, or repeat.")
        time.sleep(POLL_S)
    if reply["status"] != "Complete":
        raise CommandError(f"The Logs Insights query ended as {reply['status']}: repeat the command.")
    return [cell["value"] for row in reply["results"] for cell in row if cell["field"] == "@message"]
