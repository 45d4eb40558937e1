"""The report of a demo. The endpoint counts deliveries and the queue counts parked results, not the relay's own log."""

import contextlib
import json
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from rich.table import Table

from local.demo.run import Run
from local.demo.scenario import DELIVERED, Item
from local.processes import wait_until


def show(run: Run) -> list[str]:
    """Show the outcomes of a run; return a sentence for each wrong one."""
    failing = run.scenario.failing.uuid
    log: list[dict[str, Any]] = []

    def is_logged() -> bool:
        log[:] = run.deployment.log()
        return any(line.get("uuid") == failing and line["outcome"] == DELIVERED for line in log)

    wait_until(is_logged, limit_s=60)
    run.console.print(_story(run, log))
    run.console.print(_events(run, log), soft_wrap=True)
    return _outcomes(run, {line["uuid"] for line in log if "uuid" in line and line["outcome"] == "deferred"})


def _story(run: Run, log: Sequence[dict[str, Any]]) -> Table:
    """Match the requests of the failing result to its log lines, one for each receive, by their times."""
    failing = run.scenario.failing.uuid
    requests = deque(request for request in run.endpoint.requests if request.uuid == failing)
    spans, cells = [], []
    for line in (line for line in log if line.get("uuid") == failing):
        ended = datetime.fromisoformat(line["timestamp"]).timestamp() + 0.001  # the log cuts it to milliseconds
        began, answer = ended, "(not asked)"
        while requests and requests[0].at <= ended:
            request = requests.popleft()
            began, answer = request.at, str(request.answer)
        decision = f"{line['outcome']}, {line['reason']}" if "reason" in line else str(line["outcome"])
        spans.append((began, ended))
        cells.append((answer, decision, f"{line['retry_in_s']} s" if "retry_in_s" in line else ""))
    waits = [f"{later - ended:.1f} s" for (_, ended), (later, _) in pairwise(spans)]
    table = Table(title=f"One result and its failures: {failing}", title_justify="left")
    for name in ("after", "endpoint answered", "relay decided", "delay", "waited"):
        table.add_column(name, justify="left" if " " in name else "right", no_wrap=True)
    for (began, _), row, waited in zip(spans, cells, [*waits, ""], strict=False):
        table.add_row(f"+{began - run.sent_at:.1f} s", *row, waited)
    return table


def _events(run: Run, log: Sequence[dict[str, Any]]) -> str:
    environments = sum(line.get("message") == "endpoint.failing" for line in log)
    refused = sum(request.answer == 401 for request in run.endpoint.requests)
    rotated = (request.at - run.rotated_at for request in run.endpoint.requests if request.answer == 200)
    took_s = min(after_s for after_s in rotated if after_s >= 0)
    late = [str(request.answer) for request in run.endpoint.requests if request.uuid == run.scenario.known_later.uuid]
    spared = sum(line.get("reason") == "endpoint_failing" for line in log)
    return (
        f"The late call: the endpoint answered {', then '.join(late)}.\n"
        f"The outage: {environments} execution environments noticed it and held back {spared} attempts.\n"
        f"The rotation: the endpoint took the new key after {took_s:.1f} s, and refused the old one {refused} times.\n"
    )


def _outcomes(run: Run, deferred: set[str]) -> list[str]:
    accepted = Counter(run.endpoint.accepted)
    first_try = sum(count for (uuid, _), count in accepted.items() if uuid not in deferred)
    parked = Counter(map(parked_as, run.deployment.take_all("ParkedQueueUrl")))
    queued, dead = run.deployment.depth("ResultQueueUrl"), run.deployment.depth("DeadLetterQueueUrl")
    reasons = Counter(reason for _, reason in parked.elements())
    rows = {
        "delivered, never deferred": first_try,
        "deferred, then delivered": accepted.total() - first_try,
        **{f"parked: {reason}": count for reason, count in sorted(reasons.items())},
        "still queued": queued,
        "dead-lettered": dead,
    }
    table = Table(show_header=False, title="Outcomes", title_justify="left", show_footer=True)
    table.add_column(footer="sum")
    table.add_column(footer=str(sum(rows.values())), justify="right")
    table.add_row("sent", str(len(run.scenario.items)), end_section=True)
    for name, count in rows.items():
        table.add_row(name, str(count))
    run.console.print(table)
    return find_deviations(run.scenario.items, accepted, parked, queued=queued, dead=dead)


def parked_as(message: dict[str, Any]) -> tuple[str, str]:
    """Return the text that was sent, which an event has as its `detail`, and the reason for which it is parked."""
    body = message["Body"]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = json.dumps(json.loads(body)["detail"])
    return body, message["Reasons"].get("reason", "no reason")


def find_deviations(
    items: Sequence[Item],
    accepted: Counter[tuple[str, str]],
    parked: Counter[tuple[str, str]],
    *,
    queued: int,
    dead: int,
) -> list[str]:
    """Return a sentence for each item that is not delivered once, or not parked unchanged with its reason."""
    to_accept = Counter(item.result for item in items if item.expected == DELIVERED and item.result)
    to_park = Counter((item.text, item.expected) for item in items if item.expected != DELIVERED)
    found = [
        f"{' '.join(key)}: {verb} {actual[key]} times, expected {expected[key]}"
        for expected, actual, verb in ((to_accept, accepted, "accepted"), (to_park, parked, "parked"))
        for key in sorted(expected.keys() | actual.keys())
        if expected[key] != actual[key]
    ]
    if len(items) != accepted.total() + parked.total():
        found.append(f"{len(items)} sent, but {accepted.total()} delivered and {parked.total()} parked")
    if queued or dead:
        found.append(f"{queued} still on the queue, {dead} on the dead-letter queue")
    return found
