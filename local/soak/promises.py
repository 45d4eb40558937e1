"""Check the relay's promises against the facts of a soak. Pure: no I/O, no clock.

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
from local.soak.facts import DEAD, DELIVERED, OTHER, AwsCall, Facts, Pair, QueueMessage, SentMessage

HEADERS = frozenset(
    {"host", "accept-encoding", "content-length", "content-type", "x-api-key", "x-user-id", "user-agent"}
)
UNDER_WAY_S = 1.0  # from a POST's beginning to its arrival
ROUNDING_S = 1.0  # the clocks of SQS and of this machine may differ, and ages are whole seconds


@dataclass
class Promise:
    """One promise: how many cases were checked, how many a recorded fault excuses, and what broke it."""

    number: int
    name: str
    checked: int = 0
    excused: int = 0
    broken: list[str] = field(default_factory=list)


def check(facts: Facts) -> list[Promise]:
    """Check each promise against the facts."""
    view = _View(facts)
    promises = [Promise(number, name) for number, name in enumerate(PROMISES, start=1)]
    for promise in promises:
        PROMISES[promise.name](view, promise)
    return promises


class _View:
    """The facts, indexed."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.accepted = Counter(facts.accepted)
        self.parked, self.dead_lettered, self.queued = map(_by_id, (facts.parked, facts.dead_lettered, facts.queued))
        self.sent: dict[str, SentMessage] = {}  # by message id
        self.message_ids: dict[str, set[str]] = {sent.key: set() for sent in facts.sent}
        self._identify_messages()
        self.by_message: dict[str, list[Invocation]] = defaultdict(list)  # invocations, by message id
        self.by_uuid: dict[str, list[Invocation]] = defaultdict(list)  # invocations
        for invocation in facts.invocations:
            for message_id in {record["messageId"] for record in invocation.records}:
                self.by_message[message_id].append(invocation)
                if (sent := self.sent.get(message_id)) and sent.pair:
                    self.by_uuid[sent.pair[0]].append(invocation)
        self.reads: dict[int, list[AwsCall]] = defaultdict(list)  # of the ledger, by environment
        self.written: dict[Pair, float] = {}  # the time of each ledger entry
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
        at_the_end = (*self.facts.parked, *self.facts.dead_lettered, *self.facts.queued)
        bodies += [(message.message_id, message.body) for message in at_the_end]
        for message_id, body in bodies:
            if message_id not in self.sent and (sent := by_key.get(message_id) or by_key.get(_event_id(body))):
                self.sent[message_id] = sent
                self.message_ids[sent.key].add(message_id)

    def deletions(self, message_id: str) -> list[Invocation]:
        """Return the invocations after which SQS deleted the message."""
        return [i for i in self.by_message[message_id] if not i.error and message_id not in i.kept]

    def was_redelivered(self, message_id: str, one: Invocation, later: Invocation) -> bool:
        """Return whether SQS could redeliver the message to the later invocation before the first one deleted it.

        It could if the visibility timeout had passed, or a repeated delivery of the event had set a shorter one.
        """
        if later.began - one.began >= self.facts.visibility_s - ROUNDING_S:
            return True
        event = [record["messageId"] for record in one.records]
        return any(
            message_id in repeat.kept and repeat.began <= later.began  # it may have hidden the message before its end
            for repeat in self.by_message[message_id]
            if _id(repeat) in self.facts.repeats and [record["messageId"] for record in repeat.records] == event
        )

    def is_on_a_queue(self, message_id: str) -> bool:
        """Return whether the message is parked, dead-lettered or still on the result queue."""
        return any(message_id in queue for queue in (self.parked, self.dead_lettered, self.queued))

    def lacked_ledger(self, invocation: Invocation, uuid: str) -> bool:
        """Return whether the invocation could not use the ledger for this uuid."""
        if _id(invocation) in self.without_ledger:
            return True
        return any(call.fault and uuid in call.asked for call in self.reads_of(invocation))

    def reads_of(self, invocation: Invocation) -> list[AwsCall]:
        """Return the ledger reads of an invocation."""
        return [c for c in self.reads[invocation.environment] if invocation.began <= c.began <= invocation.ended]


def _id(invocation: Invocation) -> tuple[int, int]:
    return invocation.environment, invocation.number


def _by_id(messages: Sequence[QueueMessage]) -> dict[str, list[QueueMessage]]:
    groups: dict[str, list[QueueMessage]] = defaultdict(list)
    for message in messages:
        groups[message.message_id].append(message)
    return groups


def _event_id(body: str) -> str:
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(envelope.get("id")) if isinstance(envelope, dict) and "detail-type" in envelope else ""


def _unchanged(sent: SentMessage, message: QueueMessage) -> bool:
    if message.message_id == sent.key or not _event_id(message.body):
        return message.body == sent.text
    return bool(json.loads(message.body)["detail"] == json.loads(sent.text))


# ---- the promises ----


def _nothing_is_lost(view: _View, promise: Promise) -> None:
    for sent in view.facts.sent:
        promise.checked += 1
        message_ids = view.message_ids[sent.key]
        delivered = sent.pair in view.accepted and any(map(view.deletions, message_ids))
        if not delivered and not any(map(view.is_on_a_queue, message_ids)):
            promise.broken.append(f"{sent.key} ({sent.pair}) is neither delivered, parked, dead-lettered nor queued")
        for message_id in message_ids:
            for message in [*view.parked.get(message_id, ()), *view.dead_lettered.get(message_id, ())]:
                if not _unchanged(sent, message):
                    promise.broken.append(f"the body of {message_id} was changed")
            _ends_once(view, promise, message_id)


def _ends_once(view: _View, promise: Promise, message_id: str) -> None:
    repeats, parked = view.facts.repeats, view.parked.get(message_id, ())
    deletions = sorted((i for i in view.deletions(message_id) if _id(i) not in repeats), key=lambda i: i.began)
    if len(deletions) > 1 and all(view.was_redelivered(message_id, one, later) for one, later in pairwise(deletions)):
        promise.excused += 1
    elif len(deletions) > 1:
        when = ", ".join(f"{_id(i)} from {i.began:.1f} to {i.ended:.1f}" for i in deletions)
        promise.broken.append(f"SQS deleted {message_id} {len(deletions)} times: in {when}")
    if len(parked) > 1:
        faults = (c.fault and message_id in c.asked for c in view.facts.calls if c.operation == "SendMessageBatch")
        if any(faults) or any(i.error or _id(i) in repeats for i in view.by_message[message_id]):
            promise.excused += 1
        else:
            promise.broken.append(f"{message_id} was parked {len(parked)} times")


def _delivered_means_confirmed(view: _View, promise: Promise) -> None:
    for entry in view.facts.log:
        if entry.get("outcome") == DELIVERED:
            promise.checked += 1
            pair = entry["uuid"], entry["status"]
            if pair not in view.accepted:
                promise.broken.append(f"{pair} is logged as delivered, but the endpoint never accepted it")


def _not_sent_again(view: _View, promise: Promise) -> None:
    confirmed = Counter[Pair]()
    for request in view.facts.requests:
        pair = request.uuid or "", request.status or ""
        confirmed[pair] += request.answer == 200
        if request.at > view.written.get(pair, math.inf):
            promise.checked += 1
            senders = [i for i in view.by_uuid[pair[0]] if i.began <= request.at <= i.ended]
            if any(view.lacked_ledger(invocation, pair[0]) for invocation in senders):
                promise.excused += 1
            elif not any(_read_before(view, i, pair[0], view.written[pair]) for i in senders):
                promise.broken.append(f"{pair} was sent again after it was in the ledger")
    for pair, count in confirmed.items():
        promise.checked += 1
        if count > len(view.by_uuid[pair[0]]):
            promise.broken.append(f"{pair} was confirmed {count} times in {len(view.by_uuid[pair[0]])} invocations")


def _read_before(view: _View, invocation: Invocation, uuid: str, written_at: float) -> bool:
    """Return whether the invocation read the ledger before the entry was written, so that both were in flight."""
    reads = view.reads_of(invocation)
    return any(uuid in c.asked and uuid not in c.found and c.began <= written_at for c in reads)


def _contradictions_are_not_silent(view: _View, promise: Promise) -> None:
    reported = {entry["uuid"] for entry in view.facts.log if entry.get("message") == "ledger.conflict"}
    unwritten = {u for c in view.facts.calls if c.fault and c.operation == "BatchExecuteStatement" for u in c.asked}
    for uuid, status in view.accepted:
        if status == "Success" and (uuid, "Failed") in view.accepted:
            promise.checked += 1
            if uuid in unwritten or any(i.error or view.lacked_ledger(i, uuid) for i in view.by_uuid[uuid]):
                promise.excused += uuid not in reported
            elif uuid not in reported:
                promise.broken.append(f"{uuid} was confirmed with both statuses, and the log has no conflict")
    for message in view.facts.parked:
        sent = view.sent.get(message.message_id)
        if message.reason == "conflicting_status" and sent and sent.pair:
            promise.checked += 1
            if (sent.pair[0], OTHER[sent.pair[1]]) not in view.accepted:
                promise.broken.append(f"{sent.pair} is parked as a contradiction of a result that was never confirmed")
    last_outcomes = {entry["message_id"]: entry["outcome"] for entry in view.facts.log if "outcome" in entry}
    for message_id, outcome in last_outcomes.items():
        pair = (sent := view.sent.get(message_id)) and sent.pair
        dropped = outcome in (DELIVERED, "duplicate") and pair not in view.accepted
        if pair and dropped and (pair[0], OTHER[pair[1]]) in view.accepted:
            promise.broken.append(f"{pair} contradicts a confirmed result, and was dropped as {outcome}")


def _whose_fault_decides(view: _View, promise: Promise) -> None:
    for message in view.facts.parked:
        sent = view.sent.get(message.message_id)
        promise.checked += 1
        if sent is None:
            promise.broken.append(f"{message.message_id} is parked, but nobody sent it")
        elif message.reason not in sent.ends:
            allowed = sorted(sent.ends)
            promise.broken.append(f"{message.message_id} is parked as {message.reason}, expected {allowed}")


def _the_horizon_is_kept(view: _View, promise: Promise) -> None:
    for message in view.facts.parked:
        _, horizon_s, grace_s = [bound for bound in view.facts.bounds if bound[0] <= message.parked_at + ROUNDING_S][-1]
        least = {"retries_exhausted": horizon_s, "unknown_call": grace_s}.get(message.reason)
        if least is not None:
            promise.checked += 1
            if message.age_s < least - ROUNDING_S:
                promise.broken.append(f"{message.message_id} was parked as {message.reason} at {message.age_s:.0f} s")
    for message in view.facts.dead_lettered:
        promise.checked += 1
        sent = view.sent.get(message.message_id)
        if sent is None or DEAD not in sent.ends:
            promise.broken.append(f"{message.message_id} used up its receives")


def _refusals_cost_nothing(view: _View, promise: Promise) -> None:
    promise.checked = sum(request.answer in (401, 403) for request in view.facts.requests)
    for message in view.facts.parked:
        if message.http_status in ("401", "403") or message.reason.startswith("credentials_"):
            promise.broken.append(f"{message.message_id} is parked for refused credentials ({message.reason})")


def _the_clock_is_respected(view: _View, promise: Promise) -> None:
    for invocation in view.facts.invocations:
        promise.checked += 1
        if "timed out" in invocation.error and _id(invocation) not in view.facts.interrupted:
            promise.broken.append(f"invocation {_id(invocation)}: {invocation.error}")
    _waits_are_kept(view, promise)


def _waits_are_kept(view: _View, promise: Promise) -> None:
    waits: dict[int, list[tuple[Request, Invocation]]] = defaultdict(list)  # with who was asked to, by environment
    for request in sorted(view.facts.requests, key=lambda request: request.at):
        senders = [i for i in view.by_uuid[request.uuid or ""] if i.began <= request.at <= i.ended]
        if len({invocation.environment for invocation in senders}) != 1:
            continue  # copies of one result are in flight, so nobody knows whose request it is
        sender = senders[0]
        begun = [(asked, by) for asked, by in waits[sender.environment] if request.at < asked.at + asked.wait_s]
        # An environment has one invocation at a time, so the next one knows the answers of the one before.
        if any(by is not sender or request.at > asked.at + UNDER_WAY_S for asked, by in begun):
            promise.broken.append(f"{_id(sender)} sent {request.uuid} in a time the endpoint had asked it to wait")
        elif begun:
            promise.excused += 1
        promise.checked += bool(request.wait_s)
        waits[sender.environment] = [*begun, *([(request, sender)] if request.wait_s else [])]


def _credentials_go_to_one_host(view: _View, promise: Promise) -> None:
    facts = view.facts
    for request in facts.requests:
        promise.checked += 1
        if not _is_documented(request, facts.host):
            promise.broken.append(f"a request to the endpoint is not as documented: {request}")
    promise.broken += [f"a request reached another host ({request.path})" for request in facts.other_host_requests]
    for call in facts.calls:
        promise.checked += 1
        if call.leaks:
            promise.broken.append(f"a credential is in a call of {call.operation}")
    texts = {
        "the log": facts.raw_log,
        "a parked message": [message.body + message.attributes for message in facts.parked],
        "a dead-lettered message": [message.body + message.attributes for message in facts.dead_lettered],
    }
    for where, lines in texts.items():
        for text in lines:
            promise.checked += 1
            if any(secret in text for secret in facts.credentials):
                promise.broken.append(f"a credential is in {where}")


def _is_documented(request: Request, host: str) -> bool:
    names = [name.lower() for name, _ in request.headers]
    values = {name.lower(): value for name, value in request.headers}
    return (
        (request.method, request.path, values.get("host")) == ("POST", WEBHOOK_PATH, host)
        and len(set(names)) == len(names)
        and set(names) <= HEADERS
        and values.get("content-type") == "application/json"
        and request.uuid is not None
        and request.status in OTHER
        and json.loads(request.body) == {"uuid": request.uuid, "status": request.status}
    )


def _observability_changes_nothing(view: _View, promise: Promise) -> None:
    logged = Counter(_origin(entry) for entry in view.facts.log if "outcome" in entry)
    for invocation in view.facts.invocations:
        if invocation.error:
            if "timed out" not in invocation.error and _id(invocation) not in view.facts.interrupted:
                promise.broken.append(
                    f"invocation {_id(invocation)} failed without an injected fault: {invocation.error}"
                )
            continue
        for message_id in {record["messageId"] for record in invocation.records}:
            promise.checked += 1
            if (count := logged[(*_id(invocation), message_id)]) != 1:
                promise.broken.append(f"{message_id} has {count} outcome lines in invocation {_id(invocation)}")
    _events_tell_the_facts(view, promise)


def _events_tell_the_facts(view: _View, promise: Promise) -> None:
    lines = defaultdict(list)
    for entry in view.facts.log:
        if entry.get("message") in ("result.delivered", "result.parked"):
            lines[entry["message_id"], entry["outcome"]].append(entry)
    for call in view.facts.calls:
        for event in call.published:
            promise.checked += 1
            message_id, outcome = event["message_id"], event["outcome"]
            is_accepted = (event.get("uuid"), event.get("status")) in view.accepted
            if not (is_accepted if outcome == DELIVERED else message_id in view.parked):
                promise.broken.append(f"an event says wrongly that {message_id} is {outcome}")
            if not any(_agree(event, entry) for entry in lines[message_id, outcome]):
                promise.broken.append(f"the event that {message_id} is {outcome} differs from its line in the log")


def _origin(entry: Mapping[str, Any]) -> tuple[int, int, str]:
    return entry["environment"], entry["invocation"], entry["message_id"]


def _agree(event: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Return whether the fields of an event are those of a line of the log."""
    return all(entry.get(name) == value for name, value in event.items() if name not in ("detail-type", "relay"))


PROMISES: dict[str, Callable[[_View, Promise], None]] = {
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
