"""Start, wait for and end processes; find their programs and their ports."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from local import ROOT, TOOLS

START_LIMIT_S = 300


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


@contextlib.contextmanager
def session(command: list[str], *, cwd: Path = ROOT, **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process in a session of its own, so that Ctrl-C in the terminal does not reach it; kill all of it then.

    SIGKILL, because the processes have nothing to save and the emulator is slow to end on SIGTERM.
    """
    how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
    process = subprocess.Popen(command, cwd=cwd, **how, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            wait_until(lambda: os.killpg(process.pid, 0), limit_s=2)  # it raises once the last of the group has ended


@contextlib.contextmanager
def server(
    name: str, command: list[str], log: Path, is_ready: Callable[[], object], **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process as `session` does, with its output in `log`; yield it once it is ready.

    Raises:
        LocalError: it has ended, or is not ready in time.
    """
    with log.open("ab") as output, session(command, stdout=output, **options) as process:
        wait_until(lambda: process.poll() is not None or is_ready(), START_LIMIT_S)
        if process.poll() is not None or not is_ready():
            raise LocalError(f"The {name} did not start. Its log ends:\n{log.read_text(errors='replace')[-2000:]}")
        yield process


def wait_until(condition: Callable[[], object], limit_s: float, every_s: float = 0.05) -> bool:
    """Wait until a condition holds; return whether it did within the limit."""
    deadline = time.monotonic() + limit_s
    while not (holds := bool(condition())) and time.monotonic() < deadline:
        time.sleep(every_s)
    return holds
