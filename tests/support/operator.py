"""An operator with the command `flash-call-relay`, in this process or in a process of its own."""

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest

from local import ROOT
from local.emulator.emulator import Emulator
from ops import queues
from ops.cli import main

MARK = b"\0"


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
                    status = main(list(arguments))
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


@contextlib.contextmanager
def terminal(stream: str, columns: int = 80, **environment: str) -> Iterator[Callable[[], str]]:
    """Make a standard stream a terminal; yield a function that returns the text on it so far."""
    ours, theirs = pty.openpty()
    seen, reads = b"", 0

    def read() -> str:
        nonlocal seen, reads
        reads += 1
        os.write(theirs, MARK)  # what was written before it may arrive a moment later
        while seen.count(MARK) < reads:
            seen += os.read(ours, 65_536)
        return seen[: seen.rindex(MARK)].replace(MARK, b"").decode()

    with pytest.MonkeyPatch.context() as patch, os.fdopen(theirs, "w") as file:
        for name in ("NO_COLOR", "FORCE_COLOR"):
            patch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, stream, file)
        try:
            yield read
        finally:
            os.close(ours)
