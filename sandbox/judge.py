"""What a proof sends, and the verdict on what became of it. Pure: no AWS, no clock.

The verdict rests on what was sent, what the sandbox accepted and what `account` finds. Of the relay's own log it takes
whether a credential is in it, and how many replies were lost.
"""

import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from flash_call_relay.models import OTHER, FlashCallResult
from ops import logs
from ops.account import Fate
from ops.output import count

ACCEPTED, COPY = "accepted once", "nothing: a copy"
HEALTH, OUTAGE, ROTATION = PHASES = ("health", "outage", "rotation")
# What the uuids of the first results ask the sandbox for.
ASKS = ("400", "404x1", "404x1", "page", "other-status", "500x2", "429-2")
INVALID = ('{"uuid": "%s", "status": "success"}', '{"uuid": "%s", "status": 1}', '{"uuid": "%s"}', '["%s"]')
AT_ONCE_S = 10  # copies that were accepted within this time can have been in flight at the same moment
REPLY_LOST = {"timeout", "connection_failed", "tls_failed", "bad_reply"}

Accepted = Mapping[FlashCallResult, Sequence[float]]  # when the sandbox did


class Sent(NamedTuple):
    """One message or event; `end` is ACCEPTED, COPY, or that the relay has to park it, with the reason."""

    result: FlashCallResult  # of a body that is none, its uuid
    end: str
    phase: str
    body: str
    at: float = 0.0  # in seconds since the epoch


class Verdict(NamedTuple):
    """What became of all that was sent."""

    deviations: Sequence[tuple[str, str]]  # the result's uuid, and what is wrong
    ends: Sequence[tuple[str, int, int]]  # the expected end, how many were sent, how many of them ended so
    latencies: Sequence[tuple[str, str, str]]  # the phase, p50 and p95 from sending to acceptance

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        failed = f"Not proved: {count(len(self.deviations), 'deviation')}."
        return failed if self.deviations else "Proved: each result was accepted or parked as documented."


def plan(run: str, results: int) -> list[Sent]:
    """Return so many messages to send."""
    copies, sent = max(1, results // 30), list[Sent]()
    plain = results - len(ASKS) - len(INVALID) - 2 * copies
    for number, ask in enumerate([*ASKS, *[""] * plain]):
        uuid = f"test-{ask}-{run}-{number:03}" if ask else f"{run}-{number:03}"
        result = FlashCallResult(uuid, "Failed" if number % 4 == 3 else "Success")
        end, phase = "parked: rejected" if ask == "400" else ACCEPTED, HEALTH if ask else PHASES[number % 3]
        sent.append(Sent(result, end, phase, result.as_json()))
    for number, body in enumerate(INVALID):
        result = FlashCallResult(f"{run}-invalid-{number}", "Success")
        sent.append(Sent(result, "parked: invalid_event", HEALTH, body % result.uuid))
    confirmed = [one for one in sent if _is_plain(one, HEALTH)]
    sent += [one._replace(end=COPY, phase=ROTATION) for one in confirmed[:copies]]
    for one in confirmed[copies : 2 * copies]:
        other = FlashCallResult(one.result.uuid, OTHER[one.result.status])
        sent.append(Sent(other, "parked: conflicting_status", ROTATION, other.as_json()))
    return sent


def _is_plain(one: Sent, phase: str) -> bool:
    """Return whether it is of this phase, and nothing but the phase delays it."""
    return (one.phase, one.end) == (phase, ACCEPTED) and not one.result.uuid.startswith("test-")


def judge(
    sent: Sequence[Sent],
    accepted: Accepted,
    fates: Mapping[FlashCallResult, Fate],
    log: Sequence[str],
    credentials: Collection[str],
) -> Verdict:
    """Return the verdict; no line of the log may have one of the credentials."""
    lines, due = list(logs.parsed(log)), {one.result for one in sent if one.end == ACCEPTED}
    lost = Counter(line.get("uuid") for line in lines if line.get("reason") in REPLY_LOST)
    deviations, good = list[tuple[str, str]](), Counter[str]()
    for one in sent:
        said = ": ".join(filter(None, fates[one.result][:2]))
        if said != (expected := "confirmed" if one.end in {ACCEPTED, COPY} else one.end):
            deviations.append((one.result.uuid, f"{said} instead of {expected}"))
        elif one.end == ACCEPTED and one.result not in accepted:
            deviations.append((one.result.uuid, "confirmed, and yet never accepted"))
        else:
            good[one.end] += 1
    for result, times in accepted.items():
        if result not in due:
            deviations.append((result.uuid, "accepted, and it was not to be"))
        elif max(times) - min(times) > AT_ONCE_S and len(times) > 1 + lost[result.uuid]:
            deviations.append((result.uuid, f"accepted {len(times)} times"))
    delivered = {line.get("uuid") for line in lines if line["message"] == logs.DELIVERED}
    if unlogged := {one.uuid for one in accepted} - delivered:
        deviations.append(("-", f"the log has no line about the delivery of {len(unlogged)} accepted results"))
    if leaks := sum(any(secret in line for secret in credentials) for line in log):
        deviations.append(("-", f"{leaks} log lines have a credential"))
    ends = [(end, number, good[end]) for end, number in sorted(Counter(one.end for one in sent).items())]
    return Verdict(deviations, ends, list(_latencies(sent, accepted)))


def _latencies(sent: Sequence[Sent], accepted: Accepted) -> Iterator[tuple[str, str, str]]:
    for phase in PHASES:
        of_phase = [one for one in sent if _is_plain(one, phase) and one.result in accepted]
        if len(of_phase) > 1:
            took_s = [min(accepted[one.result]) - one.at for one in of_phase]
            cuts = statistics.quantiles(took_s, n=20, method="inclusive")
            yield phase, f"{cuts[9]:.1f} s", f"{cuts[18]:.1f} s"
