"""Records into outcomes: a lane per uuid, oldest first, lanes side by side; outcomes are yielded as they come in."""

import contextlib
import queue
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from flash_call_relay import models, policy
from flash_call_relay.budget import SETTLE_S
from flash_call_relay.credentials import Credentials, CredentialsStore, CredentialsUnavailableError
from flash_call_relay.gate import Gate
from flash_call_relay.models import Deferred, FlashCallResult, NoReply, Reason, Record, Settled
from flash_call_relay.settings import Settings
from flash_call_relay.webhook import Webhook

Lane = list[tuple[Record, FlashCallResult]]
Known = dict[str, models.Finding]  # of a lane, by status: copies share it, each with its own age and receive count


class Delivery:
    """Asks the endpoint for each result of a batch. One instance serves a whole execution environment."""

    def __init__(self, settings: Settings, credentials: CredentialsStore, gate: Gate, webhook: Webhook) -> None:
        self._settings, self._credentials, self._gate, self._webhook = settings, credentials, gate, webhook
        self._threads = ThreadPoolExecutor(settings.connections_per_function, thread_name_prefix="lane")

    def deliver(
        self,
        records: Sequence[Record],
        confirmed: Mapping[str, models.Confirmed],
        closed: NoReply | None,
        *,
        deadline: float,
    ) -> Iterator[list[Settled]]:
        """Yield every record once, with its outcome, in groups: all that is ready, so that none waits.

        Args:
            records: one invocation's.
            confirmed: which of their uuids are confirmed already.
            closed: why none of them may be sent; None if the gate is to be asked for each.
            deadline: the function's end, in seconds of the monotonic clock.
        """
        if closed:
            yield [self._settle_unsent(record, confirmed, closed) for record in records]
            return
        last_moment = deadline - SETTLE_S
        lanes: dict[str, Lane] = {}
        outbox: queue.SimpleQueue[Settled] = queue.SimpleQueue()
        for record in sorted(records, key=lambda record: (record.sent_at, record.message_id)):
            if isinstance(record.content, FlashCallResult):
                lanes.setdefault(record.content.uuid, []).append((record, record.content))
            else:
                outbox.put(self._settle(record, None))
        for uuid, lane in lanes.items():
            known: Known = dict.fromkeys(models.OTHER, confirmed[uuid]) if uuid in confirmed else {}
            self._threads.submit(self._run_lane, lane, known, last_moment, outbox)
        waiting = {id(record): record for record in records}
        while waiting:
            try:
                ready = [outbox.get(timeout=max(0.0, last_moment - time.monotonic()))]
            except queue.Empty:
                break
            with contextlib.suppress(queue.Empty):
                while True:
                    ready.append(outbox.get_nowait())
            for settled in ready:
                del waiting[id(settled.record)]
            yield ready
        # Each attempt is over by the last moment, so this is for what no bound of ours holds.
        late = NoReply(Reason.OUT_OF_TIME, "the function's time is over")
        yield [self._settle(record, late) for record in waiting.values()]

    def closed(self) -> NoReply | None:
        """Return why nothing may be sent now, without a look at the secret; None if something may."""
        return self._gate.closed(self._credentials.known)

    def to_look_up(self, records: Sequence[Record], closed: NoReply | None) -> list[str]:
        """Return the uuids that the ledger is to be asked about: of what may be sent or given up now."""
        horizon_s, now = self._settings.retry_horizon_seconds, time.time()
        return [
            record.content.uuid
            for record in records
            if isinstance(record.content, FlashCallResult) and (not closed or policy.age(record, now) >= horizon_s)
        ]

    def _settle_unsent(self, record: Record, confirmed: Mapping[str, models.Confirmed], closed: NoReply) -> Settled:
        if not isinstance(record.content, FlashCallResult):
            return self._settle(record, None)
        return self._settle(record, confirmed.get(record.content.uuid, closed))

    def _run_lane(self, lane: Lane, known: Known, last_moment: float, outbox: "queue.SimpleQueue[Settled]") -> None:
        for record, result in lane:
            try:
                settled = self._next(record, result, known, last_moment)
            except Exception as error:  # noqa: BLE001 - a bug must cost a retry of this record, not of the batch
                bug = Deferred(Reason.RELAY_ERROR, f"a bug in the relay: {type(error).__name__}", retry_in_s=None)
                settled = Settled(record, bug, policy.age(record, time.time()))
            outbox.put(settled)

    def _next(self, record: Record, result: FlashCallResult, known: Known, last_moment: float) -> Settled:
        if result.status in known:
            return self._settle(record, known[result.status])
        answer = self._ask(result, last_moment)
        settled = self._settle(record, answer, answer.duration_ms)
        known[result.status] = answer
        if isinstance(settled.outcome, models.Delivered):
            known |= dict.fromkeys(models.OTHER, models.Confirmed(result.status, at=time.time()))
        elif isinstance(settled.outcome, Deferred):
            held = f"an earlier result of this call, {result.status}, is deferred"
            known.setdefault(models.OTHER[result.status], NoReply(settled.outcome.reason, held))
        return settled

    def _ask(self, result: FlashCallResult, last_moment: float) -> models.Answer:
        try:
            credentials = self._credentials.current()
        except CredentialsUnavailableError as error:
            return NoReply(Reason.CREDENTIALS_UNAVAILABLE, str(error))
        answer, refused = self._attempt(result, credentials, last_moment)
        while refused and (others := self._credentials.other_than(credentials)):
            credentials = others
            repeated, refused = self._attempt(result, credentials, last_moment)
            answer = answer if repeated.duration_ms is None else repeated
        return answer

    def _attempt(
        self, result: FlashCallResult, credentials: Credentials, last_moment: float
    ) -> tuple[models.Answer, bool]:
        """Ask the endpoint if the gate lets it; tell with the answer whether the credentials were refused."""
        held = self._gate.hold(credentials, last_moment)
        if held is not None:
            return held, held.reason is Reason.CREDENTIALS_REJECTED
        answer = self._webhook.post(result, credentials)
        reason = policy.judge(self._settings, result, answer)
        self._gate.learn(reason, credentials)
        return answer, reason is Reason.CREDENTIALS_REJECTED

    def _settle(self, record: Record, finding: models.Finding | None, duration_ms: float | None = None) -> Settled:
        now = time.time()
        jitter = random.uniform(*policy.JITTER)  # noqa: S311 - it spreads retries and guards nothing
        outcome = policy.decide(self._settings, record, finding, now=now, jitter=jitter)
        return Settled(record, outcome, policy.age(record, now), duration_ms)
