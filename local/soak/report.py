"""Show the report of a soak: what became of the results, how often each fault occurred, and each promise."""

from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from local.soak.run import EVERY_FAULT, SoakReport

MOST_SHOWN = 10


def show(report: SoakReport, console: Console) -> None:
    """Print the report."""
    console.print(_counts("Outcomes", _ends(report)))
    console.print(_counts("Faults", {fault: report.fault_counts[fault] for fault in EVERY_FAULT}))
    console.print(_promises(report))
    problems = [
        *(f"{one.number}. {one.name}: {text}" for one in report.broken for text in one.broken[:MOST_SHOWN]),
        *(f"never occurred: {fault}" for fault in report.missing_faults),
        *(["not everything was settled within the limit"] if not report.settled else []),
    ]
    for problem in problems:
        console.print(problem, style="red", soft_wrap=True)
    words = "Every promise held." if report.passed else "NOT every promise held, or not every fault occurred."
    console.print(words, style="bold green" if report.passed else "bold red")


def _ends(report: SoakReport) -> dict[str, int]:
    facts = report.facts
    reasons = Counter(reason for reason, _ in {(message.reason, message.message_id) for message in facts.parked})
    return {
        "sent": len(facts.sent),
        "accepted by the endpoint, each pair once": len(set(facts.accepted)),
        "accepted again": len(facts.accepted) - len(set(facts.accepted)),
        **{f"parked: {reason}": count for reason, count in sorted(reasons.items())},
        "dead-lettered": len(facts.dead_lettered),
        "still queued": len(facts.queued),
        "POSTs": len(facts.requests),
        "invocations": len(facts.invocations),
        "AWS calls": len(facts.calls),
        "seconds": round(report.seconds),
    }


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, count in counts.items():
        table.add_row(name, str(count))
    return table


def _promises(report: SoakReport) -> Table:
    table = Table(title="The promises", title_justify="left")
    for name in ("", "promise", "checked", "excused", "broken"):
        table.add_column(name, justify="left" if name == "promise" else "right")
    for promise in report.promises:
        counts = promise.checked, promise.excused, len(promise.broken)
        table.add_row(str(promise.number), promise.name, *map(str, counts), style="red" if promise.broken else "")
    return table
