"""`prove`: send made-up results through a deployed relay to a sandbox, and account for each."""

import importlib.util
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from flash_call_relay.models import FlashCallResult
from ops import account, logs
from ops.errors import EXPLAINED, CommandError, explain, withhold
from ops.ledger import Ledger
from ops.output import count, progress, table, timestamp
from ops.queues import DEAD, MAX_ENTRIES, PARKED, RESULTS
from ops.stack import Stack
from sandbox import judge
from sandbox.judge import PHASES

PAGE = "docs/proving.md"
PATIENCE_S = 300  # until what a phase sent is accepted, after the outage or the rotation
SETTLE_S = 120  # until the ledger, the parked queue or the log has what is due
LAG_S = 30  # from the sandbox's new key to the secret's
PENDING_S = 600  # after which the sandbox takes the secret's key by itself
POLL_S = 2
DRILL = {"uuid": {"S": "drill"}, "id": {"S": "drill"}}


class Sandbox:
    """A deployed sandbox. A drill is written into its table, so it needs the operator's AWS credentials."""

    def __init__(self, stack: Stack, name: str) -> None:
        beside = stack.beside(name)
        try:
            outputs, self.label = beside.outputs, beside.label
        except CommandError:
            place = f"{stack.region}: it has to be in the relay's account and region"
            raise CommandError(f"There is no sandbox {name!r} in {place}; {PAGE} tells how to deploy it.") from None
        names = ("WebhookUrl", "CredentialsSecretArn", "TableName")
        if missing := [one for one in names if one not in outputs]:
            raise CommandError(f"{self.label} is no sandbox: it has no output {missing[0]}; see {PAGE}.")
        self.url, self.secret, self._table = (outputs[one] for one in names)
        self._dynamodb, self._secrets = stack.client("dynamodb"), stack.client("secretsmanager")

    def drill(self, *, outage_s: float = 0, pending_s: float = 0) -> None:
        """Answer 500 to all for so long, or accept the secret's version AWSPENDING for so long; 0 heals."""
        spans = {"outage_until": outage_s, "pending_until": pending_s}
        until = {name: {"N": f"{time.time() + span:.3f}" if span else "0"} for name, span in spans.items()}
        self._dynamodb.put_item(TableName=self._table, Item={**DRILL, **until})

    def busy_until(self) -> float:
        """Return when the present drill ends, in seconds since the epoch."""
        found = self._dynamodb.get_item(TableName=self._table, Key=DRILL, ConsistentRead=True).get("Item", {})
        return max([float(one["N"]) for one in found.values() if "N" in one], default=0.0)

    def credentials(self) -> dict[str, str]:
        """Return what the secret holds."""
        secret = self._secrets.get_secret_value(SecretId=self.secret)
        return dict(json.loads(secret["SecretString"]))

    def put(self, credentials: dict[str, str], stage: str) -> None:
        """Make credentials the secret's version with this label."""
        value = json.dumps(credentials)
        self._secrets.put_secret_value(SecretId=self.secret, SecretString=value, VersionStages=[stage])

    def accepted(self, run: str) -> list[judge.Acceptance]:
        """Return what the sandbox has accepted of a proof."""
        pages = self._dynamodb.get_paginator("scan").paginate(
            TableName=self._table,
            ConsistentRead=True,
            FilterExpression="contains(#uuid, :run) AND accepted = :yes",
            ExpressionAttributeNames={"#uuid": "uuid"},
            ExpressionAttributeValues={":run": {"S": run}, ":yes": {"BOOL": True}},
        )
        items = [item for page in pages for item in page["Items"]]
        return [judge.Acceptance(one["uuid"]["S"], one["status"]["S"], float(one["at"]["N"])) for one in items]


@dataclass
class Proof:
    """One run of `prove`, and what it has seen so far."""

    stack: Stack
    sandbox: Sandbox
    results: int
    outage_s: int
    run: str = field(default_factory=lambda: f"proof-{secrets.token_hex(4)}")
    began: float = field(default_factory=time.time)
    phase: str = ""
    sent: list[judge.Sent] = field(default_factory=list)
    accepted: list[judge.Acceptance] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    spans: list[tuple[str, float, float]] = field(default_factory=list)  # what the sandbox did, from when to when

    def __post_init__(self) -> None:
        """Make the new key, and write what the drill will write: without a permission, nothing is sent."""
        self._old = self.sandbox.credentials()
        self._new = {**self._old, "api_key": secrets.token_urlsafe(30)}
        self._credentials = [*self._old.values(), *self._new.values()]
        withhold(self._credentials)
        self.sandbox.put(self._new, "AWSPENDING")  # nothing uses it yet
        self.sandbox.drill()

    def play(self) -> judge.Verdict:
        """Send everything, with the outage and the rotation, and return the verdict."""
        planned = judge.plan(self.run, self.results, bus=self.stack.parameters.get("EventRoute") != "none")
        for self.phase in PHASES:
            of_phase, began = [one for one in planned if one.phase == self.phase], time.time()
            if self.phase == judge.OUTAGE:
                self.sandbox.drill(outage_s=self.outage_s)
                self.spans.append(("500 to everything", began, began + self.outage_s))
            if self.phase == judge.ROTATION:
                self.sandbox.drill(pending_s=PENDING_S)
            self._send(of_phase)
            if self.phase == judge.ROTATION:
                self._watch(of_phase, LAG_S)
                self.spans.append(("the secret has the old key", began, time.time()))
                self.sandbox.put(self._new, "AWSCURRENT")
            self._watch(of_phase, PATIENCE_S + (self.outage_s if self.phase == judge.OUTAGE else 0))
            if self.phase == PHASES[0]:
                self._send_again(of_phase)
        self.phase = "the judgement"
        self.sandbox.drill()
        fates = self._fates()
        _wait(self._log_is_whole, SETTLE_S)
        return judge.judge(self.sent, judge.Seen(self.accepted, fates, self.log, self.spans), self._credentials)

    def _send(self, what: Sequence[judge.Sent]) -> None:
        """Send events first, since an operator may lack the permission to."""
        click.echo(f"{time.time() - self.began:4.0f} s  {self.phase}: sending {count(len(what), 'result')}")
        bus, queue = self.stack.output("EventBusName"), RESULTS.of(self.stack)
        common = {"Source": self.stack.parameters.get("EventSource"), "DetailType": "Flash Call Result"}
        for by_bus in (True, False):
            for ten in _tens([one for one in what if one.by_bus == by_bus]):
                at, refused = time.time(), 0
                if by_bus:
                    entries = [{**common, "EventBusName": bus, "Detail": one.body} for one in ten]
                    refused = self.stack.client("events").put_events(Entries=entries)["FailedEntryCount"]
                elif queue.send({str(number): one.body for number, one in enumerate(ten)}):
                    refused = 1
                if refused:
                    raise CommandError("The queue or the bus refused a result: run `doctor`.")
                self.sent += [one._replace(at=at) for one in ten]

    def _send_again(self, firsts: Sequence[judge.Sent]) -> None:
        """Send copies and contradictions, once the ledger has the first ones."""
        more, ledger = judge.again(firsts, self.results), Ledger(self.stack)
        uuids = list({one.uuid for one in more})
        _wait(lambda: len(ledger.entries(uuids, lambda _: None)) == len(uuids), SETTLE_S)
        self._send(more)

    def _watch(self, what: Sequence[judge.Sent], limit_s: float) -> None:
        """Wait until the sandbox has accepted these results, or until the limit."""
        due = {one.uuid for one in what if one.end == judge.ACCEPTED}
        with progress(f"accepted ({self.phase})", len(due)) as tell:

            def all_accepted() -> bool:
                self.accepted = self.sandbox.accepted(self.run)
                left = due - {one.uuid for one in self.accepted}
                tell(len(due) - len(left))
                return not left

            _wait(all_accepted, limit_s)

    def _fates(self) -> dict[FlashCallResult, account.Fate]:
        """Return what `account` says of each result, once all that the relay has to park is parked."""
        to_park = {one.uuid for one in self.sent if one.end not in {judge.ACCEPTED, judge.COPY}}
        held = dict[str, tuple[str, str]]()

        def all_parked() -> bool:
            for kind, state in ((PARKED, "parked"), (DEAD, "dead-lettered")):
                for message in kind.of(self.stack).look(lambda _: None):
                    held.update(dict.fromkeys(message.calls, (state, message.reason)))
            return to_park <= held.keys()

        depth = RESULTS.of(self.stack).depth().total
        _wait(all_parked, SETTLE_S)
        entries = Ledger(self.stack).entries(list({one.uuid for one in self.sent}), lambda _: None)
        waits = sum(one.uuid not in held and one.uuid not in entries for one in self.sent) <= depth
        results = {one.result for one in self.sent}
        return {one: account.judge(one, entries.get(one.uuid), held.get(one.uuid), waits=waits) for one in results}

    def _log_is_whole(self) -> bool:
        """Read the relay's log; return whether it has all deliveries. CloudWatch takes a while to show lines."""
        self.accepted = self.sandbox.accepted(self.run)
        self.log = logs.run_query(self.stack, "fields @message | sort @timestamp asc", self.began)
        delivered = {line.get("uuid") for line in logs.parsed(self.log) if line["message"] == logs.DELIVERED}
        return delivered >= {one.uuid for one in self.accepted}

    def clear(self) -> None:
        """Discard the parked messages of this proof."""
        queue = PARKED.of(self.stack)
        with queue.hidden(lambda _: None) as found:
            queue.delete([one for one in found if any(self.run in call for call in one.calls)])


def _tens(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + MAX_ENTRIES] for start in range(0, len(items), MAX_ENTRIES))


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while not condition() and time.monotonic() < until:
        time.sleep(POLL_S)


def _require_fit(stack: Stack, sandbox: Sandbox) -> None:
    """End the command unless the relay reports to the sandbox, with the sandbox's secret, and can do so now."""
    if stack.parameters.get("WebhookUrl") != sandbox.url:
        raise CommandError(f"The WebhookUrl of {stack.label} is not that of {sandbox.label}: see {PAGE}.")
    if stack.output("CredentialsSecretArn") != sandbox.secret:
        raise CommandError(f"The secret of {stack.label} is not that of {sandbox.label}: see {PAGE}.")
    if not Ledger(stack).table:
        raise CommandError(f"{stack.label} has no ledger, so it sends copies again: deploy it with Deduplication=true.")
    mapping = stack.client("lambda").get_event_source_mapping(UUID=stack.output("EventSourceMappingId"))
    if mapping["State"] != "Enabled":
        raise CommandError(f"{stack.label} does not relay ({mapping['State']}): {stack.command('resume')}")
    if (until := sandbox.busy_until()) > time.time():
        raise CommandError(f"Another proof uses {sandbox.label}: wait until {timestamp(until)}.")


@click.command()
@click.option("--sandbox", "name", required=True, help="The sandbox's CloudFormation stack.")
@click.option("--results", type=click.IntRange(40, 1000), default=300, show_default=True, help="How many to send.")
@click.option("--outage", type=click.IntRange(1, 600), default=90, show_default=True, help="Of the sandbox, in s.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write a page for a browser.")
@click.pass_obj
def prove(stack: Stack, *, name: str, results: int, outage: int, report: Path | None) -> int:
    """Prove the relay against a sandbox in your account.

    The command sends made-up results, makes the sandbox fail for a while, rotates its key, and accounts for each
    result. It refuses a relay that reports to anything else. Exit status 1 if anything deviates.
    """
    if report and not importlib.util.find_spec("plotly"):
        raise CommandError("--report needs plotly: install the command with pipx install '.[proof]'.")
    if report and not report.parent.is_dir():
        raise CommandError(f"There is no directory {report.parent} for the report.")
    sandbox = Sandbox(stack, name)
    _require_fit(stack, sandbox)
    proof = Proof(stack, sandbox, results, outage)
    try:
        verdict = proof.play()
    except BaseException:
        click.echo(f"Stopped in {proof.phase}, after {count(len(proof.sent), 'result')} of {results}.", err=True)
        sandbox.drill()
        click.echo(f"{sandbox.label} keeps its contract again; what was sent goes its way.", err=True)
        raise
    _show(verdict)
    if report:
        from sandbox.report import page  # noqa: PLC0415 - plotly is optional

        report.write_text(page(proof, verdict), encoding="utf-8")
    try:
        if not verdict.deviations:
            proof.clear()
    except EXPLAINED as error:
        click.echo(f"The parked messages of the proof are left: {explain(error)}", err=True)
    return 1 if verdict.deviations else 0


def _show(verdict: judge.Verdict) -> None:
    click.echo()
    table(("expected", "sent", "as expected"), verdict.ends, right=("sent", "as expected"))
    click.echo()
    table(("phase", "p50", "p95 from sending to acceptance"), verdict.latencies)
    click.echo()
    for title, lines in (("as documented", verdict.notes), ("deviates", map(": ".join, verdict.deviations))):
        for line in lines:
            click.echo(f"{title}: {line}")
    click.secho(verdict.sentence, bold=True, fg="red" if verdict.deviations else "green")
