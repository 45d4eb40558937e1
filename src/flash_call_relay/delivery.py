"""Deliver records: a lane per uuid, oldest first, several lanes in parallel. Also ask for an operator (`probe`)."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from flash_call_relay import models, policy, telemetry
from flash_call_relay.budget import AWS_CALL, REPORT_S, SETTLE_S, Deadline
from flash_call_relay.connections import StaleConnectionError
from flash_call_relay.credentials import Credentials, CredentialsStore, CredentialsUnavailableError
from flash_call_relay.gate import OUT_OF_TIME, Gate
from flash_call_relay.models import Confirmed, Deferred, FlashCallResult, Judgement, Parked, Processed, Reason, Record
from flash_call_relay.settings import Settings
from flash_call_relay.text import printable
from flash_call_relay.webhook import Webhook

LookUp = Callable[[set[str]], Mapping[str, Confirmed]]  # uuids → the ledger's entries, by uuid
Lane = list[tuple[Record, FlashCallResult]]  # the records of one uuid, oldest first


class Delivery:
    """Asks the endpoint for each result of a batch. One instance serves a whole execution environment."""

    def __init__(self, settings: Settings, credentials: CredentialsStore, gate: Gate, webhook: Webhook) -> None:
        self._settings, self._credentials, self._gate, self._webhook = settings, credentials, gate, webhook
        self._threads = ThreadPoolExecutor(settings.connections_per_function, thread_name_prefix="lane")

    def deliver(self, records: Sequence[Record], look_up: LookUp, *, deadline: Deadline) -> Iterator[Processed]:
        """Yield every record once, with its outcome.

        `deadline` is the function's time-out.
        """
        confirmed = look_up({one.content.uuid for one in records if isinstance(one.content, FlashCallResult)})
        last_moment = deadline.earlier(SETTLE_S)
        lanes: dict[str, Lane] = {}
        for record in sorted(records, key=lambda record: (record.sent_at, record.message_id)):
            if isinstance(record.content, models.NoResult):
                yield self._processed(record, Parked(Reason.INVALID_EVENT, printable(record.content.fault)))
            else:
                lanes.setdefault(record.content.uuid, []).append((record, record.content))
        running = {
            self._threads.submit(self._run, lane, confirmed.get(uuid), last_moment): lane
            for uuid, lane in lanes.items()
        }
        try:
            # A second longer, because an attempt may begin a moment after the gate has admitted it.
            for ended in as_completed(list(running), timeout=last_moment.left_s + 1):
                del running[ended]
                yield from ended.result()
        except TimeoutError:  # normally every attempt ends before the last moment
            for future, lane in running.items():
                late = [self._decide(record, result, OUT_OF_TIME) for record, result in lane]
                yield from future.result() if future.done() else late

    def probe(self, call: str, *, deadline: Deadline) -> dict[str, object]:
        """Ask the endpoint about a call that it does not know, for an operator; return what it answered, or why not.

        It reads the secret again and opens a new connection, because those of the results hide a broken route. It does
        not ask the gate, and the gate does not learn from it.
        """
        if deadline.left_s < AWS_CALL.worst + self._settings.request_timeout_seconds + REPORT_S:
            return {"reason": OUT_OF_TIME.reason, "detail": OUT_OF_TIME.detail}
        try:
            fresh = self._credentials.fresh().current()
        except CredentialsUnavailableError as error:
            return {"reason": Reason.CREDENTIALS_UNAVAILABLE, "detail": printable(str(error))}
        attempt_ends = Deadline.after(self._settings.request_timeout_seconds)
        reply = Webhook(self._settings).post(FlashCallResult(call, "Failed"), fresh, attempt_ends, kept=False)
        if reply.failure and reply.http_status is None:
            return {"reason": reply.failure, "detail": reply.message}
        is_object = reply.json_object is not None
        return {"http_status": reply.http_status, "is_json_object": is_object, "message": reply.message}

    def _run(self, lane: Lane, confirmed: Confirmed | None, last_moment: Deadline) -> list[Processed]:
        """Process the records of one uuid. Copies share an answer.

        While a result is deferred, a result of the same call with the other status waits, too.
        """
        known: dict[str, models.Known] = dict.fromkeys(models.OTHER, confirmed) if confirmed else {}
        lane_processed: list[Processed] = []
        for record, result in lane:
            status = result.status
            try:
                duration_ms = None
                if (fact := known.get(status)) is None:
                    known[status] = fact = self._ask(result, last_moment)
                    duration_ms = fact.duration_ms
                processed = self._decide(record, result, fact, duration_ms)
                if isinstance(processed.outcome, models.Delivered):
                    known = dict.fromkeys(models.OTHER, Confirmed(status, at=time.time()))
                elif isinstance(processed.outcome, Deferred) and isinstance(fact, Judgement):
                    waits = f"an earlier result of this call, {status}, is deferred"
                    known.setdefault(models.OTHER[status], Judgement(fact.reason, waits, wait_s=fact.wait_s))
            except BaseException as error:  # noqa: BLE001 - a bug must cost a retry of this record, not of the batch
                bug = f"a bug in the relay: {type(error).__name__}"
                processed = self._processed(record, Deferred(Reason.RELAY_ERROR, bug, retry_in_s=None))
            lane_processed.append(processed)
        return lane_processed

    def _ask(self, result: FlashCallResult, last_moment: Deadline) -> Judgement:
        """Make an attempt. While the endpoint refuses its credentials, repeat it with those that replaced them.

        If the gate stops a repetition, the endpoint's last answer still decides.
        """
        try:
            credentials = self._credentials.current()
        except CredentialsUnavailableError as error:
            return Judgement(Reason.CREDENTIALS_UNAVAILABLE, printable(str(error)))
        judgement = latest = self._attempt(result, credentials, last_moment)
        while (latest.reason is Reason.CREDENTIALS_REJECTED or latest.http_status == 403) and (
            others := self._credentials.other_than(credentials)
        ):
            credentials = others
            latest = self._attempt(result, credentials, last_moment)
            if latest.duration_ms is not None:
                judgement = latest
        return judgement

    def _attempt(self, result: FlashCallResult, credentials: Credentials, last_moment: Deadline) -> Judgement:
        is_trial = self._gate.admit(credentials, last_moment)
        if isinstance(is_trial, Judgement):
            return is_trial
        deadline = Deadline.after(self._settings.request_timeout_seconds)
        try:
            reply = self._webhook.post(result, credentials, deadline, kept=not is_trial)
        except StaleConnectionError:
            if blocked := self._gate.blocked(credentials):
                return blocked
            reply = self._webhook.post(result, credentials, deadline, kept=False)
        judgement = policy.judge(self._settings, result, reply)
        self._gate.learn(judgement, credentials, is_trial=is_trial)
        # In one field, because queries count attempts by the fields of an outcome.
        attempt = {"reason": judgement.reason, "detail": judgement.detail, "duration_ms": judgement.duration_ms}
        telemetry.report("attempt.ended", uuid=result.uuid, status=result.status, attempt=attempt)
        return judgement

    def _decide(
        self, record: Record, result: FlashCallResult, known: models.Known, duration_ms: float | None = None
    ) -> Processed:
        jitter = random.uniform(*policy.JITTER)  # noqa: S311 - it spreads retries and guards nothing
        outcome = policy.decide(self._settings, record, result, known, now=time.time(), jitter=jitter)
        return self._processed(record, outcome, duration_ms)

    def _processed(self, record: Record, outcome: models.Outcome, duration_ms: float | None = None) -> Processed:
        return Processed(record, outcome, policy.age(record, time.time()), duration_ms)
