"""The function's own log lines."""

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from ops.problems import NOT_ALLOWED, Problem
from ops.stack import Stack

MOST_FOUND = 10_000  # lines, of one query of CloudWatch Logs Insights
PATIENCE_S = 60
GLANCE_S = 0.5


def lines(stack: Stack, field: str, value: str, since: float, most: int = MOST_FOUND) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines in which a field has a value: at most so many, since a time in seconds since the epoch.

    CloudWatch searches a megabyte of logs for a page of `FilterLogEvents`. Where that is not all, Logs Insights is
    asked: it searches all at once, and skips what its index of the field lets it skip. A person who may not ask it
    waits for page after page. What is found is for the caller to check again: the emulator knows no such patterns.
    """
    for text in itertools.islice(_texts(stack, field, value, since, most), most):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "timestamp" in line:
            yield line


def _texts(stack: Stack, field: str, value: str, since: float, most: int) -> Iterator[str]:
    client = stack.client("logs")
    pattern = f"{{ $.{field} = {json.dumps(value)} }}"
    asked = {"logGroupName": stack.output("LogGroupName"), "startTime": int(since * 1000), "filterPattern": pattern}
    page = client.filter_log_events(**asked)
    if "nextToken" in page:
        try:
            yield from insights(stack, field, value, since, most)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in NOT_ALLOWED:
                raise
        else:
            return
    yield from (event["message"] for event in page["events"])
    while token := page.get("nextToken"):
        page = client.filter_log_events(**asked, nextToken=token)
        yield from (event["message"] for event in page["events"])


def insights(stack: Stack, field: str, value: str, since: float, most: int = MOST_FOUND) -> list[str]:
    """Return the lines in which a field has a value, by CloudWatch Logs Insights; the oldest first.

    Raises:
        Problem: if the query fails or is not done within a minute.
    """
    client = stack.client("logs")
    query_id = client.start_query(
        logGroupName=stack.output("LogGroupName"),
        startTime=int(since),
        endTime=int(time.time()) + 1,
        queryString=f"fields @message | filter {field} = {json.dumps(value)} | sort @timestamp asc",
        limit=min(most, MOST_FOUND),
    )["queryId"]
    deadline = time.monotonic() + PATIENCE_S
    while (reply := client.get_query_results(queryId=query_id))["status"] in ("Scheduled", "Running"):
        if time.monotonic() > deadline:
            raise Problem(
                f"CloudWatch Logs Insights is not done within {PATIENCE_S} s: look less far back with --since."
            )
        time.sleep(GLANCE_S)
    if reply["status"] != "Complete":
        raise Problem(f"The query of CloudWatch Logs Insights ended as {reply['status']}: repeat the command.")
    return [cell["value"] for row in reply["results"] for cell in row if cell["field"] == "@message"]
