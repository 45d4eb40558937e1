"""The function's log lines, from CloudWatch Logs: those about one value, and a count of the recent outcomes."""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from flash_call_relay.text import error_code
from ops.errors import NOT_ALLOWED, CommandError
from ops.stack import Stack

RECENT = timedelta(minutes=15)  # the span that `doctor` and `watch` look at
COUNTED = ("result.delivered", "result.deferred", "settle.failed")
MAX_LINES = 10_000  # of one CloudWatch Logs Insights query
PATIENCE_S = 60
POLL_S = 0.5


@dataclass
class Tally:
    """How often a message was logged."""

    times: int = 0
    at: float = 0.0  # of the latest, in seconds since the epoch
    age_s: float = 0.0  # the greatest age of a result
    uuid: str = ""  # of the latest result that was tried, or else of the latest
    tried: bool = False

    def add(self, line: dict[str, Any]) -> None:
        """Count a line, or a row of a query that counts lines."""
        tried = "duration_ms" in line or line.get("tried") == "1"
        self.times += int(line.get("times", 1))
        self.at, self.age_s = max(self.at, at_of(line)), max(self.age_s, float(line.get("age_s", 0)))
        if tried or not self.tried:
            self.uuid, self.tried = str(line.get("uuid", "")), tried


def at_of(line: dict[str, Any]) -> float:
    """Return the time of a log line in seconds since the epoch."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def recent(stack: Stack) -> dict[tuple[str, str], Tally]:
    """Count the outcomes of the last 15 minutes, by `message` and `reason`; a delivery has the reason ""."""
    since = time.time() - RECENT.total_seconds()
    pattern = "{ " + " || ".join(f'($.message = "{name}")' for name in COUNTED) + " }"
    query = (
        f"fields ispresent(duration_ms) as tried | filter message in {json.dumps(COUNTED)} | stats count(*) as times,"
        " latest(timestamp) as at, latest(uuid) as uuid, max(age_s) as age_s by message, reason, tried"
    )
    tallies: dict[tuple[str, str], Tally] = {}
    for line in _read(stack, pattern, query, since):
        line.setdefault("timestamp", line.get("at"))
        # The emulator ignores filter patterns.
        if line.get("message") in COUNTED and at_of(line) >= since:
            tallies.setdefault((line["message"], line.get("reason", "")), Tally()).add(line)
    return tallies


def find(stack: Stack, field: str, value: str, since: float) -> list[dict[str, Any]]:
    """Return the log lines in which a field has a value, since a time in seconds since the epoch, oldest first."""
    quoted = json.dumps(value)
    query = f"fields @message | filter {field} = {quoted} | sort @timestamp asc"
    lines = _read(stack, f"{{ $.{field} = {quoted} }}", query, since)
    return sorted((line for line in lines if line.get(field) == value and "timestamp" in line), key=at_of)


def _read(stack: Stack, pattern: str, query: str, since: float) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines that a filter pattern finds, or the rows of a query if these lines fill more than one page.

    `FilterLogEvents` searches one megabyte of logs per page, so Logs Insights is faster for a long log. Without
    permission for that, this reads page after page.
    """
    client, group = stack.client("logs"), stack.output("LogGroupName")
    request = {"logGroupName": group, "startTime": int(since * 1000), "filterPattern": pattern}
    page = client.filter_log_events(**request)
    if "nextToken" in page:
        try:
            rows = run_query(stack, query, since)
        except ClientError as error:
            if error_code(error) not in NOT_ALLOWED:
                raise
        else:
            yield from (line for row in rows for line in (_parsed(row["@message"]) if "@message" in row else [row]))
            return
    pages = itertools.chain([page], _more(client, request, page))
    texts = (event["message"] for page in pages for event in page["events"])
    yield from (line for text in itertools.islice(texts, MAX_LINES) for line in _parsed(text))


def _more(client: Any, request: dict[str, Any], page: dict[str, Any]) -> Iterator[dict[str, Any]]:
    while token := page.get("nextToken"):
        page = client.filter_log_events(**request, nextToken=token)
        yield page


def _parsed(text: str) -> list[dict[str, Any]]:
    try:
        line = json.loads(text)
    except ValueError:
        return []
    return [line] if isinstance(line, dict) else []


def run_query(stack: Stack, query: str, since: float) -> list[dict[str, str]]:
    """Return the rows of a CloudWatch Logs Insights query.

    Raises:
        CommandError: if the query fails or takes longer than a minute.
    """
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
    return [{cell["field"]: cell["value"] for cell in row} for row in reply["results"]]
