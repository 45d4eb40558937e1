"""The conservation check: recorded facts of a run → which of the relay's promises held. Pure: no I/O, no clock.

The facts come from those around the relay: who sent, the endpoint, the queues, the proxy before AWS, whoever invoked
the function. Its own log is believed only where it speaks against itself, and is checked against the others.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from local.emulator.runtime import Invocation
from local.endpoint.standin import WEBHOOK_PATH, Request

DELIVERED, DEAD = "delivered", "dead-lettered"
OTHER = {"Success": "Failed", "Failed": "Success"}
HEADERS = frozenset(
    {"host", "accept-encoding", "content-length", "content-type", "x-api-key", "x-user-id", "user-agent"}
)
MAX_RETRY_AFTER_S = 900
RECOVERY_S = 120.0  # within which what waits is tried again after an outage, while it is fresh
ROUNDING_S = 1.0  # a queue's clock and ours may differ, and ages are compared in whole seconds

Pair = tuple[str, str]  # uuid and status


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent.

    Attributes:
        key: the message's id, or the event's.
        text: the message's body, or the event's detail.
        pair: uuid and status; None if it is no result.
        fates: what may become of it: `delivered`, `dead-lettered`, or the reason for which it may be parked.
    """

    key: str
    text: str
    pair: Pair | None
    fates: frozenset[str]


@dataclass(frozen=True, slots=True)
class Held:
    """A message on the parked queue (`message_id` is its source's), the dead-letter queue or the result queue."""

    message_id: str
    body: str
    reason: str = ""
    http_status: str = ""
    parked_at: float = 0.0  # in seconds since the epoch
    age_s: float = 0.0  # of the source message then
    attributes: str = ""  # all of them, to look for credentials in


@dataclass(frozen=True, slots=True)
class Call:
    """One AWS call of the function, as the proxy before AWS saw it.

    Attributes:
        began: in seconds since the epoch.
        ended: when the reply was sent, if one was.
        environment: the execution environment that made it.
        operation: such as "BatchGetItem".
        fault: what was done to it; empty: nothing.
        asked: the uuids, or ids of source messages, that it is about.
        found: uuids that the reply says are in the ledger.
        written: pairs that are in the ledger because of this call.
        delays: the seconds for which messages are to be hidden.
        leaks: whether a credential of the endpoint is in it.
    """

    began: float
    ended: float
    environment: int
    operation: str
    fault: str = ""
    asked: frozenset[str] = frozenset()
    found: frozenset[str] = frozenset()
    written: frozenset[Pair] = frozenset()
    delays: tuple[int, ...] = ()
    leaks: bool = False


@dataclass(frozen=True)
class Facts:
    """All that was recorded.

    Attributes:
        struck: invocations (environment, number) that were killed or frozen on purpose.
        copies: invocations that were a second delivery of an event.
        strays: requests at a host that the credentials are not for.
        raw_log: all that the function and the runtime wrote.
        credentials: every secret value that was ever used.
        host: the endpoint's.
        bounds: since when (in seconds since the epoch) which retry horizon and which grace for unknown calls were in
            force, oldest first.
        recoveries: when the endpoint was well again after an outage, in seconds since the epoch.
        visibility_s: after how long SQS hands a message over again.
        cap_s: the longest retry delay of a fresh result, before jitter; all of a run are.
    """

    sent: Sequence[Sent]
    invocations: Sequence[Invocation]
    struck: frozenset[tuple[int, int]]
    copies: frozenset[tuple[int, int]]
    requests: Sequence[Request]
    accepted: Sequence[Pair]
    strays: Sequence[Request]
    calls: Sequence[Call]
    parked: Sequence[Held]
    dead: Sequence[Held]
    queued: Sequence[Held]
    log: Sequence[Mapping[str, Any]]
    raw_log: Sequence[str]
    credentials: frozenset[str]
    host: str
    bounds: Sequence[tuple[float, float, float]]
    recoveries: Sequence[float]
    visibility_s: float
    cap_s: float


@dataclass
class Line:
    """One promise: how many cases were looked at, what excuses were taken, and what broke it."""

    number: int
    promise: str
    checked: int = 0
    excused: int = 0
    broken: list[str] = field(default_factory=list)


Report = list[Line]


def check(facts: Facts) -> Report:
    """Check every promise against the facts."""
    view = _View(facts)
    report = []
    for number, (promise, look) in enumerate(PROMISES.items(), start=1):
        line = Line(number, promise)
        look(view, line)
        report.append(line)
    return report


class _View:
    """The facts, put in order."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.accepted = Counter(facts.accepted)
        self.by_key = {sent.key: sent for sent in facts.sent}
        self.parked: dict[str, list[Held]] = _grouped(facts.parked)
        self.dead: dict[str, list[Held]] = _grouped(facts.dead)
        self.queued: dict[str, list[Held]] = _grouped(facts.queued)
        self.sent_as: dict[str, Sent] = {}  # by message id
        self.messages: dict[str, set[str]] = {sent.key: set() for sent in facts.sent}
        self.containing: dict[str, list[Invocation]] = defaultdict(list)  # invocations by message id
        self.of_uuid: dict[str, list[Invocation]] = defaultdict(list)
        for message_id, body in self._bodies():
            self._identify(message_id, body)
        for invocation in facts.invocations:
            for message_id in {record["messageId"] for record in invocation.records}:
                self.containing[message_id].append(invocation)
                if (sent := self.sent_as.get(message_id)) and sent.pair:
                    self.of_uuid[sent.pair[0]].append(invocation)
        self.troubled = {  # invocations that could not use the ledger, by their own word
            (line["environment"], line["invocation"]) for line in facts.log if line.get("message") == "ledger.failed"
        }

    def _bodies(self) -> Iterator[tuple[str, str]]:
        for invocation in self.facts.invocations:
            for record in invocation.records:
                yield record["messageId"], record["body"]
        for held in [*self.facts.parked, *self.facts.dead, *self.facts.queued]:
            yield held.message_id, held.body

    def _identify(self, message_id: str, body: str) -> None:
        if message_id not in self.sent_as:
            sent = self.by_key.get(message_id) or self.by_key.get(_event_id(body))
            if sent is not None:
                self.sent_as[message_id] = sent
                self.messages[sent.key].add(message_id)

    @cached_property
    def asked_for(self) -> dict[str, list[float]]:
        """When the endpoint was asked, by uuid."""
        asked_for: dict[str, list[float]] = defaultdict(list)
        for request in self.facts.requests:
            asked_for[request.uuid or ""].append(request.at)
        return asked_for

    @cached_property
    def outcomes(self) -> dict[str, list[str]]:
        """The logged outcomes by message id, oldest first."""
        outcomes: dict[str, list[str]] = defaultdict(list)
        for line in self.facts.log:
            if "outcome" in line:
                outcomes[line["message_id"]].append(line["outcome"])
        return outcomes

    @cached_property
    def written(self) -> dict[Pair, float]:
        """Since when pairs are in the ledger."""
        written: dict[Pair, float] = {}
        for call in self.facts.calls:
            for pair in call.written:
                written[pair] = min(call.ended, written.get(pair, math.inf))
        return written

    @cached_property
    def reads(self) -> dict[int, list[Call]]:
        """The ledger's reads by environment."""
        reads: dict[int, list[Call]] = defaultdict(list)
        for call in self.facts.calls:
            if call.operation == "BatchGetItem":
                reads[call.environment].append(call)
        return reads

    def let_go(self, message_id: str) -> list[Invocation]:
        """The invocations after which SQS deleted the message."""
        return [i for i in self.containing[message_id] if not i.error and message_id not in i.kept]

    def came_back(self, message_id: str, one: Invocation, later: Invocation) -> bool:
        """Whether SQS had to hand the message over again while the first invocation may still have had it.

        Its time was up; or a second delivery of the very same event had put the message off for less than that.
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

    def lost_track(self, message_id: str) -> bool:
        """Whether a recorded failure explains that the message came twice."""
        return any(i.error or _id(i) in self.facts.copies for i in self.containing[message_id])

    def could_not_know(self, invocation: Invocation, uuid: str) -> bool:
        """Whether the ledger was kept from this invocation."""
        if _id(invocation) in self.troubled:
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
        arrived = sent.pair in view.accepted and any(map(view.let_go, messages))
        if not safe and not arrived:
            line.broken.append(f"{sent.key} ({sent.pair}) is neither delivered, parked, dead-lettered nor queued")
        for message_id in messages:
            for held in [*view.parked.get(message_id, ()), *view.dead.get(message_id, ())]:
                if not _unchanged(sent, held):
                    line.broken.append(f"the body of {message_id} was changed")
            _one_fate(view, line, message_id)


def _one_fate(view: _View, line: Line, message_id: str) -> None:
    gone, parked = view.let_go(message_id), view.parked.get(message_id, ())
    first = sorted((i for i in gone if _id(i) not in view.facts.copies), key=lambda invocation: invocation.began)
    if len(first) > 1 and all(view.came_back(message_id, a, b) for a, b in pairwise(first)):
        line.excused += 1
    elif len(first) > 1:
        when = ", ".join(f"{_id(i)} from {i.began:.1f} to {i.ended:.1f}" for i in first)
        line.broken.append(f"{message_id} was let go {len(first)} times: in {when}")
    if len(parked) > 1:
        faults = (c.fault and message_id in c.asked for c in view.facts.calls if c.operation == "SendMessageBatch")
        if view.lost_track(message_id) or any(faults):
            line.excused += 1
        else:
            line.broken.append(f"{message_id} was parked {len(parked)} times")


def _delivered_means_confirmed(view: _View, line: Line) -> None:
    for entry in view.facts.log:
        if entry.get("outcome") == DELIVERED:
            line.checked += 1
            pair = entry["uuid"], entry["status"]
            if pair not in view.accepted:
                line.broken.append(f"{pair} is called delivered, but the endpoint never accepted it")


def _not_sent_again(view: _View, line: Line) -> None:
    confirmed = Counter[Pair]()
    for request in view.facts.requests:
        pair = request.uuid or "", request.status or ""
        confirmed[pair] += request.answer == 200
        if request.at > view.written.get(pair, math.inf):
            line.checked += 1
            asking = [i for i in view.of_uuid[pair[0]] if i.began <= request.at <= i.ended]
            if any(view.could_not_know(invocation, pair[0]) for invocation in asking):
                line.excused += 1
            elif not any(_read_before(view, i, pair[0], view.written[pair]) for i in asking):
                line.broken.append(f"{pair} was sent again after it was in the ledger")
    for pair, count in confirmed.items():
        line.checked += 1
        if count > len(view.of_uuid[pair[0]]):
            line.broken.append(f"{pair} was confirmed {count} times in {len(view.of_uuid[pair[0]])} invocations")
    for entry in view.facts.log:
        if entry.get("outcome") == "duplicate" and (entry["uuid"], entry["status"]) not in view.accepted:
            line.broken.append(f"{entry['uuid']} is called a duplicate of what was never confirmed")


def _read_before(view: _View, invocation: Invocation, uuid: str, written_at: float) -> bool:
    """Whether the invocation looked the uuid up before it was written down: then both were in flight at once."""
    reads = [c for c in view.reads[invocation.environment] if invocation.began <= c.began <= invocation.ended]
    return any(uuid in c.asked and uuid not in c.found and c.began <= written_at for c in reads)


def _contradictions_are_not_silent(view: _View, line: Line) -> None:
    noticed = {entry["uuid"] for entry in view.facts.log if entry.get("message") == "ledger.conflict"}
    blind = {u for c in view.facts.calls if c.fault and c.operation == "BatchExecuteStatement" for u in c.asked}
    for uuid, status in view.accepted:
        if status == "Success" and (uuid, "Failed") in view.accepted:
            line.checked += 1
            if uuid in blind or any(i.error or view.could_not_know(i, uuid) for i in view.of_uuid[uuid]):
                line.excused += uuid not in noticed
            elif uuid not in noticed:
                line.broken.append(f"{uuid} was confirmed with both statuses, and nobody was told")
    for held in view.facts.parked:
        sent = view.sent_as.get(held.message_id)
        if held.reason == "conflicting_status" and sent and sent.pair:
            line.checked += 1
            if (sent.pair[0], OTHER[sent.pair[1]]) not in view.accepted:
                line.broken.append(f"{sent.pair} is parked as a contradiction of what was never confirmed")
    for message_id, outcomes in view.outcomes.items():
        sent = view.sent_as.get(message_id)
        swallowed = sent and sent.pair and sent.pair not in view.accepted and outcomes[-1] in ("delivered", "duplicate")
        if swallowed and sent and sent.pair and (sent.pair[0], OTHER[sent.pair[1]]) in view.accepted:
            line.broken.append(f"{sent.pair} contradicts what was confirmed, and was dropped as {outcomes[-1]}")


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
                line.broken.append(f"a result was put off for {delay} s")


def _tried_soon_after(view: _View, line: Line, recovered_at: float) -> None:
    run_ended = max(invocation.ended for invocation in view.facts.invocations)
    for message_id, invocations in view.containing.items():
        sent = view.sent_as.get(message_id)
        gone = [i.ended for i in view.let_go(message_id)]
        was_received = any(i.ended <= recovered_at for i in invocations)
        if sent is None or sent.pair is None or not was_received or any(at <= recovered_at for at in gone):
            continue
        tries = [at for at in [*view.asked_for[sent.pair[0]], *gone] if at > recovered_at]
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
    return next((fault for fault, there in faults.items() if there), "")


def _observability_changes_nothing(view: _View, line: Line) -> None:
    logged = Counter((e["environment"], e["invocation"], e["message_id"]) for e in view.facts.log if "outcome" in e)
    for invocation in view.facts.invocations:
        if invocation.error:
            if "timed out" not in invocation.error and _id(invocation) not in view.facts.struck:
                line.broken.append(f"invocation {_id(invocation)} failed by itself: {invocation.error}")
            continue
        for message_id in {record["messageId"] for record in invocation.records}:
            line.checked += 1
            if (count := logged[(*_id(invocation), message_id)]) != 1:
                line.broken.append(f"{message_id} has {count} outcome lines in invocation {_id(invocation)}")


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
