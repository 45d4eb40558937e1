"""`prove`: send made-up results through a deployed relay to a sandbox, and account for each."""

import importlib.util
import json
import secrets
import time
from pathlib import Path

import click

from flash_call_relay.models import FlashCallResult
from ops import logs
from ops.account import account_for
from ops.errors import CommandError, withhold
from ops.output import count, progress, table
from ops.queues import MAX_ENTRIES, RESULTS
from ops.stack import Stack
from sandbox import judge

PAGE = "docs/proving.md"
PATIENCE_S = 300  # until what a phase sent is accepted, after the outage or the rotation
SETTLE_S = 120  # until the ledger, the parked queue and the log have what is due
LAG_S = 30  # from the sandbox's new key to the secret's
PENDING_S = 600  # after which the sandbox takes the secret's key by itself
POLL_S = 2


class Proof:
    """One run of `prove`, and what it has seen so far. It controls the sandbox by its table and its secret."""

    def __init__(self, stack: Stack, sandbox: Stack, results: int, outage_s: int) -> None:
        """Refuse what does not fit, and do once what the proof will do: without a permission, nothing is sent."""
        if "RelayParameters" not in sandbox.outputs:
            raise CommandError(f"{sandbox.label} is no sandbox, or not complete: see {PAGE}.")
        for name, _, value in (word.partition("=") for word in sandbox.output("RelayParameters").split()):
            if stack.parameters.get(name) != value:
                raise CommandError(f"The {name} of {stack.label} is not that of {sandbox.label}: see {PAGE}.")
        mapping = stack.client("lambda").get_event_source_mapping(UUID=stack.output("EventSourceMappingId"))
        if mapping["State"] != "Enabled":
            raise CommandError(f"{stack.label} does not relay ({mapping['State']}): {stack.command('resume')}")
        self.stack, self.sandbox, self.outage_s = stack, sandbox, outage_s
        self.run, self.began, self.phase = f"proof-{secrets.token_hex(4)}", time.time(), ""
        self._planned, self.sent = judge.plan(self.run, results), list[judge.Sent]()
        self.spans = dict[str, tuple[float, float]]()  # what the sandbox did, from when to when
        self._secret = stack.parameters["CredentialsSecretArn"]
        old = json.loads(stack.client("secretsmanager").get_secret_value(SecretId=self._secret)["SecretString"])
        self._new = {**old, "api_key": secrets.token_urlsafe(30)}
        self._credentials = [*old.values(), self._new["api_key"]]
        withhold(self._credentials)
        self._put_key("AWSPENDING")  # nothing uses it yet
        self.drill()
        self.accepted = self._accepted()

    def drill(self, **spans_s: float) -> None:
        """Answer 500 to all for `outage` seconds, or accept the secret's version AWSPENDING for `pending`; or heal."""
        until = {f"{name}_until": {"N": f"{time.time() + span:.3f}"} for name, span in spans_s.items()}
        item = {"uuid": {"S": "drill"}, "id": {"S": "drill"}, **until}
        self.stack.client("dynamodb").put_item(TableName=self.sandbox.output("TableName"), Item=item)

    def _put_key(self, stage: str) -> None:
        """Make the new credentials the secret's version with this label."""
        what = {"SecretString": json.dumps(self._new), "VersionStages": [stage]}
        self.stack.client("secretsmanager").put_secret_value(SecretId=self._secret, **what)

    def _accepted(self) -> dict[FlashCallResult, list[float]]:
        """Return the results that the sandbox has accepted, each with the times."""
        pages = (
            self.stack.client("dynamodb")
            .get_paginator("scan")
            .paginate(
                TableName=self.sandbox.output("TableName"),
                ConsistentRead=True,
                FilterExpression="contains(#uuid, :run) AND accepted = :yes",
                ExpressionAttributeNames={"#uuid": "uuid"},
                ExpressionAttributeValues={":run": {"S": self.run}, ":yes": {"BOOL": True}},
            )
        )
        times = dict[FlashCallResult, list[float]]()
        for item in (item for page in pages for item in page["Items"]):
            result = FlashCallResult(item["uuid"]["S"], item["status"]["S"])
            times.setdefault(result, []).append(int(item["at_ms"]["N"]) / 1000)
        return times

    def play(self) -> judge.Verdict:
        """Send everything, with the outage and the rotation, and return the verdict."""
        self._send(judge.HEALTH)
        self._watch(PATIENCE_S)
        began = self._send(judge.OUTAGE, outage=self.outage_s)
        self.spans["500 to everything"] = (began, began + self.outage_s)
        self._watch(PATIENCE_S + self.outage_s)
        began = self._send(judge.ROTATION, pending=PENDING_S)
        self._watch(LAG_S)
        self.spans["the secret has the old key"] = (began, time.time())
        self._put_key("AWSCURRENT")
        self._watch(PATIENCE_S)
        self.phase = "the judgement"
        self.drill()
        until = time.monotonic() + SETTLE_S
        while (verdict := self._judge()).deviations and time.monotonic() < until:
            time.sleep(POLL_S)
        return verdict

    def _send(self, phase: str, **drill: float) -> float:
        """Begin a drill, and send what is planned for the phase; return when it began."""
        self.phase, began = phase, time.time()
        self.drill(**drill)
        what = [one for one in self._planned if one.phase == phase]
        click.echo(f"{began - self.began:4.0f} s  {phase}: sending {count(len(what), 'result')}")
        common = {"Source": self.stack.parameters.get("EventSource"), "DetailType": "Flash Call Result"}
        bus, takes_events = self.stack.output("EventBusName"), self.stack.parameters.get("EventRoute") != "none"
        for start in range(0, len(what), MAX_ENTRIES):
            ten, at, refused = what[start : start + MAX_ENTRIES], time.time(), 0
            events, messages = (ten[::2], ten[1::2]) if takes_events else ([], ten)
            if events:  # first, since an operator may lack the permission
                entries = [{**common, "EventBusName": bus, "Detail": one.body} for one in events]
                refused = self.stack.client("events").put_events(Entries=entries)["FailedEntryCount"]
            if refused or RESULTS.of(self.stack).send({one.result.uuid: one.body for one in messages}):
                raise CommandError("The queue or the bus refused a result: run `doctor`.")
            self.sent += [one._replace(at=at) for one in ten]
        return began

    def _watch(self, limit_s: float) -> None:
        """Wait until the sandbox has accepted what the phase sent, or until the limit."""
        due = {one.result for one in self.sent if (one.phase, one.end) == (self.phase, judge.ACCEPTED)}
        until = time.monotonic() + limit_s
        with progress(f"accepted ({self.phase})", len(due)) as tell:
            while (left := due - self._accepted().keys()) and time.monotonic() < until:
                tell(len(due) - len(left))
                time.sleep(POLL_S)

    def _judge(self) -> judge.Verdict:
        """Read all sources. The log is the last to have what is due, since CloudWatch shows lines late."""
        self.accepted = self._accepted()
        fates, _ = account_for(self.stack, list({one.result for one in self.sent}))
        self.log = logs.run_query(self.stack, "fields @message | sort @timestamp asc", self.began)
        return judge.judge(self.sent, self.accepted, fates, self.log, self._credentials)


@click.command()
@click.option("--sandbox", "name", required=True, help="The sandbox's CloudFormation stack.")
@click.option("--results", type=click.IntRange(24, 1000), default=300, show_default=True, help="How many to send.")
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
    proof = Proof(stack, stack.beside(name), results, outage)
    try:
        verdict = proof.play()
    except BaseException:
        click.echo(f"Stopped in {proof.phase}, after {count(len(proof.sent), 'result')} of {results}.", err=True)
        proof.drill()
        click.echo(f"{proof.sandbox.label} keeps its contract again; what was sent goes its way.", err=True)
        raise
    table(("expected", "sent", "as expected"), verdict.ends, right=("sent", "as expected"))
    click.echo()
    table(("phase", "p50", "p95 from sending to acceptance"), verdict.latencies)
    click.echo()
    for uuid, fault in verdict.deviations:
        click.echo(f"deviates: {uuid}: {fault}")
    click.secho(verdict.sentence, bold=True, fg="red" if verdict.deviations else "green")
    if report:
        from sandbox.report import page  # noqa: PLC0415 - plotly is optional

        report.write_text(page(proof, verdict), encoding="utf-8")
    return 1 if verdict.deviations else 0
