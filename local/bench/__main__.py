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

from rich.console import Console
from rich.table import Table

from local import ROOT
from local.bench import batches, coldstart
from local.bench.stage import CPUS, Stage, staged
from local.command import Parser, run_command, stopwatch, whole

REPORT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- make bench writes from here -->\n", "<!-- to here -->\n"
# At most so many bare POSTs of CPU per result.
MOST_CPU = {
    "relay, batches of 10": 2.0,
    "relay, batches of 100": 1.9,
    "relay with ledger, batches of 10": 2.9,
    "relay with ledger, batches of 100": 2.2,
}
# At least so many times the relay's CPU costs the same work in the way that Powertools documents.
LEAST_SAVED = {
    ("documented way", "relay"): 5.0,
    ("documented way with idempotency", "relay with ledger"): 10.0,
}
MOST_START = {coldstart.RELAY: 0.6, coldstart.FIRST_POST: 0.7}
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
        digits: after the decimal point, to show.
        base: the value that `share` is a multiple of.
        most: the target: `share` is at most this.
        least: the target: `share` is at least this.
    """

    name: str
    values: Sequence[float]
    unit: str
    base: float
    digits: int = 0
    most: float | None = None
    least: float | None = None

    @property
    def share(self) -> float:
        """The median as a multiple of the base."""
        return statistics.median(self.values) / self.base

    @property
    def holds(self) -> bool:
        """Whether the target is met, by the share rounded to the target's digits."""
        target = self.most or self.least
        if target is None:
            return True
        share = round(self.share, len(str(target).partition(".")[2]))
        return share <= target if self.most else share >= target

    def cells(self) -> tuple[str, str, str, str, str]:
        """Return the cells of the line: name, median, spread, share, target."""
        low, middle, high = min(self.values), statistics.median(self.values), max(self.values)
        shown = [f"{value:,.{self.digits}f}" for value in (middle, low, high)]
        target = f"at most {self.most}" if self.most else f"at least {self.least}" if self.least else ""
        missed = "" if self.holds else ": MISSED"
        return self.name, f"{shown[0]} {self.unit}", f"{shown[1]} to {shown[2]}", f"{self.share:.2f}", target + missed


Tables = dict[tuple[str, str], list[Row]]  # by title, and by the base of the shares


def main() -> int:
    """Run the benchmark."""
    parser = Parser(prog="python -m local.bench", description=__doc__)
    parser.add_argument("--rounds", type=whole(1), default=9, help="rounds of each kind (default %(default)s)")
    options = parser.parse_args()
    return run_command(lambda: bench(options.rounds))


def bench(rounds: int) -> int:
    """Measure, show and write; return the exit code."""
    console = Console(highlight=False)
    say = stopwatch(console.print)
    with tempfile.TemporaryDirectory() as directory, staged(Path(directory), LATENCIES_MS, say) as stage:
        tables, versions = measure(stage, rounds, say)
    for (title, share), rows in tables.items():
        console.print(table(title, share, rows))
    write(tables, versions, rounds)
    missed = [row.name for rows in tables.values() for row in rows if not row.holds]
    console.print(f"Written to {REPORT.relative_to(ROOT)}.")
    console.print(f"Targets missed: {', '.join(missed)}." if missed else "Every target is met.")
    return 1 if missed else 0


def measure(stage: Stage, rounds: int, say: Any) -> tuple[Tables, dict[str, str]]:
    """Return the tables, and the versions of what was measured."""
    say("cold starts")
    starts = coldstart.cold_starts(stage, rounds)
    size_mb = coldstart.zipped_mb(stage.package, stage.state / "package")
    say("CPU per result")
    cpu = stage.worker(0, "cpu", rounds)
    rates = []
    for latency_ms, connections, batch in RATES:
        say(f"results a second: {latency_ms} ms, {connections} connections, batches of {batch}")
        limit = connections * 1000 / latency_ms
        done = stage.worker(latency_ms, "rate", connections, batch, int(limit * RATE_S), RATE_ROUNDS)
        rates.append(rate_row(latency_ms, connections, batch, limit, done["measured"]))
    post_us = statistics.median(cpu["measured"][batches.POST]) * 1e6
    bare_ms = statistics.median(starts[coldstart.BARE])
    return {
        ("CPU per result", "of one POST"): [
            Row(name, [value * 1e6 for value in values], "µs", post_us, most=MOST_CPU.get(name))
            for name, values in cpu["measured"].items()
        ],
        ("CPU per result beside the documented way, batches of 10", "of the relay"): [
            saved_row(cpu["measured"], other, own, least) for (other, own), least in LEAST_SAVED.items()
        ],
        ("Results a second, of one invocation at a time", "of connections ÷ latency"): rates,
        ("Cold start", "of the bare function"): [
            Row(name, values, "ms", bare_ms, most=MOST_START.get(name)) for name, values in starts.items()
        ],
        ("Package", "of 5.5 MB"): [Row("zipped", [size_mb], "MB", 5.5, digits=1, most=1.0)],
    }, cpu["versions"]


def saved_row(measured: dict[str, list[float]], other: str, own: str, least: float) -> Row:
    """Return a line that compares the documented way with the relay."""
    relay_us = statistics.median(measured[f"{own}, batches of 10"]) * 1e6
    values = [value * 1e6 for value in measured[f"{other}, batches of 10"]]
    return Row(f"{other} ÷ {own}", values, "µs", relay_us, least=least)


def rate_row(latency_ms: int, connections: int, batch: int, limit: float, values: Sequence[float]) -> Row:
    """Return a line of the table of rates."""
    least = None
    if latency_ms == 100:
        least = {10: 0.95, 100: 0.85 if batch == 1000 else None}[connections]
    return Row(f"{latency_ms} ms, {connections} connections, batches of {batch}", values, "/s", limit, least=least)


def table(title: str, share: str, rows: Sequence[Row]) -> Table:
    """Return a table for the terminal."""
    shown = Table("", "median", "spread", share, "target", title=title, title_justify="left")
    for row in rows:
        shown.add_row(*row.cells(), style="" if row.holds else "red")
    return shown


def write(tables: Tables, versions: dict[str, str], rounds: int) -> None:
    """Put the tables into the report, between its two marks."""
    before, _, rest = REPORT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    REPORT.write_text(before + BEGIN + "\n".join(report(tables, versions, rounds)) + "\n" + END + after)


def report(tables: Tables, versions: dict[str, str], rounds: int) -> Iterator[str]:
    """Yield the lines of the report."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"`make bench` on {datetime.now(UTC):%Y-%m-%d}: {processor()}, {len(CPUS)} CPUs, {named}; {rounds} rounds."
    for (title, share), rows in tables.items():
        yield f"\n### {title}\n"
        yield f"| | median | spread | {share} | target |"
        yield "| --- | ---: | ---: | ---: | --- |"
        yield from (f"| {' | '.join(row.cells())} |" for row in rows)


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
