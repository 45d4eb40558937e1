"""Check the relay's promises against the facts of a soak. Pure: no I/O, no clock.

The check trusts the sender, the endpoint, the queues, the AWS proxy and the invocations. It trusts the relay's own log
only where the log reports a failure, and compares the rest of it with the other facts.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from local.emulator.runtime import Invocation
from local.soak.facts import DELIVERED, OTHER, Facts, Pair


@dataclass
class Promise:
    """One promise: how many cases were checked, how many a recorded fault excuses, and what broke it."""

    name: str
    checked: int = 0
    excused: int = 0
    broken: list[str] = field(default_factory=list)


def check(facts: Facts) -> list[Promise]:
    """Check each promise against the facts."""
    view = _View(facts)
    promises = [Promise(name) for name in PROMISES]
    for promise in promises:
        PROMISES[promise.name](view, promise)
    return promises


class _View:
    """The facts, indexed.

    Attributes:
        accepted: what the endpoint accepted.
        held: the ids of the messages that are parked, dead-lettered or still queued.
        sent: the sent messages by id.
        without_ledger: the invocations that may not have read the ledger, or not written to it.
        by_uuid: the invocations that had a result of this uuid.
        deleted: the ids of the messages that SQS deleted after an invocation.
        known_from: when an accepted result was in the ledger, at the latest.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.accepted = set(facts.accepted)
        self.held = {message.message_id for message in (*facts.parked, *facts.dead_lettered, *facts.queued)}
        self.sent = {sent.message_id: sent for sent in facts.sent}
        failures = [line for line in facts.log if line.get("message") == "ledger.failed"]
        self.without_ledger = facts.ledger_faults | {(line["environment"], line["invocation"]) for line in failures}
        self.by_uuid: dict[str, list[Invocation]] = defaultdict(list)
        self.deleted: set[str] = set()
        self.known_from: dict[Pair, float] = {}
        for invocation in facts.invocations:
            kept = invocation.kept
            for message_id in {record["messageId"] for record in invocation.records}:
                pair = self.sent[message_id].pair if message_id in self.sent else None
                if pair:
                    self.by_uuid[pair[0]].append(invocation)
                if message_id in kept:
                    continue
                self.deleted.add(message_id)
                if pair and pair in self.accepted and _id(invocation) not in self.without_ledger:
                    self.known_from[pair] = min(invocation.ended, self.known_from.get(pair, math.inf))


def _id(invocation: Invocation) -> tuple[int, int]:
    return invocation.environment, invocation.number


# ---- the promises ----


def _nothing_is_lost(view: _View, promise: Promise) -> None:
    for sent in view.facts.sent:
        promise.checked += 1
        delivered = sent.pair in view.accepted and sent.message_id in view.deleted
        if not delivered and sent.message_id not in view.held:
            promise.broken.append(
                f"{sent.message_id} ({sent.pair}) is neither delivered, parked, dead-lettered nor queued"
            )
    for message in (*view.facts.parked, *view.facts.dead_lettered):
        if (origin := view.sent.get(message.message_id)) and message.body != origin.text:
            promise.broken.append(f"the body of {message.message_id} was changed")


def _delivered_means_confirmed(view: _View, promise: Promise) -> None:
    for entry in view.facts.log:
        if entry.get("outcome") == DELIVERED:
            promise.checked += 1
            pair = entry["uuid"], entry["status"]
            if pair not in view.accepted:
                promise.broken.append(f"{pair} is logged as delivered, but the endpoint never accepted it")


def _not_sent_again(view: _View, promise: Promise) -> None:
    for pair, known_from in view.known_from.items():
        promise.checked += sum(invocation.began > known_from for invocation in view.by_uuid[pair[0]])
    for request in view.facts.requests:
        pair = request.uuid or "", request.status or ""
        known_from = view.known_from.get(pair, math.inf)
        senders = [i for i in view.by_uuid[pair[0]] if i.began <= request.at <= i.ended]
        if request.at <= known_from or any(sender.began <= known_from for sender in senders):
            continue  # no invocation that could have sent it read the ledger after the entry was written
        if any(_id(sender) in view.without_ledger for sender in senders):
            promise.excused += 1
        else:
            promise.broken.append(f"{pair} was sent again by {[*map(_id, senders)]}, after it was in the ledger")


def _contradictions_are_not_silent(view: _View, promise: Promise) -> None:
    reported = {entry["uuid"] for entry in view.facts.log if entry.get("message") == "ledger.conflict"}
    for uuid, status in view.accepted:
        if status == "Success" and (uuid, "Failed") in view.accepted:
            promise.checked += 1
            if uuid in reported:
                continue
            if any(i.error or _id(i) in view.without_ledger for i in view.by_uuid[uuid]):
                promise.excused += 1
            else:
                promise.broken.append(f"{uuid} was confirmed with both statuses, and the log has no conflict")
    for message in view.facts.parked:
        sent = view.sent.get(message.message_id)
        if message.reason == "conflicting_status" and sent and sent.pair:
            promise.checked += 1
            if (sent.uuid, OTHER[sent.pair[1]]) not in view.accepted:
                promise.broken.append(f"{sent.pair} is parked as a contradiction of a result that was never confirmed")


def _whose_fault_decides(view: _View, promise: Promise) -> None:
    for message in (*view.facts.parked, *view.facts.dead_lettered):
        promise.checked += 1
        sent, end = view.sent.get(message.message_id), message.reason or "dead-lettered"
        if sent is None or end not in sent.ends:
            expected = sorted(sent.ends) if sent else "nothing, because nobody sent it"
            promise.broken.append(f"{message.message_id} ended as {end}, expected {expected}")


def _the_clock_is_respected(view: _View, promise: Promise) -> None:
    for invocation in view.facts.invocations:
        promise.checked += 1
        if "timed out" in invocation.error and _id(invocation) not in view.facts.interrupted:
            promise.broken.append(f"invocation {_id(invocation)}: {invocation.error}")


def _credentials_go_to_one_host(view: _View, promise: Promise) -> None:
    facts = view.facts
    promise.broken += [f"a request reached another host ({request.path})" for request in facts.other_host_requests]
    promise.broken += [f"a credential is in a call of {operation}" for operation in facts.leaks]
    messages = [message.body + message.attributes for message in (*facts.parked, *facts.dead_lettered)]
    promise.checked = len(facts.requests)
    for where, texts in (("the log", facts.raw_log), ("a parked or dead-lettered message", messages)):
        promise.checked += len(texts)
        leaks = sum(any(secret in text for secret in facts.credentials) for text in texts)
        promise.broken += [f"a credential is in {where}"] * leaks


def _observability_changes_nothing(view: _View, promise: Promise) -> None:
    for invocation in view.facts.invocations:
        promise.checked += 1
        is_late = "timed out" in invocation.error  # this breaks another promise
        if invocation.error and not is_late and _id(invocation) not in view.facts.interrupted:
            promise.broken.append(f"invocation {_id(invocation)} failed without a fault: {invocation.error}")


PROMISES: dict[str, Callable[[_View, Promise], None]] = {
    "Nothing is lost": _nothing_is_lost,
    "Delivered means confirmed": _delivered_means_confirmed,
    "A confirmed result is not sent again": _not_sent_again,
    "Contradictions are not sent silently": _contradictions_are_not_silent,
    "Whose fault decides what happens": _whose_fault_decides,
    "The clock is respected": _the_clock_is_respected,
    "Credentials go to one host": _credentials_go_to_one_host,
    "Observability never changes an outcome": _observability_changes_nothing,
}
