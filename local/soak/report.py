"""The report of a soak: its outcomes, the number of each fault, and a line for each promise."""

from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from local.soak.run import EVERY_FAULT, Outcome

MOST_SHOWN = 10


def show(outcome: Outcome, console: Console) -> None:
    """Print the report."""
    console.print(_counts("Outcomes", _outcomes(outcome)))
    console.print(_counts("Faults met", {fault: outcome.hits[fault] for fault in EVERY_FAULT}))
    console.print(_promises(outcome))
    complaints = [
        *(f"{line.number}. {line.promise}: {text}" for line in outcome.broken for text in line.broken[:MOST_SHOWN]),
        *(f"never met: {fault}" for fault in outcome.missed),
        *(["not everything was settled within the limit"] if not outcome.drained else []),
    ]
    for complaint in complaints:
        console.print(complaint, style="red", soft_wrap=True)
    words = "Every promise held." if outcome.good else "NOT every promise held, or not every fault was met."
    console.print(words, style="bold green" if outcome.good else "bold red")


def _outcomes(outcome: Outcome) -> dict[str, int]:
    facts = outcome.facts
    reasons = Counter(reason for reason, _ in {(held.reason, held.message_id) for held in facts.parked})
    return {
        "sent": len(facts.sent),
        "accepted by the endpoint, each pair once": len(set(facts.accepted)),
        "accepted again": len(facts.accepted) - len(set(facts.accepted)),
        **{f"parked: {reason}": count for reason, count in sorted(reasons.items())},
        "dead-lettered": len(facts.dead),
        "still queued": len(facts.queued),
        "POSTs": len(facts.requests),
        "invocations": len(facts.invocations),
        "AWS calls": len(facts.calls),
        "seconds": round(outcome.seconds),
    }


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, count in counts.items():
        table.add_row(name, str(count))
    return table


def _promises(outcome: Outcome) -> Table:
    table = Table(title="The promises", title_justify="left")
    for name in ("", "promise", "checked", "excused", "broken"):
        table.add_column(name, justify="left" if name == "promise" else "right")
    for line in outcome.report:
        counts = line.checked, line.excused, len(line.broken)
        table.add_row(str(line.number), line.promise, *map(str, counts), style="red" if line.broken else "")
    return table
