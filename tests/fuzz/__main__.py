"""Fuzz the relay, led by coverage: `make fuzz SECONDS=300`.

Each target runs in its own process for its share of the time, and begins with the saved cases. An input that breaks a
promise goes into `tests/fuzz/corpus/`, where the tests replay it. An input that reaches new code stays in `.fuzz/` for
the next run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from tests.fuzz import targets

WORK = Path(".fuzz")


@click.command()
@click.option("--seconds", type=click.IntRange(1), default=300, show_default=True, help="For all targets together.")
def main(seconds: int) -> None:
    """Fuzz all targets; the exit code is the number of targets that broke a promise."""
    share_s = max(1, seconds // len(targets.TARGETS))
    sys.exit(sum(not fuzz(target, share_s) for target in targets.TARGETS))


def fuzz(target: str, seconds: int) -> bool:
    """Fuzz a target until it breaks a promise or the time is over; return whether it kept them all."""
    print(f"\n{target}: {seconds} s", flush=True)
    seeds, reached, broken = (WORK / target / name for name in ("seeds", "reached", "broken"))
    for old in (seeds, broken):
        shutil.rmtree(old, ignore_errors=True)
    for directory in (seeds, reached, broken):
        directory.mkdir(parents=True, exist_ok=True)
    for data in targets.cases(target).values():
        (seeds / hashlib.sha256(data).hexdigest()).write_bytes(data)
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in targets.words(target))
    words = WORK / target / "words"
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    command = [*(sys.executable, "-m", "tests.fuzz.one", target), f"-dict={words}", "-max_len=4096", "-len_control=0"]
    command += ["-keep_seed=1"]  # coverage does not see the point of each saved case
    command += ["-use_value_profile=1"]  # without it, a million inputs find no uuid of 129 characters
    # An input that takes more seconds or MB than this breaks a promise, too.
    command += ["-timeout=30", "-rss_limit_mb=1024", f"-max_total_time={seconds}", f"-artifact_prefix={broken}/"]
    command += ["-print_final_stats=1", str(reached), str(seeds)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": "src"}, check=False)
    for artifact in broken.iterdir():
        data = artifact.read_bytes()
        targets.save(target, f"found {hashlib.sha256(data).hexdigest()[:8]}", data)
    return done.returncode == 0


if __name__ == "__main__":
    main()
