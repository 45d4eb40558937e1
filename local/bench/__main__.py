"""`make bench`: measure, show the tables, write them into docs/performance.md. Exit code 1 if a target is missed."""

import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local import ROOT
from local.bench import batches
from local.bench.stage import BARE, CPUS, FIRST_POST, RELAY, Stage, staged
from local.command import Parser, run_command, stopwatch, whole

REPORT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- make bench writes from here -->\n", "<!-- to here -->\n"
# The targets of shares, by the name of the row: at most this, or if negative at least this.
TARGETS = {
    "relay, batches of 10": 2.0,
    "relay, batches of 100": 1.9,
    "relay with ledger, batches of 10": 2.9,
    "relay with ledger, batches of 100": 2.2,
    "documented way ÷ relay": -5.0,
    "documented way with idempotency ÷ relay with ledger": -10.0,
    "100 ms, 10 connections, batches of 10": -0.95,
    "100 ms, 10 connections, batches of 100": -0.95,
    "100 ms, 10 connections, batches of 1000": -0.95,
    "100 ms, 100 connections, batches of 1000": -0.85,
    RELAY: 0.6,
    FIRST_POST: 0.7,
    "zipped": 1.0,
}
LATENCIES_MS = (0, 20, 100)
RATES = [  # latency in ms, connections, batch
    (latency_ms, connections, batch)
    for latency_ms in (20, 100)
    for connections in (10, 100)
    for batch in (10, 100, 1000)
    if batch >= connections
]
RATE_S, RATE_ROUNDS = 3, 3  # seconds per round, about; rounds


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: what was measured.
        values: the measured values, one for each round.
        unit: of the values.
        base: the share is the median as a multiple of it.
        digits: after the decimal point, to show.
    """

    name: str
    values: Sequence[float]
    unit: str
    base: float
    digits: int = 0

    @property
    def missed(self) -> bool:
        """Whether the share, rounded to the target's digits, misses the target."""
        target = TARGETS.get(self.name, 0)
        share = round(statistics.median(self.values) / self.base, len(str(target).partition(".")[2]))
        return share > target if target > 0 else share < -target

    def __str__(self) -> str:
        low, middle, high = min(self.values), statistics.median(self.values), max(self.values)
        shown = [f"{value:,.{self.digits}f}" for value in (middle, low, high)]
        target = TARGETS.get(self.name)
        words = f"at {'most' if target > 0 else 'least'} {abs(target)}" if target else ""
        words += ": MISSED" if self.missed else ""
        return (
            f"| {self.name} | {shown[0]} {self.unit} | {shown[1]} to {shown[2]} | {middle / self.base:.2f} | {words} |"
        )


Tables = dict[tuple[str, str], list[Row]]  # by title, and by the base of the shares


def main() -> int:
    """Run the benchmark."""
    parser = Parser(prog="python -m local.bench", description=__doc__)
    parser.add_argument("--rounds", type=whole(1), default=9, help="rounds of each kind (default %(default)s)")
    options = parser.parse_args()
    return run_command(lambda: bench(options.rounds))


def bench(rounds: int) -> int:
    """Measure, show and write; return the exit code."""
    say = stopwatch()
    with tempfile.TemporaryDirectory() as directory, staged(Path(directory), LATENCIES_MS, say) as stage:
        tables, versions = measure(stage, rounds, say)
    text = "\n".join(report(tables, versions, rounds)) + "\n"
    before, _, rest = REPORT.read_text().partition(BEGIN)
    REPORT.write_text(before + BEGIN + text + END + rest.partition(END)[2])
    missed = [row.name for rows in tables.values() for row in rows if row.missed]
    print(f"{text}\nWritten to {REPORT.relative_to(ROOT)}. Targets missed: {', '.join(missed) or 'none'}.")
    return 1 if missed else 0


def measure(stage: Stage, rounds: int, say: Any) -> tuple[Tables, dict[str, str]]:
    """Return the tables, and the versions of what was measured."""
    say("cold starts")
    starts = stage.cold_starts(rounds)
    say("CPU per result")
    done = stage.worker(0, "cpu", rounds)
    cpu = {name: [value * 1e6 for value in values] for name, values in done["measured"].items()}
    median = {name: statistics.median(values) for name, values in cpu.items()}
    rates = []
    for latency_ms, connections, batch in RATES:
        name = f"{latency_ms} ms, {connections} connections, batches of {batch}"
        say(f"results a second: {name}")
        limit = connections * 1000 / latency_ms
        values = stage.worker(latency_ms, "rate", connections, batch, int(limit * RATE_S), RATE_ROUNDS)["measured"]
        rates.append(Row(name, values, "/s", limit))
    pairs = [("documented way", "relay"), ("documented way with idempotency", "relay with ledger")]
    size = ", batches of 10"
    return {
        ("CPU per result", "of one POST"): [Row(name, cpu[name], "µs", median[batches.POST]) for name in cpu],
        ("CPU per result beside the documented way, batches of 10", "of the relay"): [
            Row(f"{other} ÷ {own}", cpu[other + size], "µs", median[own + size]) for other, own in pairs
        ],
        ("Results a second, of one invocation at a time", "of connections ÷ latency"): rates,
        ("Cold start", "of the bare function"): [
            Row(name, values, "ms", statistics.median(starts[BARE])) for name, values in starts.items()
        ],
        ("Package", "of 5.5 MB"): [Row("zipped", [stage.zipped_mb()], "MB", 5.5, digits=1)],
    }, done["versions"]


def report(tables: Tables, versions: dict[str, str], rounds: int) -> Iterator[str]:
    """Yield the lines of the report."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.machine()
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"`make bench` on {datetime.now(UTC):%Y-%m-%d}: {processor}, {len(CPUS)} CPUs, {named}; {rounds} rounds."
    for (title, share), rows in tables.items():
        yield f"\n### {title}\n"
        yield f"| | median | spread | {share} | target |"
        yield "| --- | ---: | ---: | ---: | --- |"
        yield from map(str, rows)


if __name__ == "__main__":
    sys.exit(main())
