"""What a proof sends, and the verdict on what became of it. Pure: no AWS, no clock.

The verdict rests on what was sent, what the sandbox accepted and what `account` finds. Of the relay's own log it takes
whether a credential is in it, and whether the reply to an attempt was lost.
"""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from flash_call_relay.models import OTHER, FlashCallResult
from ops import logs
from ops.account import Fate
from ops.output import count

ACCEPTED, COPY, REJECTED = "accepted", "copy", "rejected"  # how a result ends; the last one is parked
HEALTH, OUTAGE, ROTATION = PHASES = ("health", "outage", "rotation")
# What the uuids of the first results ask the sandbox for.
ASKS = ("400", "404x1", "404x1", "page", "other-status", "500x2", "429-2")
INVALID = ('{"uuid": "%s", "status": "success"}', '{"uuid": "%s", "status": 1}', '{"uuid": "%s"}', '["%s"]')
AT_ONCE_S = 10  # copies that were accepted within this time can have been in flight at the same moment
CLOCKS_S = 5  # by which this machine's clock and that of AWS may differ
REPLY_LOST = {"timeout", "connection_failed", "tls_failed", "bad_reply"}


class Sent(NamedTuple):
    """One message or event; `end` is ACCEPTED, COPY, or the reason for which the relay has to park it."""

    uuid: str
    status: str
    body: str
    end: str
    phase: str
    by_bus: bool = False
    at: float = 0.0  # in seconds since the epoch

    @property
    def result(self) -> FlashCallResult:
        """The result, also of a body that is none."""
        return FlashCallResult(self.uuid, "Failed" if self.status == "Failed" else "Success")

    def is_plain(self, phase: str) -> bool:
        """Return whether it is of this phase, and nothing but the phase delays it."""
        return (self.phase, self.end) == (phase, ACCEPTED) and not self.uuid.startswith("test-")


class Acceptance(NamedTuple):
    """A result that the sandbox has accepted."""

    uuid: str
    status: str
    at: float


class Seen(NamedTuple):
    """What is known of what was sent."""

    accepted: Sequence[Acceptance]
    fates: Mapping[FlashCallResult, Fate]  # what `account` says
    log: Sequence[str]  # the relay's lines
    spans: Sequence[tuple[str, float, float]]  # a name, and from when to when the sandbox had to accept nothing


@dataclass(frozen=True)
class Verdict:
    """What became of all that was sent."""

    deviations: Sequence[tuple[str, str]]  # the result's uuid, and what is wrong
    notes: Sequence[str]  # what is documented, and yet worth a line
    ends: Sequence[tuple[str, int, int]]  # the expected end, how many were sent, how many of them ended so
    took_s: Mapping[str, Sequence[float]]  # from sending to acceptance, by phase

    @property
    def latencies(self) -> list[tuple[str, str, str]]:
        """The phase, p50 and p95 from sending to acceptance."""
        cuts = {
            phase: statistics.quantiles(took, n=20, method="inclusive")
            for phase, took in self.took_s.items()
            if len(took) > 1
        }
        return [(phase, f"{at[9]:.1f} s", f"{at[18]:.1f} s") for phase, at in cuts.items()]

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        if self.deviations:
            return f"Not proved: {count(len(self.deviations), 'deviation')}."
        once = "" if self.notes else " once"
        return f"Proved: each result was accepted{once}, or parked with the expected reason."


def plan(run: str, results: int, *, bus: bool) -> list[Sent]:
    """Return what to send: `results` messages with `again`, half of them events if there is a bus."""
    plain = results - len(ASKS) - len(INVALID) - 2 * _copies(results)
    sent = []
    for number, ask in enumerate([*ASKS, *[""] * plain]):
        uuid = f"test-{ask}-{run}-{number:03}" if ask else f"{run}-{number:03}"
        result = FlashCallResult(uuid, "Failed" if number % 4 == 3 else "Success")
        end, phase = REJECTED if ask == "400" else ACCEPTED, HEALTH if ask else PHASES[number % 3]
        sent.append(Sent(uuid, result.status, result.as_json(), end, phase, bus and number % 2 == 1))
    for number, body in enumerate(INVALID):
        uuid = f"{run}-invalid-{number}"
        sent.append(Sent(uuid, "", body % uuid, "invalid_event", HEALTH, bus and number % 2 == 0))
    return sent


def again(sent: Sequence[Sent], results: int) -> list[Sent]:
    """Return copies and contradictions of some of the results that were sent in health."""
    firsts = [one for one in sent if one.is_plain(HEALTH)][: 2 * _copies(results)]
    others = [FlashCallResult(one.uuid, OTHER[one.status]) for one in firsts]
    contrary = [one._replace(status=two.status, body=two.as_json()) for one, two in zip(firsts, others, strict=True)]
    copies = [one._replace(end=COPY) for one in firsts[::2]]
    return copies + [one._replace(end="conflicting_status") for one in contrary[1::2]]


def _copies(results: int) -> int:
    return max(2, results // 30)


def judge(sent: Sequence[Sent], seen: Seen, credentials: Collection[str]) -> Verdict:
    """Return the verdict; no line of the log may have one of the credentials."""
    times = defaultdict[str, list[Acceptance]](list)
    for acceptance in sorted(seen.accepted, key=lambda one: one.at):
        times[acceptance.uuid].append(acceptance)
    faults = [(one, _fault(one, seen.fates[one.result], times.get(one.uuid, ()))) for one in sent]
    deviations, notes = [(one.uuid, fault) for one, fault in faults if fault], Counter[str]()
    lines = list(logs.parsed(seen.log))
    for uuid, of_call in times.items():
        of_uuid = [one for one in sent if one.uuid == uuid]
        if not any(one.end == ACCEPTED for one in of_uuid):
            deviations.append((uuid, "accepted, and it was not to be"))
        elif len(of_call) > 1 and (why := _allowed(of_call, of_uuid, lines)):
            notes[why] += 1
        elif len(of_call) > 1:
            deviations.append((uuid, f"accepted {len(of_call)} times"))
    deviations += [("-", fault) for fault in _faults_of_the_run(seen, lines, credentials)]
    counts, good = Counter(one.end for one in sent), Counter(one.end for one, fault in faults if not fault)
    named = {ACCEPTED: "accepted once", COPY: "nothing: a copy"}
    ends = [(named.get(end, f"parked: {end}"), number, good[end]) for end, number in sorted(counts.items())]
    noted = [f"{number} accepted more than once, because {why}" for why, number in notes.items()]
    took_s = {
        phase: [times[one.uuid][0].at - one.at for one in sent if one.is_plain(phase) and one.uuid in times]
        for phase in PHASES
    }
    return Verdict(deviations, noted, ends, took_s)


def _faults_of_the_run(seen: Seen, lines: Sequence[dict[str, Any]], credentials: Collection[str]) -> Iterator[str]:
    delivered = {line.get("uuid") for line in lines if line.get("message") == "result.delivered"}
    if unlogged := len({one.uuid for one in seen.accepted} - delivered):
        yield f"the log has no line about the delivery of {unlogged} accepted results"
    forms = [form for secret in credentials for form in (secret, json.dumps(secret)[1:-1])]
    if leaks := sum(any(form in line for form in forms) for line in seen.log):
        yield f"{leaks} log lines have a credential"
    for name, begin, end in seen.spans:
        margin_s = min(CLOCKS_S, (end - begin) / 3)
        if wrong := sum(begin + margin_s < one.at < end - margin_s for one in seen.accepted):
            yield f"the sandbox accepted {wrong} during this: {name}"


def _fault(one: Sent, fate: Fate, of_call: Sequence[Acceptance]) -> str | None:
    said = fate.state + (f" ({fate.reason})" if fate.reason else "")
    if one.end not in {ACCEPTED, COPY}:
        return None if (fate.state, fate.reason) == ("parked", one.end) else f"{said} instead of parked ({one.end})"
    if not any(acceptance.status == one.status for acceptance in of_call):
        return f"never accepted: {said}"
    return None if fate.state == "confirmed" and not fate.reason else f"accepted, and yet {said}"


def _allowed(of_call: Sequence[Acceptance], sent: Sequence[Sent], lines: Sequence[dict[str, Any]]) -> str | None:
    """Return why a result may have been accepted more than once; None if it may not."""
    uuid, copies = of_call[0].uuid, [one.at for one in sent if one.end == COPY]
    for first, second in pairwise(of_call):  # a copy is sent once the ledger has the first one
        if first.status != second.status or any(first.at < at <= second.at for at in copies):
            return None
    if any(line.get("uuid") == uuid and line.get("reason") in REPLY_LOST for line in lines):
        return "a reply was lost"
    at_once = all(second.at - first.at <= AT_ONCE_S for first, second in pairwise(of_call))
    return "copies were in flight at the same moment" if at_once else None
