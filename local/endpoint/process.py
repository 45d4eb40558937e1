"""Start the stand-in endpoint as a process of its own."""

import contextlib
import json
import sys
from pathlib import Path

from local.processes import LocalError, listens, start_session, wait_until

START_LIMIT_S = 30


def start_endpoint(
    ending: contextlib.ExitStack, directory: Path, port: int, credentials: dict[str, str], *options: str
) -> int:
    """Start the stand-in and wait until it listens; return its pid.

    Args:
        ending: ends the process.
        directory: for the file of the credentials and the log.
        port: the loopback port.
        credentials: the `api_key` and the `user_id` that the stand-in accepts.
        options: further options of `local.endpoint.standin`.
    """
    path, log_path = directory / "credentials.json", directory / "endpoint.log"
    path.touch(mode=0o600)
    path.write_text(json.dumps(credentials))
    command = [
        sys.executable,
        "-m",
        "local.endpoint.standin",
        "--port",
        str(port),
        "--credentials",
        str(path),
        *options,
    ]
    with log_path.open("wb") as log:
        process = start_session(ending, command, stdout=log)
    wait_until(lambda: process.poll() is not None or listens(port), START_LIMIT_S)
    if process.poll() is not None or not listens(port):
        raise LocalError(f"The stand-in endpoint did not start. Its log:\n{log_path.read_text()}")
    return process.pid
