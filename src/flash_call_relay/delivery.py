"""Records into outcomes: a lane per uuid, oldest first, lanes side by side; each outcome is yielded as it comes in."""

import queue
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from flash_call_relay import policy
from flash_call_relay.credentials import CredentialsStore, CredentialsUnavailableError
from flash_call_relay.models import Answer, Deferred, FlashCallResult, NoReply, Reason, Record, Settled
from flash_call_relay.settings import Settings
from flash_call_relay.webhook import Webhook

SETTLE_S = 10.0  # kept back at the end of an invocation to park, hide and report: some SQS calls with their retries

Lane = list[tuple[Record, FlashCallResult]]


class Delivery:
    """Asks the endpoint for each result of a batch. One instance serves a whole execution environment."""

    def __init__(self, settings: Settings, credentials: CredentialsStore, webhook: Webhook) -> None:
        self._settings, self._credentials, self._webhook = settings, credentials, webhook
        self._threads = ThreadPoolExecutor(settings.connections_per_function, thread_name_prefix="lane")

    def deliver(self, records: Sequence[Record], *, deadline: float) -> Iterator[Settled]:
        """Yield every record once, with its outcome; `deadline` is the function's end by the monotonic clock."""
        last_moment = deadline - SETTLE_S
        lanes: dict[str, Lane] = {}
        for record in sorted(records, key=lambda record: (record.sent_at, record.message_id)):
            if isinstance(record.content, FlashCallResult):
                lanes.setdefault(record.content.uuid, []).append((record, record.content))
            else:
                yield self._settle(record, None)
        outbox: queue.SimpleQueue[Settled] = queue.SimpleQueue()
        for lane in lanes.values():
            self._threads.submit(self._run_lane, lane, last_moment, outbox)
        waiting = {id(record): record for lane in lanes.values() for record, _ in lane}
        while waiting:
            try:
                settled = outbox.get(timeout=max(0.0, last_moment - time.monotonic()))
            except queue.Empty:
                break
            del waiting[id(settled.record)]
            yield settled
        # Only what no time-out bounds is still under way now, such as resolving a name.
        for record in waiting.values():
            yield self._settle(record, NoReply(Reason.TIMEOUT, "no answer before the function's time was over"))

    def _run_lane(self, lane: Lane, last_moment: float, outbox: "queue.SimpleQueue[Settled]") -> None:
        for record, result in lane:
            try:
                began = time.monotonic()
                answer = self._ask(result, last_moment)
                settled = self._settle(record, answer, (time.monotonic() - began) * 1000)
            except Exception as error:  # noqa: BLE001 - a bug must cost a retry of this record, not of the batch
                bug = Deferred(Reason.RELAY_ERROR, f"a bug in the relay: {type(error).__name__}", retry_in_s=None)
                settled = Settled(record, bug, policy.age(record, time.time()))
            outbox.put(settled)

    def _ask(self, result: FlashCallResult, last_moment: float) -> Answer:
        if time.monotonic() + self._webhook.timeout_s > last_moment:
            return NoReply(Reason.OUT_OF_TIME, "the function's time is over")
        try:
            return self._webhook.post(result, self._credentials.current())
        except CredentialsUnavailableError as error:
            return NoReply(Reason.CREDENTIALS_UNAVAILABLE, str(error))

    def _settle(self, record: Record, answer: Answer | None, duration_ms: float | None = None) -> Settled:
        now = time.time()
        jitter = random.uniform(*policy.JITTER)  # noqa: S311 - it spreads retries and guards nothing
        outcome = policy.decide(self._settings, record, answer, now=now, jitter=jitter)
        return Settled(record, outcome, policy.age(record, now), duration_ms)
