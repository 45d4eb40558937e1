"""Options that several commands share, the type of a time, and the question before a change."""

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ops.errors import CommandError

LATEST = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()
UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}
STATUS = click.Choice(["Success", "Failed"])

dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


class Time(click.ParamType[float]):
    """A time: a duration before now, or a date and time, in UTC unless it names an offset."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds since the epoch."""
        if isinstance(value, float):
            return value
        if ago := re.fullmatch(r"(\d{1,5}) ?(s|min|m|h|d)", value):
            before_now = timedelta(**{UNITS[ago[2]]: int(ago[1])})
            return max((datetime.now(UTC) - before_now).timestamp(), 0.0)
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a duration (90min, 6h, 2d) nor a time (2026-11-22T03:00).", param, ctx)
        at = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        return min(max(at, 0.0), LATEST)  # AWS accepts no time before 1970, Python none after 9999


def named(_context: click.Context, _parameter: click.Parameter, uuid: str) -> str:
    """Return a call's uuid, which an unset variable of the shell leaves empty."""
    if not uuid:
        raise CommandError("The uuid is empty: name the call.")
    return uuid


def confirmed(question: str, *, dry_run: bool, yes: bool) -> bool:
    """Return whether to make a change; ask unless --dry-run or --yes is given.

    Raises:
        CommandError: if standard input is not a terminal.
    """
    if dry_run:
        click.echo("Dry run: nothing was done.")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise CommandError("No terminal to ask on: add --yes, or --dry-run to see what the command would do.")
    answer = click.confirm(question)
    if not answer:
        click.echo("Nothing was done.")
    return answer
