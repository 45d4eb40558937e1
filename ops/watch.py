"""`watch`: the depths of the queues and the recent outcomes, again every few seconds."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import click
from botocore.exceptions import ClientError
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flash_call_relay.models import Reason
from flash_call_relay.text import error_code
from ops import logs
from ops.errors import EXPLAINED, NOT_ALLOWED, explain
from ops.output import duration, on_terminal, timestamp
from ops.queues import DEAD, PARKED, Queue
from ops.stack import Stack

METRICS_EVERY_S = 60  # CloudWatch has one value a minute, and charges for each metric that a call asks for
METRICS = {
    "received": ("ResultsReceived", "Sum"),
    "delivered": ("ResultsDelivered", "Sum"),
    "duplicate": ("DuplicateResults", "Sum"),
    "deferred": ("ResultsDeferred", "Sum"),
    "parked": ("ResultsParked", "Sum"),
    "oldest_s": ("OldestPendingAge", "Maximum"),
    "throttled": ("Throttled", "Maximum"),
}
BY_DESIGN = Reason.UNKNOWN_CALL  # the relay leaves these results out of OldestPendingAge


@dataclass(frozen=True)
class Depths:
    """The numbers of messages that SQS reports."""

    waiting: int  # on the result queue, visible
    hidden: int  # on the result queue, deferred or in progress
    parked: int
    dead_lettered: int


@dataclass(frozen=True)
class Recent:
    """The outcomes of the last 15 minutes."""

    source: str  # metrics or logs
    received: int  # receives of results
    delivered: int
    duplicate: int
    deferred: int  # a result may be deferred many times
    parked: int
    deferred_by_reason: dict[str, int]  # the most frequent first
    oldest_s: float | None  # the greatest age of a deferred result; None if no result was deferred or waits now
    throttled: bool  # whether the endpoint asked for a lower rate


@dataclass(frozen=True)
class Snapshot:
    """One refresh."""

    at: str  # a UTC time
    intake: str | None  # the state of the event source mapping, such as Enabled, or Disabled during a pause
    queues: Depths
    recent: Recent


@click.command()
@click.option(
    "--every", "every_s", type=click.IntRange(1, 3600), default=5, show_default=True, help="Seconds between refreshes."
)
@click.option("--count", "times", type=click.IntRange(min=1), help="End after this many refreshes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per refresh and line.")
@click.pass_obj
def watch(stack: Stack, *, every_s: int, times: int | None, as_json: bool) -> int:
    """Show queue depths and recent outcomes, every few seconds.

    The outcomes are those of the last 15 minutes. They come from CloudWatch's metrics, or from the function's log lines
    while the metrics have no value. Without a terminal, each refresh is one line. Ctrl-C ends the command with exit
    status 0.
    """
    source, shown = Source(stack), 0
    try:
        with _display(stack, every_s, as_json=as_json) as show:
            while True:
                try:
                    show(source.read())
                except EXPLAINED as error:
                    if not shown:
                        raise
                    click.echo(f"{timestamp(time.time())}  {explain(error)}", err=True)  # AWS may answer the next time
                shown += 1
                if shown == times:
                    return 0
                time.sleep(every_s)
    except KeyboardInterrupt:
        return 0


class Source:
    """Reads the numbers of a stack; it asks for the metrics once a minute."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._metrics: Recent | None = None
        self._next_metrics = time.monotonic()

    def read(self) -> Snapshot:
        """Return the current numbers."""
        results = Queue.of(self._stack, "ResultQueueUrl").depth()
        parked, dead = (kind.of(self._stack).depth().total for kind in (PARKED, DEAD))
        now = datetime.now(UTC)
        if time.monotonic() >= self._next_metrics:
            self._metrics = from_metrics(self._stack, now)
            self._next_metrics = time.monotonic() + METRICS_EVERY_S
        recent = self._metrics or from_logs(self._stack, now)
        if not results.total:
            recent = replace(recent, oldest_s=None)
        depths = Depths(results.visible, results.hidden + results.delayed, parked, dead)
        return Snapshot(timestamp(now.timestamp()), self._intake(), depths, recent)

    def _intake(self) -> str | None:
        mapping = self._stack.output("EventSourceMappingId")
        try:
            state: str = self._stack.client("lambda").get_event_source_mapping(UUID=mapping)["State"]
        except ClientError as error:
            if error_code(error) in NOT_ALLOWED:  # the rest of the view needs no such permission
                return None
            raise
        return state


def from_metrics(stack: Stack, now: datetime) -> Recent | None:
    """Return the outcomes of the 15 minutes before `now` from CloudWatch's metrics; None if these have no value."""
    reasons = {f"reason_{reason}": reason.value for reason in Reason}
    queries = [_query(stack, key, name, statistic) for key, (name, statistic) in METRICS.items()]
    queries += [_query(stack, key, "ResultsDeferred", "Sum", reason=reason) for key, reason in reasons.items()]
    reply = stack.client("cloudwatch").get_metric_data(
        MetricDataQueries=queries, StartTime=now - logs.RECENT, EndTime=now
    )
    values = {one["Id"]: one["Values"] for one in reply["MetricDataResults"] if one["Values"]}
    if not values:
        return None
    sums = {key: int(sum(values.get(key, ()))) for key in (*METRICS, *reasons)}
    by_reason = Counter({reason: sums[key] for key, reason in reasons.items()})
    return _recent("metrics", sums, by_reason, max(values.get("oldest_s", ()), default=0))


def _query(stack: Stack, key: str, name: str, statistic: str, **dimensions: str) -> dict[str, Any]:
    dimensions = {"service": stack.name, **dimensions}
    metric = {
        "Namespace": "FlashCallRelay",
        "MetricName": name,
        "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
    }
    return {"Id": key, "MetricStat": {"Metric": metric, "Period": 60, "Stat": statistic}}


def from_logs(stack: Stack, now: datetime) -> Recent:
    """Return the outcomes of the 15 minutes before `now` from the function's log lines."""
    since = (now - logs.RECENT).timestamp()
    counts = Counter[str]()
    for line in logs.find(stack, "message", "batch.settled", since):
        counts.update({key: line.get(key, 0) for key in ("records", "delivered", "duplicate", "deferred", "parked")})
    reasons, oldest_s = Counter[str](), 0.0
    for line in logs.find(stack, "message", "result.deferred", since):
        reasons[str(line.get("reason"))] += 1
        if line.get("reason") != BY_DESIGN:
            oldest_s = max(oldest_s, line.get("age_s", 0))
    counts["received"], counts["throttled"] = counts["records"], reasons[Reason.THROTTLED]
    return _recent("logs", counts, reasons, oldest_s)


def _recent(source: str, counts: dict[str, int], reasons: Counter[str], oldest_s: float) -> Recent:
    totals = {key: counts[key] for key in ("received", "delivered", "duplicate", "deferred", "parked")}
    by_reason = {reason: times for reason, times in reasons.most_common() if times}
    throttled = counts["throttled"] > 0
    return Recent(source, **totals, deferred_by_reason=by_reason, oldest_s=oldest_s or None, throttled=throttled)


@contextmanager
def _display(stack: Stack, every_s: int, *, as_json: bool) -> Iterator[Callable[[Snapshot], None]]:
    """Yield a function that shows a snapshot: as JSON, as a line, or in place of the one before on a terminal."""
    if as_json:
        yield lambda snapshot: click.echo(json.dumps(asdict(snapshot)))
    elif not on_terminal(sys.stdout):
        yield lambda snapshot: click.echo(_line(snapshot))
    else:
        with Live(console=Console(), auto_refresh=False) as live:
            title = f"{stack.label}, every {every_s} s; Ctrl-C ends"
            yield lambda snapshot: live.update(_view(title, snapshot), refresh=True)


def _line(snapshot: Snapshot) -> str:
    queues, outcomes = (
        ", ".join(f"{name} {value}" for name, value, _ in rows) for rows in (_queue_rows(snapshot), _rows(snapshot))
    )
    return f"{snapshot.at}  {queues}; in the last 15 minutes ({snapshot.recent.source}): {outcomes}"


def _view(title: str, snapshot: Snapshot) -> Group:
    view = Table.grid(padding=(0, 2))
    view.add_row("now", snapshot.at)
    for name, value, style in _queue_rows(snapshot):
        view.add_row(f"  {name}", value, style=style)
    view.add_row("last 15 min", f"from {snapshot.recent.source}")
    for name, value, style in _rows(snapshot):
        view.add_row(f"  {name}", value, style=style)
    return Group(Text(title, style="bold"), view)


def _queue_rows(snapshot: Snapshot) -> list[tuple[str, str, str | None]]:
    depths = snapshot.queues
    paused = (snapshot.intake or "").startswith("Disabl")
    return [
        *([("intake", "PAUSED: results wait", "yellow")] if paused else []),
        ("waiting", f"{depths.waiting:,}", None),
        ("hidden", f"{depths.hidden:,}", None),
        ("parked", f"{depths.parked:,}", "yellow" if depths.parked else None),
        ("dead-lettered", f"{depths.dead_lettered:,}", "red" if depths.dead_lettered else None),
    ]


def _rows(snapshot: Snapshot) -> list[tuple[str, str, str | None]]:
    recent = snapshot.recent
    reasons = ", ".join(f"{reason} {times:,}" for reason, times in recent.deferred_by_reason.items())
    return [
        ("received", f"{recent.received:,}", None),
        ("delivered", f"{recent.delivered:,}", None),
        ("duplicate", f"{recent.duplicate:,}", None),
        ("deferred", f"{recent.deferred:,}" + (f" ({reasons})" if reasons else ""), None),
        ("parked", f"{recent.parked:,}", None),
        ("oldest", "none" if recent.oldest_s is None else duration(recent.oldest_s), None),
        ("throttled", "yes" if recent.throttled else "no", "yellow" if recent.throttled else None),
    ]
