"""The report of a demo. The endpoint counts deliveries and the queue counts parked results, not the relay's own log."""

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from local.demo.run import Run
from local.processes import wait_until
from local.soak.facts import DELIVERED, QueueMessage


def show(run: Run) -> list[str]:
    """Show the outcomes of a run; return a sentence for each wrong one."""
    log: list[dict[str, Any]] = []

    def is_logged() -> bool:
        log[:] = run.deployment.log()
        return any(line.get("uuid") == run.failing.uuid and line["outcome"] == DELIVERED for line in log)

    wait_until(is_logged, limit_s=60)
    _tell_story(run, log)
    _tell_events(run, log)
    return _outcomes(run, {line["uuid"] for line in log if "uuid" in line and line["outcome"] == "deferred"})


def _tell_story(run: Run, log: Sequence[dict[str, Any]]) -> None:
    """Tell one result's failures: the endpoint's answers, and the relay's decisions from its log."""
    uuid = run.failing.uuid
    told = [(one.at, f"the endpoint: {one.answer}", "") for one in run.endpoint.requests if one.uuid == uuid]
    for line in (line for line in log if line.get("uuid") == uuid):
        at = datetime.fromisoformat(line["timestamp"]).timestamp() + 0.001  # the log cuts it to milliseconds
        reason = f", {line['reason']}" if "reason" in line else ""
        delay = f"; next try in {line['retry_in_s']} s" if "retry_in_s" in line else ""
        told.append((at, f"    the relay: {line['outcome']}{reason}", delay))
    print(f"\nOne result and its failures: {uuid}")
    for words, alike in groupby(sorted(told), key=itemgetter(1)):
        (at, _, delay), *more = alike
        print(f"{at - run.sent_at:+8.1f} s  {words}{f', {len(more) + 1} times' if more else delay}")


def _tell_events(run: Run, log: Sequence[dict[str, Any]]) -> None:
    requests = run.endpoint.requests
    refused = sum(request.answer == 401 for request in requests)
    took_s = min(one.at for one in requests if one.answer == 200 and one.at >= run.rotated_at) - run.rotated_at
    late = [str(request.answer) for request in requests if request.uuid == run.known_later.uuid]
    spared = sum(line.get("reason") == "endpoint_failing" for line in log)
    print(f"\nThe late call: the endpoint answered {', then '.join(late)}.")
    print(f"The outage: the relay held back {spared} attempts while it spared the endpoint.")
    print(f"The rotation: {refused} attempts with the old key; the new one was taken after {took_s:.1f} s.")


def _outcomes(run: Run, deferred: set[str]) -> list[str]:
    """Show what became of all items; return a sentence for each not delivered once, or not parked for its reason."""
    accepted = Counter(run.endpoint.accepted)
    first_try = sum(count for (uuid, _), count in accepted.items() if uuid not in deferred)
    parked = Counter(parked_as(QueueMessage.of(message)) for message in run.deployment.peek("ParkedQueueUrl"))
    queued, dead = run.deployment.depth("ResultQueueUrl"), run.deployment.depth("DeadLetterQueueUrl")
    reasons = Counter(reason for _, reason in parked.elements())
    rows = {
        "delivered, never deferred": first_try,
        "deferred, then delivered": accepted.total() - first_try,
        **{f"parked: {reason}": count for reason, count in sorted(reasons.items())},
        "still queued": queued,
        "dead-lettered": dead,
    }
    print("\nOutcomes")
    for name, count in {"sent": len(run.items), **rows, "sum": sum(rows.values())}.items():
        print(f"  {name:55}{count:8}")
    to_accept = Counter(item.pair for item in run.items if item.pair and DELIVERED in item.ends)
    to_park = Counter((item.text, min(item.ends)) for item in run.items if DELIVERED not in item.ends)
    found = [
        f"{' '.join(key)}: {verb} {actual[key]} times, expected {expected[key]}"
        for expected, actual, verb in ((to_accept, accepted, "accepted"), (to_park, parked, "parked"))
        for key in sorted(expected.keys() | actual.keys())
        if expected[key] != actual[key]
    ]
    if queued or dead:
        found.append(f"{queued} still on the queue, {dead} on the dead-letter queue")
    return found


def parked_as(message: QueueMessage) -> tuple[str, str]:
    """Return the text that was sent, which an event has as its `detail`, and the reason for which it is parked."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return json.dumps(json.loads(message.body)["detail"]), message.reason
    return message.body, message.reason
