"""The parts that the local commands share: signals, exit codes, port options and progress lines."""

import argparse
import signal
import socket
import sys
import time
from collections.abc import Callable

from local.processes import ENDINGS, LocalError


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


def stopwatch(show: Callable[[str], object]) -> Callable[[str], None]:
    """Return a function that shows a line, preceded by the seconds since this call."""
    began = time.monotonic()

    def say(line: str) -> None:
        show(f"{time.monotonic() - began:6.1f} s  {line}")

    return say


def add_ports(parser: argparse.ArgumentParser) -> None:
    """Add the options for the ports of the emulator and the endpoint."""
    parser.add_argument("--emulator-port", type=int, default=4566, help="on 127.0.0.1 (default %(default)s)")
    parser.add_argument("--endpoint-port", type=int, default=8787, help="on 127.0.0.1 (default %(default)s)")


def require_ports(options: argparse.Namespace) -> None:
    """Raise a `LocalError` with a way out if a port of `add_ports` is taken."""
    for port, user, variable in (
        (options.emulator_port, "the emulator", "EMULATOR_PORT"),
        (options.endpoint_port, "the endpoint", "ENDPOINT_PORT"),
    ):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OverflowError:
                raise LocalError(f"{variable} must be a port from 1 to 65535, not {port}.") from None
            except OSError:
                raise LocalError(
                    f"Port {port}, meant for {user}, is taken. If an earlier `make up` has it, `make down` ends that. "
                    f"Otherwise choose another port with {variable}=..."
                ) from None
