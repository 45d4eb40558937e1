"""What a proof sends, and the verdict on what became of it. Pure: no AWS, no clock.

The verdict rests on what was sent, what the sandbox accepted and what `account` finds. Of the relay's own log it takes
whether a credential is in it, and whether the reply to an attempt was lost.
"""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from flash_call_relay.models import OTHER, FlashCallResult
from ops.account import Fate

ACCEPTED, COPY = "accepted", "copy"  # the ends of what is not parked
HEALTH, OUTAGE, ROTATION = PHASES = ("health", "outage", "rotation")
AT_THE_SAME_MOMENT_S = 10
REPLY_LOST = {"timeout", "connection_failed", "tls_failed", "bad_reply"}
# The uuid asks the sandbox for an answer; then what becomes of the result.
SPECIAL = (
    *(("test-400-", "rejected"), ("test-404x1-", ACCEPTED), ("test-404x1-", ACCEPTED), ("test-page-", ACCEPTED)),
    *(("test-other-status-", ACCEPTED), ("test-500x2-", ACCEPTED), ("test-429-2-", ACCEPTED)),
)
INVALID = (
    (False, '{{"uuid": "{uuid}", "status": "success"}}'),
    (False, 'no JSON, "{uuid}"'),
    (True, '{{"uuid": "{uuid}", "status": "OK"}}'),
    (True, '{{"uuid": "{uuid}"}}'),
)
LEAST = 40  # results of a proof


@dataclass(frozen=True, slots=True)
class Sent:
    """One message or event of a proof; `end` is ACCEPTED, COPY, or the reason for which the relay has to park it."""

    uuid: str
    status: str
    body: str
    end: str
    phase: str
    by_bus: bool = False
    at: float = 0.0  # in seconds since the epoch; 0: not yet

    @property
    def result(self) -> FlashCallResult:
        """The result, also of a body that is none."""
        return FlashCallResult(self.uuid, "Failed" if self.status == "Failed" else "Success")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A result that the sandbox has accepted, at a time in seconds since the epoch."""

    uuid: str
    status: str
    at: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of all that was sent.

    Attributes:
        deviations: the uuid, or "-", and what is wrong.
        notes: what is documented, and yet worth a line.
        ends: how many were sent, and how many of them ended so, by expected end.
        latency_s: from sending to acceptance, p50 and p95, by phase.
    """

    deviations: Sequence[tuple[str, str]]
    notes: Sequence[str]
    ends: Mapping[str, tuple[int, int]]
    latency_s: Mapping[str, tuple[float, float]]

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        if not self.deviations:
            return "Proved: each result was accepted once, or parked with the expected reason."
        return f"Not proved: {len(self.deviations)} deviate{'s' if len(self.deviations) == 1 else ''}."


def plan(run: str, count: int, *, bus: bool) -> list[Sent]:
    """Return what to send: `count` messages, half of them events if there is a bus, all with `run` in the uuid."""
    bodies = [("", ACCEPTED)] * (count - len(SPECIAL) - len(INVALID) - 2 * _copies(count))
    sent = []
    for number, (prefix, end) in enumerate((*SPECIAL, *bodies)):
        result = FlashCallResult(f"{prefix}{run}-{number:04}", "Failed" if number % 4 == 3 else "Success")
        phase = HEALTH if prefix else PHASES[number % 3]
        sent.append(Sent(result.uuid, result.status, result.as_json(), end, phase, bus and number % 2 == 1))
    for number, (by_bus, body) in enumerate(INVALID):
        uuid = f"{run}-invalid-{number}"
        sent.append(Sent(uuid, "", body.format(uuid=uuid), "invalid_event", HEALTH, bus and by_bus))
    return sent


def again(sent: Sequence[Sent], count: int) -> list[Sent]:
    """Return copies and contradictions of some of the results that have been accepted."""
    firsts = [one for one in sent if _is_plain(one, HEALTH)][: 2 * _copies(count)]
    contrary = [FlashCallResult(one.uuid, OTHER[one.status]) for one in firsts[1::2]]
    return [replace(one, end=COPY) for one in firsts[::2]] + [
        replace(one, status=other.status, body=other.as_json(), end="conflicting_status")
        for one, other in zip(firsts[1::2], contrary, strict=True)
    ]


def _is_plain(one: Sent, phase: str) -> bool:
    return (one.phase, one.end) == (phase, ACCEPTED) and not one.uuid.startswith("test-")


def _copies(count: int) -> int:
    return max(2, count // 30)


def judge(
    sent: Sequence[Sent],
    accepted: Sequence[Acceptance],
    fates: Mapping[FlashCallResult, Fate],
    log: Sequence[str],
    credentials: Collection[str],
) -> Verdict:
    """Return the verdict on a proof.

    Args:
        sent: what was sent.
        accepted: what the sandbox accepted of this proof.
        fates: what `account` says of each result.
        log: the relay's log lines since the beginning.
        credentials: no log line may have one of these.
    """
    times = defaultdict[str, list[Acceptance]](list)
    for one in sorted(accepted, key=lambda one: one.at):
        times[one.uuid].append(one)
    faults = [(one, _fault(one, fates[one.result], times.get(one.uuid, ()))) for one in sent]
    notes, deviations = list[str](), [(one.uuid, fault) for one, fault in faults if fault]
    lines = list(_parsed(log))
    for uuid, of_call in times.items():
        of_uuid = [one for one in sent if one.uuid == uuid]
        if not any(one.end == ACCEPTED for one in of_uuid):
            deviations.append((uuid, "accepted, and it was not sent, or was to be parked"))
        elif len(of_call) > 1:
            lost = any(line.get("uuid") == uuid and line.get("reason") in REPLY_LOST for line in lines)
            documented = lost or all(_at_once(first, second, of_uuid) for first, second in pairwise(of_call))
            said = f"accepted {len(of_call)} times"
            if documented:
                notes.append(f"{uuid}: {said}, because {'a reply was lost' if lost else 'two copies were in flight'}")
            else:
                deviations.append((uuid, said))
    delivered = {line.get("uuid") for line in lines if line.get("message") == "result.delivered"}
    if unlogged := len(times.keys() - delivered):
        deviations.append(("-", f"the log has no line about the delivery of {unlogged} accepted results"))
    forms = [form for secret in credentials for form in (secret, json.dumps(secret)[1:-1])]
    if leaks := sum(any(form in line for form in forms) for line in log):
        deviations.append(("-", f"{leaks} log lines have a credential"))
    counts, good = Counter(one.end for one in sent), Counter(one.end for one, fault in faults if not fault)
    ends = {end: (number, good[end]) for end, number in sorted(counts.items())}
    return Verdict(deviations, notes, ends, _latencies(sent, times))


def _fault(one: Sent, fate: Fate, of_call: Sequence[Acceptance]) -> str | None:
    was_accepted = any(acceptance.status == one.status for acceptance in of_call)
    said = fate.state + (f" ({fate.reason})" if fate.reason else "")
    if one.end not in {ACCEPTED, COPY}:
        if (fate.state, fate.reason) != ("parked", one.end):
            return f"{said} instead of parked ({one.end})"
        return "accepted, and yet parked" if was_accepted else None
    if not was_accepted:
        return f"never accepted: {said}"
    return None if fate.state == "confirmed" and not fate.reason else f"accepted, and yet {said}"


def _at_once(first: Acceptance, second: Acceptance, sent: Sequence[Sent]) -> bool:
    """Return whether two copies can have been in flight at the same moment, as SQS and EventBridge may cause."""
    sent_between = any(one.end == COPY and first.at < one.at <= second.at for one in sent)
    return first.status == second.status and second.at - first.at <= AT_THE_SAME_MOMENT_S and not sent_between


def _parsed(log: Sequence[str]) -> Iterator[dict[str, object]]:
    for line in log:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _latencies(sent: Sequence[Sent], times: Mapping[str, Sequence[Acceptance]]) -> dict[str, tuple[float, float]]:
    latencies = {}
    for phase in PHASES:
        plain = [one for one in sent if _is_plain(one, phase) and times.get(one.uuid)]
        took = [times[one.uuid][0].at - one.at for one in plain]
        if len(took) > 1:
            latencies[phase] = (statistics.median(took), statistics.quantiles(took, n=20, method="inclusive")[18])
    return latencies
