"""Fuzz the relay, led by coverage: `make fuzz SECONDS=300`.

Each target runs in its own process for its share of the time, and begins with the saved cases. An input that breaks a
promise goes into `tests/fuzz/corpus/`, where the tests replay it. An input that reaches new code stays in `.fuzz/` for
the next run.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from local.command import Parser, whole
from tests.fuzz import targets

WORK = Path(".fuzz")
SHOW_EVERY_S = 10
# libFuzzer prints such a line for each new input and from time to time
STATUS = re.compile(r"#(?P<inputs>\d+)\t\w+\s+cov: (?P<edges>\d+)")


@dataclass
class Ran:
    """The fuzzing of one target: inputs tried, edges of the code reached, and the broken promise, if any."""

    inputs: int = 0
    edges: int = 0
    found: str = ""


def main() -> int:
    """Fuzz all targets, or the named ones; return the number of targets that broke a promise."""
    parser = Parser(prog="python -m tests.fuzz", description=main.__doc__)
    parser.add_argument("--seconds", type=whole(1), default=300, help="for all targets together (default %(default)s)")
    parser.add_argument("targets", type=_target, nargs="*", default=[*targets.TARGETS], metavar="target")
    options = parser.parse_args()
    share_s = max(1, options.seconds // len(options.targets))
    runs = {target: fuzz(target, share_s) for target in options.targets}
    print(f"\n{'target':12} {'inputs':>10} {'edges':>6}  found")
    for target, ran in runs.items():
        print(f"{target:12} {ran.inputs:>10,} {ran.edges:>6}  {ran.found or 'nothing'}")
    return sum(bool(ran.found) for ran in runs.values())


def _target(name: str) -> str:
    if name not in targets.TARGETS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(targets.TARGETS)}, got {name[:40]!r}")
    return name


def fuzz(target: str, seconds: int) -> Ran:
    """Fuzz a target until it breaks a promise or the time is over."""
    ran, place = Ran(), WORK / target
    seeds, reached, broken = (place / name for name in ("seeds", "reached", "broken"))
    for directory in (seeds, reached, broken):
        directory.mkdir(parents=True, exist_ok=True)
    for old in (*seeds.iterdir(), *broken.iterdir()):
        old.unlink()
    for data in targets.cases(target).values():
        (seeds / hashlib.sha256(data).hexdigest()).write_bytes(data)
    escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in targets.tokens(target))
    (place / "tokens").write_text("".join(f'"{token}"\n' for token in escaped))
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.one",
        target,
        f"-dict={place / 'tokens'}",
        "-max_len=4096",
        "-len_control=0",
        "-keep_seed=1",  # coverage does not see the point of each saved case
        "-use_value_profile=1",  # without it, a million inputs find no uuid of 129 characters
    ]
    # An input that takes more seconds or MB than this breaks a promise, too.
    command += ["-timeout=30", "-rss_limit_mb=1024", f"-max_total_time={seconds}", f"-artifact_prefix={broken}/"]
    environment = {**os.environ, "PYTHONPATH": "src"}
    words: list[str] = []
    shown_at = -SHOW_EVERY_S * 1.0
    with subprocess.Popen(
        [*command, str(reached), str(seeds)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            if status := STATUS.match(line):
                ran.inputs, ran.edges = int(status["inputs"]), int(status["edges"])
            else:
                words.append(line)
            if time.monotonic() - shown_at >= SHOW_EVERY_S:
                shown_at = time.monotonic()
                print(f"{target}: {ran.inputs:,} inputs, {ran.edges} edges", flush=True)
    for artifact in broken.iterdir():
        data = artifact.read_bytes()
        ran.found = f"found {hashlib.sha256(data).hexdigest()[:8]}"
        targets.save(target, ran.found, data)
    if process.returncode:
        ran.found = ran.found or "it could not run"
        print("".join(words[-40:]), file=sys.stderr)
    return ran


if __name__ == "__main__":
    sys.exit(main())
