"""The two queues that hold what needs a person, and what the commands on them share: which messages, go ahead?"""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import click

from ops import show
from ops.messages import PARKED_REASONS, DeadReason, Filter, Message
from ops.problems import Problem
from ops.queue import Pace, Queue
from ops.stack import Stack

NEARLY_ALL_IN_FLIGHT = 100_000  # of the 120,000 or so that SQS has in flight at most
REFUSALS_SHOWN = 10
NEAR_END_S = 3 * show.DAY_S
LATEST = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()

MakeStack = Callable[[], Stack]


@dataclass(frozen=True)
class Place:
    """The parked or the dead-letter queue: what its commands and what people call it, its output, its reasons."""

    name: str
    title: str
    output: str
    dead: bool
    reasons: tuple[str, ...]

    def queue(self, stack: Stack, hold_s: int) -> Queue:
        """Return the queue."""
        return Queue(stack.client("sqs"), stack.output(self.output), dead=self.dead, hold_s=hold_s)

    def choose(self, stack: Stack, hold_s: int, wanted: Filter) -> "Choice":
        """Look at all that is visible on it, and choose."""
        if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
            raise Problem("There is no time between --since and --until.")
        began = time.time()
        with show.progress(f"looking at the {self.title}", None) as tell:
            found = self.queue(stack, hold_s).look(tell)
        depth = stack.depth(self.output)
        others = max(0, depth.total - len(found))
        is_cut = len(found) >= NEARLY_ALL_IN_FLIGHT
        return Choice(
            where=f"the {self.title} of {stack.name} ({stack.region})",
            found=len(found),
            hidden=0 if is_cut else others,
            to_follow=others if is_cut else 0,
            retention_s=depth.retention_s,
            messages=wanted.choose(found),
            wanted=wanted,
            before=began,
        )


@dataclass(frozen=True)
class Choice:
    """The messages that are wanted, of those found on a queue.

    Attributes:
        where: the queue, in words.
        found: how many messages SQS showed.
        hidden: how many others, about, are in other hands.
        to_follow: how many others, about, SQS hands out once those found are gone.
        retention_s: how long the queue keeps a message, in seconds.
        messages: those of the found ones that are wanted.
        wanted: what they were chosen by.
        before: when the look began, in seconds since the epoch; what came since is not wanted.
    """

    where: str
    found: int
    hidden: int
    to_follow: int
    retention_s: int
    messages: list[Message]
    wanted: Filter
    before: float

    @cached_property
    def ids(self) -> set[str]:
        """Their message ids."""
        return {message.message_id for message in self.messages}

    @property
    def number(self) -> int:
        """How many are to be taken, at most."""
        return min(len(self.messages) + self.to_follow, self.wanted.limit or sys.maxsize)

    def takes(self, message: Message) -> bool:
        """Tell whether a message is to be taken: one of those found, or of those that follow."""
        if not self.to_follow:
            return message.message_id in self.ids
        return message.sent_at < self.before and self.wanted.matches(message)

    def show(self, limit: int | None) -> None:
        """Show how many there are, and the oldest of them; None: all."""
        match = "" if self.found == len(self.messages) else f", {len(self.messages):,} of them match"
        if self.found:
            click.echo(f"{show.count(self.found, 'message')} on {self.where}{match}.")
        else:
            click.echo(f"Nothing to be seen on {self.where}.")
        if self.hidden:
            click.echo(
                f"About {self.hidden:,} more are hidden: somebody looks at them, or a command was killed; they come "
                "back by themselves within its --hold."
            )
        if self.to_follow:
            click.echo(
                f"SQS hands out about 120,000 at a time: about {self.to_follow:,} more follow once these are gone."
            )
        if self.messages:
            _show_counts(self.messages)
            if limit != 0:
                _show_messages(self.messages[:limit], self.retention_s)


PARKED = Place("parked", "parked queue", "ParkedQueueUrl", dead=False, reasons=tuple(map(str, PARKED_REASONS)))
DEAD = Place("dead", "dead-letter queue", "DeadLetterQueueUrl", dead=True, reasons=tuple(map(str, DeadReason)))


class Moment(click.ParamType[float]):
    """A time: so long ago, or a date and time, of UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds since the epoch."""
        if isinstance(value, float):
            return value
        if ago := re.fullmatch(r"(\d{1,5}) ?(s|min|m|h|d)", value):
            unit = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}[ago[2]]
            return max((datetime.now(UTC) - timedelta(**{unit: int(ago[1])})).timestamp(), 0.0)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither so long ago (90min, 6h, 2d) nor a time (2026-11-22T03:00).", param, ctx)
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return min(max(at, 0.0), LATEST)  # AWS takes no time before its epoch; Python none after 9999


def filters(place: Place) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options that say which messages; they arrive as what `Filter` takes, and `hold_s`."""
    options = (
        click.option("--reason", "reasons", multiple=True, type=click.Choice(place.reasons), help="Repeatable."),
        click.option("--status", "statuses", multiple=True, type=click.Choice(["Success", "Failed"])),
        click.option("--http-status", "http_statuses", multiple=True, type=int, help="What the endpoint said last."),
        click.option("--uuid", "uuids", multiple=True, help="Repeatable."),
        click.option("--message-id", "message_ids", multiple=True, help="As --json shows it. Repeatable."),
        click.option("--since", type=Moment(), help="There since: 90min, 6h, 2d, or 2026-11-22T03:00 (UTC)."),
        click.option("--until", type=Moment(), help="There before: as --since."),
        click.option(
            "--hold",
            "hold_s",
            type=click.IntRange(5, 43_200),
            default=300,
            show_default=True,
            help="Seconds for which messages stay hidden if this command is killed.",
        ),
    )

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def go_ahead(question: str, *, dry_run: bool, yes: bool) -> bool:
    """Tell whether to do it; ask, if nothing says so.

    Raises:
        Problem: if there is nobody to ask.
    """
    if dry_run:
        click.echo("A dry run: nothing was done.")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise Problem("There is nobody to ask: add --yes, or --dry-run to see what it would do.")
    if click.confirm(question):
        return True
    click.echo("Nothing was done.")
    return False


def take(
    queue: Queue,
    choice: Choice,
    act: Callable[[Sequence[Message]], Collection[str]],
    pace: Pace,
    did: str,
) -> set[str]:
    """Act on the chosen messages, and delete those that `act` names; return their ids. Says so if it is interrupted."""
    deleted = 0

    def tell(number: int) -> None:
        nonlocal deleted
        deleted = number
        tell_bar(number)

    try:
        with show.progress(f"to be {did}", choice.number) as tell_bar:
            return queue.take(choice.takes, choice.number, act, pace, tell)
    except BaseException:
        if deleted:
            click.echo(f"{deleted:,} of {show.count(choice.number, 'message')} {did}.", err=True)
        raise


def sum_up(did: str, chosen: int, deleted: Collection[str], refused: Mapping[str, str]) -> int:
    """Say what was done; return the exit status: 1 if anything is left."""
    click.echo(f"{show.count(len(deleted), 'message')} {did}.")
    for message_id, fault in list(refused.items())[:REFUSALS_SHOWN]:
        click.echo(f"SQS refused {message_id}: {fault}", err=True)
    left = chosen - len(deleted)
    if left:
        others = left - len(refused)
        click.echo(
            f"{show.count(left, 'message')} left: {len(refused):,} refused by SQS, {others:,} taken by somebody else "
            "or not deleted. To repeat the command is safe.",
            err=True,
        )
    return 1 if left else 0


def _show_counts(messages: Sequence[Message]) -> None:
    """Show how many there are by reason, answer and age."""
    now = time.time()
    groups: dict[tuple[str, int | None], list[float]] = {}
    for message in messages:
        groups.setdefault((message.reason, message.http_status), []).append(now - message.sent_at)
    rows = [
        (reason, http_status, f"{len(ages):,}", *_by_age(ages), show.span(max(ages)))
        for (reason, http_status), ages in sorted(groups.items(), key=lambda item: (-len(item[1]), str(item[0])))
    ]
    figures = ("HTTP", "messages", "< 1 h", "< 1 d", "older", "oldest")
    click.echo()
    show.table(("reason", *figures), rows, right=figures)


def _by_age(ages: Sequence[float]) -> tuple[str, str, str]:
    sizes = Counter("hour" if age < show.HOUR_S else "day" if age < show.DAY_S else "older" for age in ages)
    hour, day, older = (f"{sizes[name]:,}" if sizes[name] else "" for name in ("hour", "day", "older"))
    return hour, day, older


def _show_messages(messages: Sequence[Message], retention_s: int) -> None:
    """Show what each says, and until when it is kept."""
    columns = ("since", "expires in", "reason", "HTTP", "uuid", "status", "detail")
    click.echo()
    show.table(columns, [_row(message, retention_s) for message in messages], right=("HTTP", "expires in"))


def _row(message: Message, retention_s: int) -> tuple[object, ...]:
    first = message.results[0] if message.results else None
    more = f" +{len(message.contents) - 1}" if len(message.contents) > 1 else ""
    left_s = message.sent_at + retention_s - time.time()
    return (
        show.moment(message.sent_at),
        ("! " if left_s < NEAR_END_S else "") + show.span(left_s),
        message.reason,
        message.http_status,
        (show.shortened(first.uuid) if first else "-") + more,
        first and first.status,
        message.detail,
    )
