"""The function's own log lines."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from ops.stack import Stack


def lines(stack: Stack, pattern: str, since: float, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines that match CloudWatch's filter pattern, of at most so many lines, since a time.

    What matches is for the caller to check again: the emulator knows no patterns.
    """
    pages = (
        stack.client("logs")
        .get_paginator("filter_log_events")
        .paginate(logGroupName=stack.output("LogGroupName"), startTime=int(since * 1000), filterPattern=pattern)
    )
    for event in itertools.islice((event for page in pages for event in page["events"]), most):
        try:
            line = json.loads(event["message"])
        except ValueError:
            continue
        if isinstance(line, dict) and "timestamp" in line:
            yield line
