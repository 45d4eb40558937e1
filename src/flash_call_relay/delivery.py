"""Deliver records: a lane per uuid, oldest first, several lanes in parallel. Yields the outcomes as they arrive."""

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from flash_call_relay import models, policy
from flash_call_relay.budget import SETTLE_S, Deadline
from flash_call_relay.credentials import Credentials, CredentialsStore, CredentialsUnavailableError
from flash_call_relay.gate import OUT_OF_TIME, Gate
from flash_call_relay.models import (
    Confirmed,
    Deferred,
    FlashCallResult,
    Judgement,
    NotAsked,
    Processed,
    Reason,
    Record,
    Status,
)
from flash_call_relay.settings import Settings
from flash_call_relay.webhook import Webhook

GROUP_S = 0.0005  # seconds that an outcome waits for others

Outcomes = queue.SimpleQueue[Processed]


class Lane:
    """The records of one uuid, oldest first, and what is known of their call. Copies share one finding."""

    def __init__(self, confirmed: Confirmed | None) -> None:
        """Begin with the ledger's entry, if there is one."""
        self.records: list[tuple[Record, FlashCallResult]] = []
        self._confirmed = confirmed
        self._findings: dict[Status, Judgement | NotAsked] = {}
        self._deferred: NotAsked | None = None

    def known(self, status: Status) -> models.Finding | None:
        """Return the finding for a result with this status; None if the endpoint has to be asked."""
        return self._confirmed or self._findings.get(status) or self._deferred

    def remember(self, result: FlashCallResult, finding: Judgement | NotAsked, outcome: models.Outcome) -> None:
        """Remember a finding for the records that follow.

        While a result is deferred, a result of the same call with the other status waits, too.
        """
        self._findings[result.status] = finding
        if isinstance(outcome, models.Delivered):
            self._confirmed = Confirmed(result.status, at=time.time())
        elif isinstance(outcome, Deferred):
            waits = f"an earlier result of this call, {result.status}, is deferred"
            self._deferred = NotAsked(outcome.reason, waits)


class Delivery:
    """Asks the endpoint for each result of a batch. One instance serves a whole execution environment."""

    def __init__(self, settings: Settings, credentials: CredentialsStore, gate: Gate, webhook: Webhook) -> None:
        self._settings, self._credentials, self._gate, self._webhook = settings, credentials, gate, webhook
        self._work = queue.SimpleQueue[tuple[Lane, Deadline, Outcomes] | None]()
        # A ThreadPoolExecutor makes a future for each lane. That costs a tenth of a small batch.
        self._threads = [
            threading.Thread(target=self._run_lanes, name=f"lane-{number}", daemon=True)
            for number in range(settings.connections_per_function)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads after the lanes that are left. Lambda never calls it: an environment just stops."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def deliver(
        self,
        records: Sequence[Record],
        look_up: Callable[[set[str]], Mapping[str, Confirmed]],
        *,
        deadline: Deadline,
    ) -> Iterator[list[Processed]]:
        """Yield every record once, with its outcome. A group holds all that are ready, so that none waits.

        Args:
            records: one invocation's.
            look_up: returns the ledger's entries of some uuids, by uuid.
            deadline: the function's time-out.
        """
        # While the gate blocks everything, no result needs the secret, and only one to be given up needs the ledger.
        blocked = self._gate.blocked(self._credentials.known)
        confirmed = look_up(self._to_look_up(records, blocked))
        last_moment = deadline.earlier(SETTLE_S)
        outcomes = Outcomes()
        lanes: dict[str, Lane] = {}
        for record in sorted(records, key=lambda record: (record.sent_at, record.message_id)):
            if isinstance(record.content, models.NoResult):
                outcomes.put(self._processed(record, policy.park_invalid(record.content)))
            elif blocked:
                finding = confirmed.get(record.content.uuid, blocked)
                outcomes.put(self._decide(record, record.content, finding))
            else:
                uuid = record.content.uuid
                if uuid not in lanes:
                    lanes[uuid] = Lane(confirmed.get(uuid))
                lanes[uuid].records.append((record, record.content))
        for lane in lanes.values():
            self._work.put((lane, last_moment, outcomes))
        undone = {id(record): record for record in records}
        while undone and (ready := _take(outcomes, len(undone), last_moment)):
            for processed in ready:
                del undone[id(processed.record)]
            yield ready
        if undone:  # normally every attempt ends before the last moment
            yield [
                self._decide(record, record.content, OUT_OF_TIME)
                for record in undone.values()
                if isinstance(record.content, FlashCallResult)
            ]

    def _to_look_up(self, records: Sequence[Record], blocked: NotAsked | None) -> set[str]:
        """Return the uuids of the results that the relay may send, or give up, now."""
        horizon_s, now = self._settings.retry_horizon_seconds, time.time()
        return {
            record.content.uuid
            for record in records
            if isinstance(record.content, FlashCallResult) and (not blocked or policy.age(record, now) >= horizon_s)
        }

    def _run_lanes(self) -> None:
        while work := self._work.get():
            self._run(*work)

    def _run(self, lane: Lane, last_moment: Deadline, outcomes: Outcomes) -> None:
        for record, result in lane.records:
            try:
                processed = self._process(record, result, lane, last_moment)
            except BaseException as error:  # noqa: BLE001 - a bug must cost a retry of this record, not of the batch
                bug = f"a bug in the relay: {type(error).__name__}"
                processed = self._processed(record, Deferred(Reason.RELAY_ERROR, bug, retry_in_s=None))
            outcomes.put(processed)

    def _process(self, record: Record, result: FlashCallResult, lane: Lane, last_moment: Deadline) -> Processed:
        if known := lane.known(result.status):
            return self._decide(record, result, known)
        finding = self._ask(result, last_moment)
        processed = self._decide(
            record, result, finding, finding.duration_ms if isinstance(finding, Judgement) else None
        )
        lane.remember(result, finding, processed.outcome)
        return processed

    def _ask(self, result: FlashCallResult, last_moment: Deadline) -> Judgement | NotAsked:
        """Make an attempt. While the endpoint refuses its credentials, repeat it with those that replaced them.

        If the gate stops a repetition, the endpoint's last answer still decides.
        """
        try:
            credentials = self._credentials.current()
        except CredentialsUnavailableError as error:
            return NotAsked(Reason.CREDENTIALS_UNAVAILABLE, models.printable(str(error)))
        finding = self._attempt(result, credentials, last_moment)
        latest = finding
        while latest.reason is Reason.CREDENTIALS_REJECTED and (others := self._credentials.other_than(credentials)):
            credentials = others
            latest = self._attempt(result, credentials, last_moment)
            if isinstance(latest, Judgement):
                finding = latest
        return finding

    def _attempt(
        self, result: FlashCallResult, credentials: Credentials, last_moment: Deadline
    ) -> Judgement | NotAsked:
        if not_asked := self._gate.admit(credentials, last_moment):
            return not_asked
        answer = self._webhook.post(result, credentials)
        judgement = policy.judge(self._settings, result, answer)
        self._gate.learn(judgement.reason, credentials)
        return judgement

    def _decide(
        self, record: Record, result: FlashCallResult, finding: models.Finding, duration_ms: float | None = None
    ) -> Processed:
        jitter = random.uniform(*policy.JITTER)  # noqa: S311 - it spreads retries and guards nothing
        outcome = policy.decide(self._settings, record, result, finding, now=time.time(), jitter=jitter)
        return self._processed(record, outcome, duration_ms)

    def _processed(self, record: Record, outcome: models.Outcome, duration_ms: float | None = None) -> Processed:
        return Processed(record, outcome, policy.age(record, time.time()), duration_ms)


def _take(outcomes: Outcomes, wanted: int, end: Deadline) -> list[Processed]:
    """Wait for an outcome, and take all that are ready; return none if the time ends first.

    Waits a moment longer if more are wanted: this thread would take CPU from the lanes if each outcome woke it.
    """
    ready: list[Processed] = []
    with contextlib.suppress(queue.Empty):
        ready.append(outcomes.get(timeout=end.left_s))
        if outcomes.qsize() + 1 < wanted:
            time.sleep(GROUP_S)
        while True:
            ready.append(outcomes.get_nowait())
    return ready
