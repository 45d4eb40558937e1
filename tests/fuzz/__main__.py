"""Fuzz the relay for a while, led by coverage: `make fuzz SECONDS=300`.

Each target gets its share of the time, in a process of its own, beginning with the saved cases. What breaks a promise
is saved in `tests/fuzz/corpus/`, where the tests replay it; what reaches new code stays in `.fuzz/` for the next run.
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

from tests.fuzz import targets

WORK = Path(".fuzz")
SHOW_EVERY_S = 10
# libFuzzer's line for each new input, and now and then without one
STATUS = re.compile(r"#(?P<inputs>\d+)\t\w+\s+cov: (?P<edges>\d+)")


@dataclass
class Ran:
    """How the fuzzing of one target went: inputs tried, edges of the code reached, and what was found."""

    inputs: int = 0
    edges: int = 0
    found: str = ""


def main() -> int:
    """Fuzz all targets, or those named; return how many broke a promise."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together (default %(default)s)")
    parser.add_argument("targets", nargs="*", default=[*targets.TARGETS], metavar="target")
    options = parser.parse_args()
    share_s = max(1, options.seconds // len(options.targets))
    runs = {target: fuzz(target, share_s) for target in options.targets}
    print(f"\n{'target':12} {'inputs':>10} {'edges':>6}  found")
    for target, ran in runs.items():
        print(f"{target:12} {ran.inputs:>10,} {ran.edges:>6}  {ran.found or 'nothing'}")
    return sum(bool(ran.found) for ran in runs.values())


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
        "-keep_seed=1",  # each saved case has its point, whether coverage sees it or not
        "-use_value_profile=1",  # leads to bounds: else a million inputs find no uuid of 129 characters
    ]
    # So many seconds for one input or so many MB in all are a broken promise, too.
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
