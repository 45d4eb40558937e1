"""An operator with the command `flash-call-relay`, in this process or in a process of its own."""

import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from local import ROOT
from local.emulator.emulator import Emulator
from ops import cli, queues

PATIENCE_S = 60  # only a failing test waits this long
END = "\0"


@dataclass(frozen=True)
class Ended:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Operator:
    """An operator who runs `flash-call-relay`."""

    emulator: Emulator

    def __call__(self, *arguments: str, environment: Mapping[str, str | None] | None = None) -> Ended:
        """Run a command in this process; a variable that is None is not set."""
        out, err = io.StringIO(), io.StringIO()
        on_end = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queues, "LONG_POLL_S", 0)  # a short poll of the emulator misses no message
            for name in [name for name in os.environ if name.startswith(("AWS_", "FLASH_CALL_RELAY_"))]:
                patch.delenv(name)
            for name, value in {**self.emulator.environment, **(environment or {})}.items():
                if value is not None:
                    patch.setenv(name, value)
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    status = cli.main(list(arguments))
            finally:
                signal.signal(signal.SIGTERM, on_end)
        return Ended(status, out.getvalue(), err.getvalue())

    @contextlib.contextmanager
    def start(
        self, *arguments: str, before: str = "", stdin: int = subprocess.DEVNULL
    ) -> Iterator["subprocess.Popen[str]"]:
        """Run a command in a new process, after the Python code `before`; kill it at the end of the block."""
        command: Sequence[str] = ["-m", "ops"]
        if before:
            command = ["-c", f"{before}\nimport sys\nfrom ops.cli import main\nsys.exit(main())"]
        own = {"PATH": os.defpath, "HOME": str(self.emulator.state), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        with subprocess.Popen(
            [sys.executable, *command, *arguments],
            env={**own, **self.emulator.environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def ended(process: "subprocess.Popen[str]", says: str | None = None) -> Ended:
    """Write to the standard input of a process, wait for its end, and return its status and output."""
    out, err = process.communicate(says, timeout=60)
    return Ended(process.returncode, out, err)


def run(stack: Any, *arguments: str) -> Ended:
    """Run a command in this process, on a stack in memory."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(cli, "Stack", lambda *_, **__: stack)
        status = cli.main(list(arguments))
    return Ended(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def terminal(
    stream: str, columns: int = 80, encoding: str = "utf-8", **environment: str
) -> Iterator[Callable[..., str]]:
    """Make a standard stream a terminal; yield a function that returns the text on it.

    The function returns all text so far, or waits until the text has a pattern.
    """
    ours, theirs = pty.openpty()
    seen = b""

    def read(until: str = END) -> str:
        nonlocal seen
        if until == END:  # the system passes text on with a delay
            file.write(END)
            file.flush()
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(until, text := seen.decode(errors="replace")):
            assert time.monotonic() < deadline, f"no {until!r} in {text!r}"
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 65_536)
        seen = seen.replace(END.encode(), b"")
        return text.replace(END, "")

    with pytest.MonkeyPatch.context() as patch, os.fdopen(theirs, "w", encoding=encoding) as file:
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, stream, file)
        try:
            yield read
        finally:
            os.close(ours)
