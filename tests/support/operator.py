"""An operator with the command `flash-call-relay`, in this process or in a process of its own."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any

import pytest

from local import ROOT
from local.emulator.emulator import Emulator
from ops import cli, queues

PATIENCE_S = 60  # only a failing test waits this long


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

    def __call__(self, *arguments: str) -> Ended:
        """Run a command in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queues, "LONG_POLL_S", 0)  # a short poll of the emulator misses no message
            for name, value in self.emulator.environment.items():
                patch.setenv(name, value)
            return in_this_process(*arguments)


def process(
    *arguments: str,
    before: str = "",
    says: str = "",
    stdout: int | IO[str] = subprocess.PIPE,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Ended:
    """Run a command in a process of its own, after the Python code `before`; `says`: on its standard input."""
    code = f"{before}\nimport sys\nfrom ops.cli import main\nsys.exit(main())"
    own = {"PATH": os.defpath, "HOME": os.devnull, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**own, **environment},
        input=says,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout or "", done.stderr)


def run(stack: Any, *arguments: str, typed: str | None = None) -> Ended:
    """Run a command in this process, on a stack in memory; without a text that is typed, there is no terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "Stack", lambda *_, **__: stack)
        if typed is not None:
            keyboard = io.StringIO(typed)  # ends with Ctrl-D
            patch.setattr(keyboard, "isatty", lambda: True)
            patch.setattr(sys, "stdin", keyboard)
        return in_this_process(*arguments)


def in_this_process(*arguments: str) -> Ended:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    on_end = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(list(arguments))
    finally:
        signal.signal(signal.SIGTERM, on_end)
    return Ended(status, out.getvalue(), err.getvalue())


class Screen(io.TextIOWrapper):
    """A terminal's standard output or error."""

    def __init__(self) -> None:
        self._written = io.BytesIO()
        super().__init__(self._written, "utf-8", newline="", write_through=True)

    def isatty(self) -> bool:
        """Return that a person looks at it."""
        return True

    @property
    def raw(self) -> str:
        """All that was written, with the sequences that move and colour."""
        return self._written.getvalue().decode()

    @property
    def lines(self) -> list[str]:
        """The lines that were written, without colours."""
        return re.sub(r"\x1b\[[\d;]*m", "", self.raw).splitlines()


@contextlib.contextmanager
def terminal(stream: str, stack: Any = None, **environment: str) -> Iterator[Screen]:
    """Make a standard stream a terminal; the command works on a stack in memory."""
    with pytest.MonkeyPatch.context() as patch, Screen() as screen:
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "40", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, stream, screen)
        patch.setattr(cli, "Stack", lambda *_, **__: stack)
        yield screen
