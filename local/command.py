"""The parts that the local commands share: signals, exit codes and progress lines."""

import functools
import signal
import sys
import time
from collections.abc import Callable
from typing import ParamSpec

from local.processes import LocalError, wait_until

P = ParamSpec("P")
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal


def exits(command: Callable[P, int]) -> Callable[P, None]:
    """Make a function a command, which exits with its return value. A signal of `ENDINGS` ends it, cleaned up."""

    @functools.wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> None:
        for number in ENDINGS:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, _interrupt)
        try:
            sys.exit(command(*args, **options))
        except LocalError as error:
            sys.exit(str(error))
        except KeyboardInterrupt as interrupt:
            print("interrupted, cleaned up", file=sys.stderr)
            sys.exit(128 + int(interrupt.args[0]))

    return run


def _interrupt(number: int, _frame: object) -> None:
    for other in ENDINGS:  # a second signal must not interrupt the cleaning up
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def stopwatch() -> Callable[[str], None]:
    """Return a function that shows a line, preceded by the seconds since this call."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    return say


def watch(
    until: Callable[[], object], limit_s: float, say: Callable[[str], None], progress: Callable[[], str], every_s: float
) -> bool:
    """Wait for a condition, and say how far it is; return whether the condition held within the limit."""
    said_at = time.monotonic()

    def is_met() -> bool:
        nonlocal said_at
        if time.monotonic() - said_at >= every_s:
            said_at = time.monotonic()
            say(progress())
        return bool(until())

    return wait_until(is_met, limit_s, every_s=0.25)
