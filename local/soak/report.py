"""Show the report of a soak: what became of the results, how often each fault occurred, and each promise."""

from collections import Counter

from local.command import show_counts
from local.soak.run import EVERY_FAULT, SoakReport

MOST_SHOWN = 10


def show(report: SoakReport) -> None:
    """Print the report."""
    facts = report.facts
    reasons = Counter(reason for reason, _ in {(message.reason, message.message_id) for message in facts.parked})
    outcomes = {
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
    show_counts("Outcomes", outcomes)
    show_counts("Faults", {fault: report.fault_counts[fault] for fault in EVERY_FAULT})
    print("\nThe promises: checked, excused, broken")
    for one in report.promises:
        print(f"{one.number:4}. {one.name:55}{one.checked:8}{one.excused:6}{len(one.broken):6}")
    for one in report.broken:
        for text in one.broken[:MOST_SHOWN]:
            print(f"BROKEN: {one.number}. {one.name}: {text}")
    for fault in report.missing_faults:
        print(f"never occurred: {fault}")
    if not report.settled:
        print("not everything was settled within the limit")
    print("Every promise held." if report.passed else "NOT every promise held, or not every fault occurred.")
