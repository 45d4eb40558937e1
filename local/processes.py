"""Start, wait for and end processes; find their programs and their ports."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from local import ROOT, TOOLS

START_LIMIT_S = 300
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal


class LocalError(Exception):
    """A tool is missing or has failed. The message is for the person who ran the command."""


def tool(pattern: str) -> Path:
    """Return the file that matches a pattern in the tools' virtual environments.

    Raises:
        LocalError: there is none.
    """
    for found in TOOLS.glob(pattern):
        return found
    raise LocalError(f"{TOOLS / pattern} is missing: run `make setup` first.")


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """Hold a free loopback port for a server that starts later, in any process, and may start again.

    The system gives the port to no other socket, and refuses connections while no server runs. On Linux a server can
    listen on it nevertheless, because both set SO_REUSEADDR.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def listens(port: int) -> bool:
    """Return whether a process accepts connections on this loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def start_session(
    ending: contextlib.ExitStack, command: list[str], *, cwd: Path = ROOT, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own, so that Ctrl-C in the terminal does not reach it; `ending` ends it."""
    with signals_held():
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        ending.callback(end_session, process.pid, process.wait)
    return process


def start_server(
    ending: contextlib.ExitStack,
    name: str,
    command: list[str],
    log: Path,
    is_ready: Callable[[], object],
    **options: Any,
) -> "subprocess.Popen[bytes]":
    """Start a process by `start_session`, with its output in `log`, and wait until it is ready.

    Raises:
        LocalError: it has ended, or is not ready in time.
    """
    with log.open("ab") as output:
        process = start_session(ending, command, stdout=output, **options)
    if not wait_until(lambda: process.poll() is not None or is_ready(), START_LIMIT_S) or process.poll() is not None:
        raise LocalError(f"The {name} did not start. The end of its log:\n{log.read_text(errors='replace')[-2000:]}")
    return process


def end_session(pid: int, reap: Callable[[], object] = lambda: None) -> None:
    """Kill a process that leads its own session, and its children.

    SIGKILL, because the processes have nothing to save and the emulator is slow to end on SIGTERM.

    Args:
        pid: the process.
        reap: waits for the process, if this one is its parent.
    """
    with signals_held(), contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
        reap()
        wait_until(lambda: os.killpg(pid, 0), limit_s=2)  # killpg raises once the last of the group has ended


def wait_until(condition: Callable[[], object], limit_s: float, every_s: float = 0.05) -> bool:
    """Wait until a condition holds; return whether it did within the limit."""
    deadline = time.monotonic() + limit_s
    while not (holds := bool(condition())) and time.monotonic() < deadline:
        time.sleep(every_s)
    return holds


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back the signals of `ENDINGS` until the block ends, so that each process that starts is registered."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    held: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _frame: held.append(number)) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
