"""The parts that the local commands share: options, signals, exit codes and progress lines."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from local.processes import LocalError, wait_until

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal


class Parser(argparse.ArgumentParser):
    """A parser of options that ends the command with one sentence and exit code 2 if they are wrong."""

    def error(self, message: str) -> NoReturn:
        """Print the error, and where to look."""
        self.exit(2, f"{message.removeprefix('argument ')}; see `{self.prog} --help`.\n")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the type of an option that is a whole number in this range."""
    expected = f"from {least} to {most}" if most else f"of at least {least}"

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if number < least or (most and number > most):
            raise argparse.ArgumentTypeError(f"expected a whole number {expected}, got {text[:40]!r}")
        return number

    return read


def run_command(command: Callable[[], int]) -> int:
    """Run a command; return its exit code. A signal of `ENDINGS` ends it, after it has cleaned up."""
    for number in ENDINGS:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)
    try:
        return command()
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("interrupted, cleaned up", file=sys.stderr)
        return 128 + int(interrupt.args[0])


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
