"""`make bench`: measure the relay beside what people would use instead. Exit code 1 if a target is missed."""

import platform
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import click

from local.bench.stage import CPUS, IDEMPOTENCY_TABLE, Stage, staged
from local.command import exits, stopwatch
from local.endpoint.behaviour import late

PLAIN = {"LEDGER_TABLE_NAME": ""}
POST, RELAY, LEDGER = "one bare POST", "relay, batches of 10", "relay with ledger, batches of 10"
# By the name of the row: the worker's kind, batch, number of results and environment variables; the row whose CPU it is
# compared with; the target of the share, which is at most this, or if negative at least this.
CPU: dict[str, tuple[str, int, int, dict[str, str], str, float]] = {
    POST: ("posts", 1000, 1000, {}, POST, 0),
    RELAY: ("relay", 10, 1000, PLAIN, POST, 2.0),
    LEDGER: ("relay", 10, 1000, {}, POST, 2.9),
    "relay, batches of 100": ("relay", 100, 1000, PLAIN, POST, 1.9),
    "relay with ledger, batches of 100": ("relay", 100, 1000, {}, POST, 2.2),
    "documented way": ("documented", 10, 200, {}, RELAY, -5.0),
    "documented way with idempotency": ("documented", 10, 200, {"IDEMPOTENCY_TABLE": IDEMPOTENCY_TABLE}, LEDGER, -10.0),
}
RATES = [(10, 10, -0.95), (10, 100, -0.95), (10, 1000, -0.95), (100, 1000, -0.85)]  # connections, batch, target
LATENCY_S = 0.1
STARTS = [("bare function, init", 0), ("relay, init", 0.6), ("relay, first POST", 0.7)]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was measured.
        values: the measured values, one for each round.
        unit: of the values.
        base: the share is the median as a multiple of it.
        of: names the base.
        target: of the share: at most this, or if negative at least this; 0: none.
    """

    name: str
    values: Sequence[float]
    unit: str
    base: float
    of: str
    target: float

    @property
    def missed(self) -> bool:
        """Whether the share, rounded to the target's digits, misses the target."""
        share = round(median(self.values) / self.base, len(str(self.target).partition(".")[2]))
        return share > self.target if self.target > 0 else share < -self.target

    def __str__(self) -> str:
        middle, digits = median(self.values), 0 if self.base > 10 else 1
        low, shown, high = (f"{value:,.{digits}f}" for value in (min(self.values), middle, max(self.values)))
        target = f"at {'most' if self.target > 0 else 'least'} {abs(self.target)}" if self.target else ""
        share = f"{middle / self.base:.2f} of {self.of}"
        missed = ": MISSED" if self.missed else ""
        return f"| {self.name} | {shown} {self.unit} | {low} to {high} | {share} | {target}{missed} |"


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often to measure.")
@exits
def main(rounds: int) -> int:
    """Measure, print the table of docs/performance.md; return the exit code."""
    say = stopwatch()
    with tempfile.TemporaryDirectory() as directory, staged(Path(directory), say) as stage:
        rows = [*measure(stage, rounds, say)]
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.machine()
    print(f"\n`make bench` on {datetime.now(UTC):%Y-%m-%d}: {processor}, {len(CPUS)} CPUs; {rounds} rounds.\n")
    print("| | median | spread | share | target |\n| --- | ---: | ---: | ---: | --- |", *rows, sep="\n")
    return 1 if any(row.missed for row in rows) else 0


def measure(stage: Stage, rounds: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Measure all kinds, which take turns; yield the rows."""
    measured: dict[object, list[float]] = defaultdict(list)  # by what was measured
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        stage.endpoint.heal()
        for start, milliseconds in zip(STARTS, stage.cold_start(), strict=True):
            measured[start].append(milliseconds)
        for name, (kind, size, count, variables, *_) in CPU.items():
            measured[name].append(stage.measure(kind, size, count, variables)["cpu_s"] * 1e6)
        stage.endpoint.override(late(LATENCY_S))
        for rate in RATES:
            connections, size, _ = rate
            variables = {**PLAIN, "CONNECTIONS_PER_FUNCTION": str(connections)}
            taken = stage.measure("relay", size, max(size, 30 * connections), variables)
            measured[rate].append(1 / taken["elapsed_s"])
    for name, (*_, base, target) in CPU.items():
        yield Row(f"CPU: {name}", measured[name], "µs", median(measured[base]), base, target)
    for connections, size, target in RATES:
        name, limit = f"at 100 ms: {connections} connections, batches of {size}", connections / LATENCY_S
        yield Row(name, measured[connections, size, target], "/s", limit, "connections ÷ latency", target)
    for name, target in STARTS:
        bare = median(measured[STARTS[0]])
        yield Row(f"cold start: {name}", measured[name, target], "ms", bare, "the bare function", target)
    zipped = Path(shutil.make_archive(str(stage.deployment.emulator.state / "package"), "zip", stage.package))
    yield Row("package, zipped", [zipped.stat().st_size / 1e6], "MB", 5.5, "5.5 MB", 1.0)


if __name__ == "__main__":
    main()
