"""`prove`: send made-up results through a deployed relay to a sandbox, and account for each."""

import importlib.util
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from ops import logs
from ops.account import Fate
from ops.account import judge as fate_of
from ops.errors import EXPLAINED, CommandError, explain, withhold
from ops.ledger import Ledger
from ops.output import count, progress, table, timestamp
from ops.queues import DEAD, MAX_ENTRIES, PARKED, RESULTS
from ops.stack import Stack
from sandbox.judge import (
    ACCEPTED,
    COPY,
    LEAST,
    OUTAGE,
    PHASES,
    ROTATION,
    Acceptance,
    Sent,
    Verdict,
    again,
    judge,
    plan,
)

PAGE = "docs/proving.md"
PATIENCE_S = 300  # for the results of a phase, after the outage or the rotation
LAG_S = 30  # from the sandbox's new key to the secret's
PENDING_S = 600  # after which the sandbox would heal by itself
POLL_S = 2
CLOCK_S = 2
DRILL = {"uuid": {"S": "drill"}, "id": {"S": "drill"}}
TAGS = {"timestamp", "message"}


class Sandbox:
    """A deployed sandbox."""

    def __init__(self, stack: Stack, name: str) -> None:
        beside = stack.beside(name)
        try:
            _ = beside.description
        except CommandError:
            raise CommandError(
                f"There is no sandbox {name!r} in {stack.region}: it has to be in the relay's account and region; "
                f"{PAGE} tells how to deploy one."
            ) from None
        names = ("WebhookUrl", "CredentialsSecretArn", "TableName")
        if missing := [one for one in names if one not in beside.outputs]:
            raise CommandError(f"{beside.label} is no sandbox: it has no output {missing[0]}; see {PAGE}.")
        self.label = beside.label
        self.url, self.secret, self._table = (beside.outputs[one] for one in names)
        self._dynamodb, self._secrets = stack.client("dynamodb"), stack.client("secretsmanager")

    def require_idle(self) -> None:
        """End the command if another proof uses the sandbox."""
        found = self._dynamodb.get_item(TableName=self._table, Key=DRILL, ConsistentRead=True).get("Item", {})
        until = max([float(one["N"]) for one in found.values() if "N" in one], default=0.0)
        if until > time.time():
            raise CommandError(f"Another proof uses {self.label}: wait until {timestamp(until)}.")

    def drill(self, *, outage_s: float = 0, pending_s: float = 0) -> None:
        """Answer 500 to all for so long, or take the secret's version AWSPENDING for the good one; else, heal."""
        spans = {"outage_until": outage_s, "pending_until": pending_s}
        until = {name: {"N": f"{time.time() + span:.3f}" if span else "0"} for name, span in spans.items()}
        self._dynamodb.put_item(TableName=self._table, Item={**DRILL, **until})

    def credentials(self) -> dict[str, str]:
        """Return the credentials in the secret."""
        value: dict[str, str] = json.loads(self._secrets.get_secret_value(SecretId=self.secret)["SecretString"])
        withhold(value.values())
        return value

    def put(self, credentials: dict[str, str], stage: str) -> None:
        """Put credentials into the secret, as the version with this label."""
        self._secrets.put_secret_value(
            SecretId=self.secret, SecretString=json.dumps(credentials), VersionStages=[stage]
        )

    def accepted(self, run: str) -> list[Acceptance]:
        """Return what the sandbox has accepted of a proof."""
        items = self._dynamodb.get_paginator("scan").paginate(
            TableName=self._table,
            ConsistentRead=True,
            FilterExpression="contains(#uuid, :run) AND accepted = :yes",
            ExpressionAttributeNames={"#uuid": "uuid"},
            ExpressionAttributeValues={":run": {"S": run}, ":yes": {"BOOL": True}},
        )
        return [
            Acceptance(one["uuid"]["S"], one["status"]["S"], float(one["at"]["N"]))
            for page in items
            for one in page["Items"]
        ]


@dataclass
class Proof:
    """One run of `prove`.

    Attributes:
        sent: what was sent.
        marks: what happened at the sandbox: a name, and when it began and ended, in seconds since the epoch.
        deferred: when the relay deferred a result, and why, by its log.
        phase: what the proof does now.
    """

    stack: Stack
    sandbox: Sandbox
    results: int
    outage_s: int
    run: str = field(default_factory=lambda: f"proof-{secrets.token_hex(4)}")
    began: float = field(default_factory=time.time)
    sent: list[Sent] = field(default_factory=list)
    marks: list[tuple[str, float, float]] = field(default_factory=list)
    accepted: list[Acceptance] = field(default_factory=list)
    deferred: list[tuple[float, str]] = field(default_factory=list)
    phase: str = "beginning"

    def __post_init__(self) -> None:
        """Make the new key, and write what the drill will write: without the permissions, nothing is sent."""
        self._old = self.sandbox.credentials()
        self._new = {**self._old, "api_key": secrets.token_urlsafe(30)}
        withhold(self._new.values())
        self.sandbox.put(self._new, "AWSPENDING")  # nothing uses it yet
        self.sandbox.drill()

    def play(self) -> Verdict:
        """Send everything, with the outage and the rotation, and return the verdict."""
        planned = plan(self.run, self.results, bus=self.stack.parameters.get("EventRoute", "queue") != "none")
        for phase in PHASES:
            self.phase = phase
            of_phase = [one for one in planned if one.phase == phase]
            if phase == OUTAGE:
                self.sandbox.drill(outage_s=self.outage_s)
                self.marks.append(("500 to all", time.time(), time.time() + self.outage_s))
            elif phase == ROTATION:
                self.sandbox.drill(pending_s=PENDING_S)
                rotated_at = time.time()
            self._send(of_phase)
            if phase == OUTAGE:
                self._watch(of_phase, self.marks[-1][2] + PATIENCE_S)
            elif phase == ROTATION:
                self._watch(of_phase, rotated_at + LAG_S)
                self.sandbox.put(self._new, "AWSCURRENT")
                self.marks.append(("the secret has the old key", rotated_at, time.time()))
                self._watch(of_phase, time.time() + PATIENCE_S)
            else:
                self._watch(of_phase, time.time() + PATIENCE_S)
                self._send_again(of_phase)
        self.phase = "judgement"
        self.sandbox.drill()
        fates, log = self._fates(), self._log()
        self.accepted = self.sandbox.accepted(self.run)
        return judge(self.sent, self.accepted, fates, log, [*self._old.values(), *self._new.values()])

    def _send(self, what: Sequence[Sent]) -> None:
        """Send events first, then messages: a missing permission to send events leaves nothing sent."""
        tell_s = f"{time.time() - self.began:4.0f} s"
        click.echo(f"{tell_s}  {self.phase}: sending {count(len(what), 'result')}")
        bus, source = self.stack.output("EventBusName"), self.stack.parameters.get("EventSource")
        common = {"Source": source, "DetailType": "Flash Call Result", "EventBusName": bus}
        for ten in _tens([one for one in what if one.by_bus]):
            entries = [{**common, "Detail": one.body} for one in ten]
            at, reply = time.time(), self.stack.client("events").put_events(Entries=entries)
            if reply["FailedEntryCount"]:
                raise CommandError(f"EventBridge refused events of the bus {bus}: run `doctor`.")
            self.sent += [replace(one, at=at) for one in ten]
        queue = RESULTS.of(self.stack)
        for ten in _tens([one for one in what if not one.by_bus]):
            at = time.time()
            if refused := queue.send({str(number): one.body for number, one in enumerate(ten)}):
                raise CommandError(f"SQS refused a message: {next(iter(refused.values()))}")
            self.sent += [replace(one, at=at) for one in ten]

    def _send_again(self, firsts: Sequence[Sent]) -> None:
        """Send copies and contradictions, once the ledger has the first ones."""
        more, ledger = again(firsts, self.results), Ledger(self.stack)
        uuids = {one.uuid for one in more}
        _wait(lambda: len(ledger.entries(sorted(uuids), lambda _: None)) == len(uuids), time.time() + PATIENCE_S)
        self._send(more)

    def _watch(self, what: Sequence[Sent], until: float) -> None:
        """Wait until the sandbox has accepted these results, or until a time."""
        due = {one.uuid for one in what if one.end == ACCEPTED}
        with progress(f"accepted ({self.phase})", len(due)) as tell:

            def all_accepted() -> bool:
                done = due & {one.uuid for one in self.sandbox.accepted(self.run)}
                tell(len(done))
                return done == due

            _wait(all_accepted, until)

    def _fates(self) -> dict[Any, Fate]:
        """Return what `account` says of each result, once all that the relay has to park is parked."""
        to_park = {one.uuid for one in self.sent if one.end not in {ACCEPTED, COPY}}
        held = dict[str, tuple[str, str]]()

        def all_parked() -> bool:
            for kind, state in ((PARKED, "parked"), (DEAD, "dead-lettered")):
                for message in kind.of(self.stack).look(lambda _: None):
                    held.update(dict.fromkeys(message.calls, (state, message.reason)))
            return to_park <= held.keys()

        depth = RESULTS.of(self.stack).depth().total
        _wait(all_parked, time.time() + PATIENCE_S)
        entries = Ledger(self.stack).entries(sorted({one.uuid for one in self.sent}), lambda _: None)
        waits = sum(one.uuid not in held and one.uuid not in entries for one in self.sent) <= depth
        results = {one.result for one in self.sent}
        return {one: fate_of(one, entries.get(one.uuid), held.get(one.uuid), waits=waits) for one in results}

    def _log(self) -> list[str]:
        """Return the relay's log of the run, once it has the deliveries. CloudWatch takes a while to show lines."""
        accepted, found = {one.uuid for one in self.sandbox.accepted(self.run)}, list[str]()

        def has_all() -> bool:
            found[:] = _lines(self.stack, self.began)
            parsed = [_json(line) for line in found]
            self.deferred = [
                (logs.at_of(line), str(line["reason"]))
                for line in parsed
                if line.get("message") == logs.DEFERRED and self.run in str(line.get("uuid"))
            ]
            return accepted <= {line.get("uuid") for line in parsed if line.get("message") == logs.DELIVERED}

        _wait(has_all, time.time() + PATIENCE_S / 2)
        return found

    def clear(self) -> None:
        """Discard the parked messages of this proof."""
        queue = PARKED.of(self.stack)
        mine = [one for one in queue.hide(lambda _: None) if any(self.run in call for call in one.calls)]
        for ten in _tens(mine):
            queue.delete(ten)
        queue.release()


def _tens(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + MAX_ENTRIES] for start in range(0, len(items), MAX_ENTRIES))


def _wait(condition: Callable[[], bool], until: float) -> None:
    while not condition() and time.time() < until:
        time.sleep(POLL_S)


def _json(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) and value.keys() >= TAGS else {}


def _lines(stack: Stack, since: float) -> list[str]:
    lines = list[str]()
    while True:  # Logs Insights gives a limited number of lines at a time
        rows = logs.run_query(stack, "fields @message | sort @timestamp asc", since)
        lines += [row["@message"] for row in rows]
        newest = [logs.at_of(line) for row in rows if (line := _json(row["@message"]))]
        if len(rows) < logs.MAX_LINES or not newest:
            return lines
        since = max(newest[-1], since + 1)


def _require_fit(stack: Stack, sandbox: Sandbox) -> None:
    """End the command unless the relay reports to the sandbox only, and can do so now."""
    if stack.parameters.get("WebhookUrl") != sandbox.url:
        raise CommandError(f"The WebhookUrl of {stack.label} is not that of {sandbox.label}: see {PAGE}.")
    if stack.output("CredentialsSecretArn") != sandbox.secret:
        raise CommandError(f"The secret of {stack.label} is not that of {sandbox.label}: see {PAGE}.")
    if not Ledger(stack).table:
        raise CommandError(f"{stack.label} has no ledger: deploy it with Deduplication=true.")
    mapping = stack.client("lambda").get_event_source_mapping(UUID=stack.output("EventSourceMappingId"))
    if mapping["State"] != "Enabled":
        raise CommandError(f"{stack.label} is paused ({mapping['State']}): {stack.command('resume')}")
    sandbox.require_idle()


def _require_plotly(report: Path) -> None:
    if importlib.util.find_spec("plotly") is None:
        raise CommandError("--report needs plotly: install the command with `pipx install '.[proof]'`.")
    if not os.access(report if report.exists() else report.parent, os.W_OK):
        raise CommandError(f"{report} can't be written: name another file.")


@click.command()
@click.option("--sandbox", "name", required=True, help="The sandbox's CloudFormation stack.")
@click.option("--results", type=click.IntRange(LEAST, 10_000), default=300, show_default=True, help="How many to send.")
@click.option("--outage", type=click.IntRange(1, 600), default=90, show_default=True, help="Of the sandbox, in s.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write a page for a browser.")
@click.pass_obj
def prove(stack: Stack, *, name: str, results: int, outage: int, report: Path | None) -> int:
    """Prove the relay against a sandbox in your account.

    The command sends made-up results, makes the sandbox fail for a while, rotates its key, and accounts for each
    result. It refuses a relay that reports to anything else. Exit status 1 if anything deviates. docs/proving.md
    tells what it shows.
    """
    if report:
        _require_plotly(report)
    sandbox = Sandbox(stack, name)
    _require_fit(stack, sandbox)
    proof = Proof(stack, sandbox, results, outage)
    try:
        verdict = proof.play()
    except BaseException:
        sandbox.drill()
        where = f"Stopped in {proof.phase}, after {count(len(proof.sent), 'result')} of about {results:,}."
        click.echo(f"{where} {sandbox.label} keeps its contract again; what was sent goes its way.", err=True)
        raise
    _show(verdict)
    if report:
        from sandbox.report import page  # noqa: PLC0415 - plotly is optional

        report.write_text(page(proof, verdict))
        click.echo(f"The report: {report}")
    if not verdict.deviations:
        try:
            proof.clear()
        except EXPLAINED as error:
            click.echo(f"The parked messages of the proof are left: {explain(error)}", err=True)
    return 1 if verdict.deviations else 0


def _show(verdict: Verdict) -> None:
    click.echo()
    rows = [(end, number, good) for end, (number, good) in verdict.ends.items()]
    table(("expected end", "sent", "as expected"), rows, right=("sent", "as expected"))
    for phase, (p50, p95) in verdict.latency_s.items():
        click.echo(f"{phase}: from sending to acceptance {p50:.1f} s (p50), {p95:.1f} s (p95)")
    for note in verdict.notes:
        click.echo(f"documented: {note}")
    for uuid, fault in verdict.deviations:
        click.echo(f"deviates: {uuid}: {fault}")
    click.secho(verdict.sentence, bold=True, fg="red" if verdict.deviations else "green")
