"""What a soak found: what became of the results, how often each fault occurred, and each promise."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from local.soak.facts import Facts
from local.soak.promises import Promise

MOST_SHOWN = 10  # of what broke one promise


@dataclass
class SoakReport:
    """What a soak found.

    Attributes:
        facts: everything that was recorded.
        promises: each promise, checked against the facts.
        fault_counts: how often each fault occurred.
        settled: whether all results were settled within the limit.
        seconds: the time from the first message to the last settlement.
    """

    facts: Facts
    promises: Sequence[Promise]
    fault_counts: Mapping[str, int]
    settled: bool
    seconds: float

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each broken promise, and for what the soak did not test."""
        for promise in self.promises:
            yield from (f"broken: {promise.name}: {text}" for text in promise.broken[:MOST_SHOWN])
            if more := promise.broken[MOST_SHOWN:]:
                yield f"broken: {promise.name}: {len(more)} times more"
            if not promise.checked:
                yield f"never checked: {promise.name}"
        yield from (f"never occurred: {fault}" for fault, count in self.fault_counts.items() if not count)
        if not self.settled:
            yield "not everything was settled within the limit"

    def show(self) -> None:
        """Print tables, and the problems."""
        facts, accepted = self.facts, set(self.facts.accepted)
        reasons = Counter(reason for reason, _ in {(message.reason, message.message_id) for message in facts.parked})
        outcomes = {
            "sent": len(facts.sent),
            "accepted by the endpoint, each pair once": len(accepted),
            "accepted again": len(facts.accepted) - len(accepted),
            **{f"parked: {reason}": count for reason, count in sorted(reasons.items())},
            "dead-lettered": len(facts.dead_lettered),
            "still queued": len(facts.queued),
            "POSTs": len(facts.requests),
            "invocations": len(facts.invocations),
            "seconds": round(self.seconds),
        }
        _show(outcomes.items(), "Outcomes", "")
        _show(self.fault_counts.items(), "Faults", "")
        rows = [(one.name, one.checked, one.excused, len(one.broken)) for one in self.promises]
        _show(rows, "Promises", "checked", "excused", "broken")
        problems = [*self.problems()]
        print("\n".join(problems) or "Every promise held, and every fault occurred.")


def _show(rows: Iterable[tuple[object, ...]], name: str, *columns: str) -> None:
    table = Table(name, box=None)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(str, row))
    Console().print("", table)
