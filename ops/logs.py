"""The function's log lines, found with CloudWatch Logs."""

import itertools
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from flash_call_relay.text import error_code
from ops.errors import NOT_ALLOWED, CommandError
from ops.stack import Stack

RECENT = timedelta(minutes=15)  # the span that `doctor` and `watch` look at
MAX_LINES = 10_000  # of one CloudWatch Logs Insights query
PATIENCE_S = 60
POLL_S = 0.5


def find(stack: Stack, field: str, value: str, since: float) -> Iterator[dict[str, Any]]:
    """Yield the JSON log lines in which a field has a value, since a time in seconds since the epoch.

    `FilterLogEvents` searches one megabyte of logs per page. If one page is not enough, this queries Logs Insights,
    which is faster. Without permission for that, it reads page after page.
    """
    for text in itertools.islice(_texts(stack, field, value, since), MAX_LINES):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        # The emulator ignores filter patterns, so the value is checked again.
        if isinstance(line, dict) and "timestamp" in line and line.get(field) == value:
            yield line


def _texts(stack: Stack, field: str, value: str, since: float) -> Iterator[str]:
    client = stack.client("logs")
    pattern = f"{{ $.{field} = {json.dumps(value)} }}"
    request = {"logGroupName": stack.output("LogGroupName"), "startTime": int(since * 1000), "filterPattern": pattern}
    page = client.filter_log_events(**request)
    if "nextToken" in page:
        try:
            yield from query_insights(stack, field, value, since)
        except ClientError as error:
            if error_code(error) not in NOT_ALLOWED:
                raise
        else:
            return
    yield from (event["message"] for event in page["events"])
    while token := page.get("nextToken"):
        page = client.filter_log_events(**request, nextToken=token)
        yield from (event["message"] for event in page["events"])


def query_insights(stack: Stack, field: str, value: str, since: float) -> list[str]:
    """Return the log lines in which a field has a value, from CloudWatch Logs Insights, oldest first.

    Raises:
        CommandError: if the query fails or takes longer than a minute.
    """
    client = stack.client("logs")
    query_id = client.start_query(
        logGroupName=stack.output("LogGroupName"),
        startTime=int(since),
        endTime=int(time.time()) + 1,
        queryString=f"fields @message | filter {field} = {json.dumps(value)} | sort @timestamp asc",
        limit=MAX_LINES,
    )["queryId"]
    deadline = time.monotonic() + PATIENCE_S
    while (reply := client.get_query_results(queryId=query_id))["status"] in ("Scheduled", "Running"):
        if time.monotonic() > deadline:
            raise CommandError(f"Logs Insights did not finish within {PATIENCE_S} s: choose a later --since.")
        time.sleep(POLL_S)
    if reply["status"] != "Complete":
        raise CommandError(f"The Logs Insights query ended as {reply['status']}: repeat the command.")
    return [cell["value"] for row in reply["results"] for cell in row if cell["field"] == "@message"]
