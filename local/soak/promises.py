"""The conservation check: which of the relay's promises do the facts of a soak confirm? Pure: no I/O, no clock.

The check trusts the sender, the endpoint, the queues, the AWS proxy and the invocations. It trusts the relay's own log
only where the log reports a failure, and compares the rest of it with the other facts.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from local.emulator.runtime import Invocation
from local.endpoint.standin import WEBHOOK_PATH, Request
from local.soak.facts import DEAD, DELIVERED, OTHER, Call, Facts, Held, Pair, Sent

HEADERS = frozenset(
    {"host", "accept-encoding", "content-length", "content-type", "x-api-key", "x-user-id", "user-agent"}
)
DETAIL_TYPES = {DELIVERED: "Flash Call Result Confirmed", "parked": "Flash Call Result Parked"}
MAX_RETRY_AFTER_S = 900
RECOVERY_S = 120.0  # from the endpoint's recovery to the next attempt of each fresh result
ROUNDING_S = 1.0  # the clocks of SQS and of this machine may differ, and ages are whole seconds


@dataclass
class Line:
    """One promise: how many cases were checked, how many a known fault excuses, and what broke it."""

    number: int
    promise: str
    checked: int = 0
    excused: int = 0
    broken: list[str] = field(default_factory=list)


Report = list[Line]


def check(facts: Facts) -> Report:
    """Check each promise against the facts."""
    view = _View(facts)
    report = []
    for number, (promise, check_promise) in enumerate(PROMISES.items(), start=1):
        line = Line(number, promise)
        check_promise(view, line)
        report.append(line)
    return report


class _View:
    """The facts, indexed."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.accepted = Counter(facts.accepted)
        self.parked, self.dead, self.queued = map(_grouped, (facts.parked, facts.dead, facts.queued))
        self.sent_as: dict[str, Sent] = {}  # by message id
        self.messages: dict[str, set[str]] = {sent.key: set() for sent in facts.sent}  # message ids
        self._identify_messages()
        self.containing: dict[str, list[Invocation]] = defaultdict(list)  # by message id
        self.of_uuid: dict[str, list[Invocation]] = defaultdict(list)
        for invocation in facts.invocations:
            for message_id in {record["messageId"] for record in invocation.records}:
                self.containing[message_id].append(invocation)
                if (sent := self.sent_as.get(message_id)) and sent.pair:
                    self.of_uuid[sent.pair[0]].append(invocation)
        self.asked_at: dict[str, list[float]] = defaultdict(list)  # by uuid: the times of the attempts
        self.confirmed_at: dict[Pair, float] = {}  # the time of the first attempt that may have been confirmed
        for request in facts.requests:
            self.asked_at[request.uuid or ""].append(request.at)
            if not isinstance(request.answer, int) or 200 <= request.answer < 300:
                pair = request.uuid or "", request.status or ""
                self.confirmed_at[pair] = min(request.at, self.confirmed_at.get(pair, math.inf))
        self.reads: dict[int, list[Call]] = defaultdict(list)  # of the ledger, by environment
        self.written: dict[Pair, float] = {}  # the times of the ledger's entries
        for call in facts.calls:
            if call.operation == "BatchGetItem":
                self.reads[call.environment].append(call)
            for pair in call.written:
                self.written[pair] = min(call.ended, self.written.get(pair, math.inf))
        self.without_ledger = {  # invocations that logged a failure of the ledger
            (line["environment"], line["invocation"]) for line in facts.log if line.get("message") == "ledger.failed"
        }

    def _identify_messages(self) -> None:
        by_key = {sent.key: sent for sent in self.facts.sent}
        records = [record for invocation in self.facts.invocations for record in invocation.records]
        bodies = [(record["messageId"], record["body"]) for record in records]
        bodies += [(h.message_id, h.body) for h in (*self.facts.parked, *self.facts.dead, *self.facts.queued)]
        for message_id, body in bodies:
            if message_id not in self.sent_as and (sent := by_key.get(message_id) or by_key.get(_event_id(body))):
                self.sent_as[message_id] = sent
                self.messages[sent.key].add(message_id)

    def deletions(self, message_id: str) -> list[Invocation]:
        """Return the invocations after which SQS deleted the message."""
        return [i for i in self.containing[message_id] if not i.error and message_id not in i.kept]

    def was_redelivered(self, message_id: str, one: Invocation, later: Invocation) -> bool:
        """Return whether SQS could redeliver the message to the later invocation before the first one deleted it.

        Its visibility timeout was over, or a repeated delivery of the same event had set a shorter one.
        """
        if later.began - one.began >= self.facts.visibility_s - ROUNDING_S:
            return True
        event = [record["messageId"] for record in one.records]
        copies = (i for i in self.containing[message_id] if _id(i) in self.facts.copies)
        return any(
            message_id in copy.kept and copy.ended <= later.began
            for copy in copies
            if [record["messageId"] for record in copy.records] == event
        )

    def has_excuse(self, message_id: str) -> bool:
        """Return whether a failed or a repeated invocation explains that the message was parked twice."""
        return any(i.error or _id(i) in self.facts.copies for i in self.containing[message_id])

    def lacked_ledger(self, invocation: Invocation, uuid: str) -> bool:
        """Return whether the invocation could not use the ledger for this uuid."""
        if _id(invocation) in self.without_ledger:
            return True
        span = [c for c in self.reads[invocation.environment] if invocation.began <= c.began <= invocation.ended]
        return any(call.fault and uuid in call.asked for call in span)


def _id(invocation: Invocation) -> tuple[int, int]:
    return invocation.environment, invocation.number


def _grouped(held: Sequence[Held]) -> dict[str, list[Held]]:
    groups: dict[str, list[Held]] = defaultdict(list)
    for one in held:
        groups[one.message_id].append(one)
    return groups


def _event_id(body: str) -> str:
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(envelope.get("id")) if isinstance(envelope, dict) and "detail-type" in envelope else ""


def _unchanged(sent: Sent, held: Held) -> bool:
    if held.message_id == sent.key or not _event_id(held.body):
        return held.body == sent.text
    return bool(json.loads(held.body)["detail"] == json.loads(sent.text))


# ---- the promises ----


def _nothing_is_lost(view: _View, line: Line) -> None:
    for sent in view.facts.sent:
        line.checked += 1
        messages = view.messages[sent.key]
        safe = any(m in view.parked or m in view.dead or m in view.queued for m in messages)
        arrived = sent.pair in view.accepted and any(map(view.deletions, messages))
        if not safe and not arrived:
            line.broken.append(f"{sent.key} ({sent.pair}) is neither delivered, parked, dead-lettered nor queued")
        for message_id in messages:
            for held in [*view.parked.get(message_id, ()), *view.dead.get(message_id, ())]:
                if not _unchanged(sent, held):
                    line.broken.append(f"the body of {message_id} was changed")
            _one_fate(view, line, message_id)


def _one_fate(view: _View, line: Line, message_id: str) -> None:
    gone, parked = view.deletions(message_id), view.parked.get(message_id, ())
    first = sorted((i for i in gone if _id(i) not in view.facts.copies), key=lambda invocation: invocation.began)
    if len(first) > 1 and all(view.was_redelivered(message_id, a, b) for a, b in pairwise(first)):
        line.excused += 1
    elif len(first) > 1:
        when = ", ".join(f"{_id(i)} from {i.began:.1f} to {i.ended:.1f}" for i in first)
        line.broken.append(f"SQS deleted {message_id} {len(first)} times: in {when}")
    if len(parked) > 1:
        faults = (c.fault and message_id in c.asked for c in view.facts.calls if c.operation == "SendMessageBatch")
        if view.has_excuse(message_id) or any(faults):
            line.excused += 1
        else:
            line.broken.append(f"{message_id} was parked {len(parked)} times")


def _delivered_means_confirmed(view: _View, line: Line) -> None:
    for entry in view.facts.log:
        if entry.get("outcome") == DELIVERED:
            line.checked += 1
            pair = entry["uuid"], entry["status"]
            if pair not in view.accepted:
                line.broken.append(f"{pair} is logged as delivered, but the endpoint never accepted it")


def _not_sent_again(view: _View, line: Line) -> None:
    confirmed = Counter[Pair]()
    for request in view.facts.requests:
        pair = request.uuid or "", request.status or ""
        confirmed[pair] += request.answer == 200
        if request.at > view.written.get(pair, math.inf):
            line.checked += 1
            asking = [i for i in view.of_uuid[pair[0]] if i.began <= request.at <= i.ended]
            if any(view.lacked_ledger(invocation, pair[0]) for invocation in asking):
                line.excused += 1
            elif not any(_read_before(view, i, pair[0], view.written[pair]) for i in asking):
                line.broken.append(f"{pair} was sent again after it was in the ledger")
    for pair, count in confirmed.items():
        line.checked += 1
        if count > len(view.of_uuid[pair[0]]):
            line.broken.append(f"{pair} was confirmed {count} times in {len(view.of_uuid[pair[0]])} invocations")
    for entry in view.facts.log:
        if entry.get("outcome") == "duplicate" and (entry["uuid"], entry["status"]) not in view.accepted:
            line.broken.append(f"{entry['uuid']} is logged as a duplicate, but was never confirmed")


def _read_before(view: _View, invocation: Invocation, uuid: str, written_at: float) -> bool:
    """Return whether the invocation read the ledger before the entry was written, so that both were in flight."""
    reads = [c for c in view.reads[invocation.environment] if invocation.began <= c.began <= invocation.ended]
    return any(uuid in c.asked and uuid not in c.found and c.began <= written_at for c in reads)


def _contradictions_are_not_silent(view: _View, line: Line) -> None:
    noticed = {entry["uuid"] for entry in view.facts.log if entry.get("message") == "ledger.conflict"}
    blind = {u for c in view.facts.calls if c.fault and c.operation == "BatchExecuteStatement" for u in c.asked}
    for uuid, status in view.accepted:
        if status == "Success" and (uuid, "Failed") in view.accepted:
            line.checked += 1
            if uuid in blind or any(i.error or view.lacked_ledger(i, uuid) for i in view.of_uuid[uuid]):
                line.excused += uuid not in noticed
            elif uuid not in noticed:
                line.broken.append(f"{uuid} was confirmed with both statuses, and the log has no conflict")
    for held in view.facts.parked:
        sent = view.sent_as.get(held.message_id)
        if held.reason == "conflicting_status" and sent and sent.pair:
            line.checked += 1
            if (sent.pair[0], OTHER[sent.pair[1]]) not in view.accepted:
                line.broken.append(
                    f"{sent.pair} is parked as a contradiction, but the other status was never confirmed"
                )
    last_outcomes = {entry["message_id"]: entry["outcome"] for entry in view.facts.log if "outcome" in entry}
    for message_id, outcome in last_outcomes.items():
        pair = (sent := view.sent_as.get(message_id)) and sent.pair
        dropped = outcome in (DELIVERED, "duplicate") and pair not in view.accepted
        if pair and dropped and (pair[0], OTHER[pair[1]]) in view.accepted:
            line.broken.append(f"{pair} contradicts a confirmed result, and was dropped as {outcome}")


def _whose_fault_decides(view: _View, line: Line) -> None:
    for held in view.facts.parked:
        sent = view.sent_as.get(held.message_id)
        line.checked += 1
        if sent is None:
            line.broken.append(f"{held.message_id} is parked, but nobody sent it")
        elif held.reason not in sent.fates:
            line.broken.append(f"{held.message_id} is parked as {held.reason}, expected {sorted(sent.fates)}")
    for message_id, sent in view.sent_as.items():
        settled = message_id in view.parked or message_id in view.dead or message_id in view.queued
        if not settled and DELIVERED not in sent.fates:
            line.broken.append(f"{message_id} is gone, expected {sorted(sent.fates)}")


def _the_horizon_is_kept(view: _View, line: Line) -> None:
    for held in view.facts.parked:
        _, horizon_s, grace_s = [bound for bound in view.facts.bounds if bound[0] <= held.parked_at + ROUNDING_S][-1]
        least = {"retries_exhausted": horizon_s, "unknown_call": grace_s}.get(held.reason)
        if least is not None:
            line.checked += 1
            if held.age_s < least - ROUNDING_S:
                line.broken.append(f"{held.message_id} was parked as {held.reason} at {held.age_s:.0f} s")
    for held in view.facts.dead:
        line.checked += 1
        sent = view.sent_as.get(held.message_id)
        if sent is None or DEAD not in sent.fates:
            line.broken.append(f"{held.message_id} used up its receives")
    for recovered_at in view.facts.recoveries:
        _tried_soon_after(view, line, recovered_at)
    longest = max(view.facts.cap_s * 1.2 + 1, MAX_RETRY_AFTER_S if _asked_to_wait(view) else 0)
    for call in view.facts.calls:
        for delay in call.delays:
            line.checked += 1
            if delay > longest:
                line.broken.append(f"a result was deferred for {delay} s")


def _tried_soon_after(view: _View, line: Line, recovered_at: float) -> None:
    run_ended = max(invocation.ended for invocation in view.facts.invocations)
    for message_id, invocations in view.containing.items():
        sent = view.sent_as.get(message_id)
        gone = [i.ended for i in view.deletions(message_id)]
        was_received = any(i.ended <= recovered_at for i in invocations)
        if sent is None or sent.pair is None or not was_received or any(at <= recovered_at for at in gone):
            continue
        tries = [at for at in [*view.asked_at[sent.pair[0]], *gone] if at > recovered_at]
        soonest = min(tries, default=run_ended)
        line.checked += 1
        if soonest > recovered_at + RECOVERY_S:
            line.broken.append(f"{message_id} was not tried for {soonest - recovered_at:.0f} s after the recovery")


def _asked_to_wait(view: _View) -> bool:
    return any(request.answer in (408, 425, 429) for request in view.facts.requests)


def _refusals_cost_nothing(view: _View, line: Line) -> None:
    refused = {request.uuid for request in view.facts.requests if request.answer in (401, 403)}
    line.checked = len(refused)
    for held in view.facts.parked:
        if held.http_status in ("401", "403") or held.reason.startswith("credentials_"):
            line.broken.append(f"{held.message_id} is parked for refused credentials ({held.reason})")
    for sent in view.facts.sent:
        if sent.pair and sent.pair[0] in refused and sent.fates == {DELIVERED} and sent.pair not in view.accepted:
            message_ids = view.messages[sent.key]
            if not any(message_id in view.queued for message_id in message_ids):
                line.broken.append(f"{sent.pair} was refused and never delivered")


def _the_clock_is_respected(view: _View, line: Line) -> None:
    for invocation in view.facts.invocations:
        line.checked += 1
        if "timed out" in invocation.error and _id(invocation) not in view.facts.struck:
            line.broken.append(f"invocation {_id(invocation)}: {invocation.error}")


def _credentials_go_to_one_host(view: _View, line: Line) -> None:
    facts = view.facts
    for request in facts.requests:
        line.checked += 1
        if fault := _shape_fault(request, facts.host):
            line.broken.append(f"a request to the endpoint has {fault}")
    line.broken += [f"a request reached another host ({request.path})" for request in facts.strays]
    for call in facts.calls:
        line.checked += 1
        if call.leaks:
            line.broken.append(f"a credential is in a call of {call.operation}")
    texts = {
        "the log": facts.raw_log,
        "a parked message": [held.body + held.attributes for held in facts.parked],
        "a dead-lettered message": [held.body + held.attributes for held in facts.dead],
    }
    for where, lines in texts.items():
        for text in lines:
            line.checked += 1
            if any(secret in text for secret in facts.credentials):
                line.broken.append(f"a credential is in {where}")


def _shape_fault(request: Request, host: str) -> str:
    names = [name.lower() for name, _ in request.headers]
    values = {name.lower(): value for name, value in request.headers}
    try:
        body = json.loads(request.body)
    except ValueError:
        body = None
    faults = {
        "another method or path": (request.method, request.path) != ("POST", WEBHOOK_PATH),
        "another host": values.get("host") != host,
        "other headers": len(set(names)) != len(names) or not set(names) <= HEADERS,
        "another content type": values.get("content-type") != "application/json",
        "another body": not isinstance(body, dict)
        or body.keys() != {"uuid", "status"}
        or body["status"] not in OTHER
        or not isinstance(body["uuid"], str),
    }
    return next((fault for fault, found in faults.items() if found), "")


def _observability_changes_nothing(view: _View, line: Line) -> None:
    logged = Counter((e["environment"], e["invocation"], e["message_id"]) for e in view.facts.log if "outcome" in e)
    for invocation in view.facts.invocations:
        if invocation.error:
            if "timed out" not in invocation.error and _id(invocation) not in view.facts.struck:
                line.broken.append(f"invocation {_id(invocation)} failed without a strike: {invocation.error}")
            continue
        for message_id in {record["messageId"] for record in invocation.records}:
            line.checked += 1
            if (count := logged[(*_id(invocation), message_id)]) != 1:
                line.broken.append(f"{message_id} has {count} outcome lines in invocation {_id(invocation)}")
    _events_tell_the_facts(view, line)


def _events_tell_the_facts(view: _View, line: Line) -> None:
    lines = defaultdict(list)
    for entry in view.facts.log:
        if entry.get("message") in ("result.delivered", "result.parked"):
            lines[entry["message_id"], entry["outcome"]].append(entry)
    published = set()
    for call in view.facts.calls:
        for event in call.published:
            line.checked += 1
            told = event["message_id"], event["outcome"]
            published.add(told)
            if not _is_true(view, event, call.ended):
                line.broken.append(f"an event says too early or wrongly that {told[0]} is {told[1]}")
            elif not any(_says(event, entry) for entry in lines[told]):
                line.broken.append(f"the event that {told[0]} is {told[1]} differs from its line in the log")
    unpublished = {(e["message_id"], e["event"]) for e in view.facts.log if e.get("message") == "outcome_event.failed"}
    if unpublished and not published:
        line.broken.append("no event was published")
    ended = {_id(invocation) for invocation in view.facts.invocations if not invocation.error}
    unsettled = {_of(e) for e in view.facts.log if e.get("message") == "settle.failed"}
    for told, entries in lines.items():
        final = [e for e in entries if (e["environment"], e["invocation"]) in ended and _of(e) not in unsettled]
        line.checked += len(final)
        if final and told not in published | unpublished:
            line.broken.append(f"{told[0]} was {told[1]}, and no event and no line says so")


def _of(entry: Mapping[str, Any]) -> tuple[int, int, str]:
    return entry["environment"], entry["invocation"], entry["message_id"]


def _is_true(view: _View, event: Mapping[str, Any], at: float) -> bool:
    """Return whether the facts at this time agree with an event."""
    message_id, pair = event["message_id"], (event.get("uuid"), event.get("status"))
    sent = view.sent_as.get(message_id)
    if (
        sent is None
        or event["detail-type"] != DETAIL_TYPES.get(event["outcome"])
        or (sent.pair or (None, None)) != pair
    ):
        return False
    if event["outcome"] == DELIVERED:
        return sent.pair is not None and view.confirmed_at.get(sent.pair, math.inf) <= at and pair in view.accepted
    return any(held.parked_at <= at + ROUNDING_S for held in view.parked.get(message_id, ()))


def _says(event: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Return whether the fields of an event are those of a line of the log."""
    return all(entry.get(name) == value for name, value in event.items() if name not in ("detail-type", "relay"))


PROMISES: dict[str, Callable[[_View, Line], None]] = {
    "Nothing is lost": _nothing_is_lost,
    "Delivered means confirmed": _delivered_means_confirmed,
    "A confirmed result is not sent again": _not_sent_again,
    "Contradictions are not sent silently": _contradictions_are_not_silent,
    "Whose fault decides what happens": _whose_fault_decides,
    "The horizon is kept": _the_horizon_is_kept,
    "Refused credentials never cost a result": _refusals_cost_nothing,
    "The clock is respected": _the_clock_is_respected,
    "Credentials go to one host, in the documented shape": _credentials_go_to_one_host,
    "Observability never changes an outcome": _observability_changes_nothing,
}
