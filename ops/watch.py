"""`watch`: the depths of the queues and the recent outcomes, again every few seconds, a line each.

The depths are SQS's, and the outcomes are those of the function's log, as in `doctor`: so the two say the same, on the
local stack, too. CloudWatch's metrics would be up to three minutes late.
"""

import itertools
import json
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import click

from flash_call_relay.models import Reason
from ops import logs
from ops.errors import EXPLAINED, explain
from ops.output import duration, timestamp
from ops.queues import DEAD, PARKED, RESULTS
from ops.stack import Stack

LOG_EVERY_S = 15  # Logs Insights charges for each query
DEPTHS = "waiting {waiting:,}, in flight {in_flight:,}, parked {parked:,}, dead-lettered {dead_lettered:,}"
EMPTY_IN_A_ROW = 2  # SQS's counts are approximate


@click.command()
@click.option("--every", "every_s", type=click.IntRange(1, 3600), default=5, help="Seconds between refreshes.")
@click.option("--count", "times", type=click.IntRange(min=1), help="End after this many refreshes.")
@click.option("--until-empty", is_flag=True, help="End when no result is left on the result queue.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per refresh and line.")
@click.pass_obj
def watch(stack: Stack, *, every_s: int, times: int | None, until_empty: bool, as_json: bool) -> int:
    """Show queue depths and recent outcomes, a line every few seconds.

    Results that are waiting are to be received; those in flight are deferred until their next attempt, or in the
    function now. The outcomes are those of the last 15 minutes, read from the function's log every 15 s: a result
    that is deferred three times counts three times. If AWS refuses a later refresh, the command says why and continues.
    Ctrl-C ends it with exit status 0, and --count before --until-empty with 1.
    """
    recent, read_at, empty = list[logs.Line](), 0.0, 0
    with suppress(KeyboardInterrupt):
        for shown in itertools.count(1):
            try:
                if shown == 1 or time.monotonic() >= read_at:
                    recent, read_at = logs.recent(stack), time.monotonic() + LOG_EVERY_S
                snapshot = _snapshot(stack, recent)
                click.echo(json.dumps(snapshot) if as_json else _line(snapshot))
                empty = 0 if snapshot["queues"]["waiting"] + snapshot["queues"]["in_flight"] else empty + 1
            except EXPLAINED as error:
                if shown == 1:
                    raise
                click.echo(f"{timestamp(time.time())}  {explain(error)}", err=True)  # AWS may answer the next time
            if until_empty and empty == EMPTY_IN_A_ROW:
                return 0
            if shown == times:
                return 1 if until_empty else 0
            time.sleep(every_s)
    return 0


def _snapshot(stack: Stack, recent: list[logs.Line]) -> dict[str, Any]:
    results = RESULTS.of(stack).depth()
    parked, dead = (kind.of(stack).depth().total for kind in (PARKED, DEAD))
    queues = {"waiting": results.visible, "in_flight": results.in_flight, "parked": parked, "dead_lettered": dead}
    mapping = stack.client("lambda").get_event_source_mapping(UUID=stack.output("EventSourceMappingId"))
    deferred = [line for line in recent if line["message"] == logs.DEFERRED]
    reasons = Counter(line["reason"] for line in deferred)
    # An unknown call waits by design: the metric OldestPendingAge leaves it out, too.
    ages = [line.get("age_s", 0) for line in deferred if line["reason"] != Reason.UNKNOWN_CALL]
    return {
        "at": timestamp(time.time()),
        "intake": mapping["State"],
        "queues": queues,
        "recent": {
            "delivered": sum(line["message"] == logs.DELIVERED for line in recent),
            "deferred": reasons.total(),
            "deferred_by_reason": dict(reasons.most_common()),
            "oldest_s": max(ages, default=0) or None if results.total else None,
            "throttled": logs.throttled(recent),
        },
    }


def _line(snapshot: dict[str, Any]) -> str:
    recent, depths = snapshot["recent"], DEPTHS.format(**snapshot["queues"])
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in recent["deferred_by_reason"].items())
    outcomes = [f"delivered {recent['delivered']:,}", f"deferred {recent['deferred']:,}{reasons and f' ({reasons})'}"]
    if recent["oldest_s"]:
        outcomes.append(f"the oldest {duration(recent['oldest_s'])}")
    pause = click.style("PAUSED ", fg="yellow") if snapshot["intake"].startswith("Disabl") else ""
    return f"{snapshot['at']}  {pause}{depths}; in 15 min {', '.join(outcomes)}{'; throttled' * recent['throttled']}"
