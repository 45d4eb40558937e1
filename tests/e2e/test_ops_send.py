"""`send` and `story`: results sent one by one or in a file, and the events of one result."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from local.endpoint.behaviour import answer, error
from ops import ledger, logs
from ops.stack import Stack
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.operator import Operator, ended
from tests.support.payloads import pairs, result


def issued(relay: DeployedRelay, count: int) -> list[dict[str, str]]:
    """Return results of calls that exist."""
    results = [result(status="Success" if number % 2 else "Failed") for number in range(count)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    return results


def csv(results: list[dict[str, str]]) -> str:
    """Return results as CSV."""
    return "".join(f"{line}\r\n" for line in ("uuid,status", *(f"{one['uuid']},{one['status']}" for one in results)))


def test_a_thousand_results_of_a_spreadsheet_arrive_once_each(
    relay: DeployedRelay, operator: Operator, tmp_path: Path
) -> None:
    """An operator could not report a day's results later, or some would be lost or doubled."""
    results = issued(relay, 1000)
    file = tmp_path / "results.csv"
    file.write_bytes(b"\xef\xbb\xbf" + csv([*results, results[0]]).encode())
    sent = operator("--stack", "relay", "send", "--file", str(file))
    assert (sent.status, sent.err) == (0, "1 repeated line left out.\n")
    assert sent.out.startswith("1,000 results sent")
    assert relay.accepted(*results) == pairs(*results)


def test_results_are_sent_from_a_pipe(relay: DeployedRelay, operator: Operator) -> None:
    """An operator would have to save the output of another program to a file."""
    results = issued(relay, 12)
    with operator.start("--stack", "relay", "send", "--file", "-", stdin=subprocess.PIPE) as process:
        sent = ended(process, "".join(f"{json.dumps(one)}\n" for one in results))
    assert (sent.status, sent.err) == (0, "")
    assert relay.accepted(*results) == pairs(*results)


def test_a_story_shows_each_event_of_a_result(relay: DeployedRelay, operator: Operator) -> None:
    """An operator would have to search the logs, the queues and the ledger for one call."""
    delivered, deferred, parked = issued(relay, 3)
    for tries in (1, 2):  # a delivery and a duplicate
        relay.send(delivered)
        relay.story(delivered["uuid"], tries)
    relay.endpoint.misbehave(parked["uuid"], answer(422, {"message": "not like this"}))
    relay.send(parked)
    relay.story(parked["uuid"], 1)
    relay.endpoint.always(deferred["uuid"], error(503))
    relay.send(deferred)
    relay.story(deferred["uuid"], 1)

    def told(one: dict[str, str]) -> list[str]:
        story = operator("--stack", "relay", "story", one["uuid"])
        assert (story.status, story.err) == (0, "")
        return story.out.splitlines()

    # The emulator ignores filters of fields, and returns all lines.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in relay.deployment.emulator.environment.items():
            patch.setenv(name, value)
        rows = list(logs.parsed(logs.run_query(Stack("relay"), "fields @message | sort @timestamp asc", since=0)))
    outcomes = [row["outcome"] for row in rows if row.get("uuid") == delivered["uuid"]]
    assert outcomes == ["delivered", "duplicate"]

    lines = told(delivered)
    assert [line.split(maxsplit=3)[1:3] for line in lines[1:4]] in (
        [["log", "delivered"], ["ledger", "confirmed"], ["log", "duplicate"]],
        [["log", "delivered"], ["log", "duplicate"], ["ledger", "confirmed"]],  # in the same second
    )
    assert f"confirmed with status {delivered['status']}" in "\n".join(lines)
    assert re.fullmatch(rf"It is confirmed: BetaTel got {delivered['status']} at 20\S+Z\.", lines[-1])

    lines = told(deferred)
    assert f"deferred {deferred['status']}: endpoint_error, HTTP 503" in lines[1]
    waits = rf"Not yet: {deferred['status']} waits on the result queue; its next attempt is due at 20\S+Z\."
    assert re.fullmatch(waits, lines[-1])

    lines = told(parked)
    assert f"parked {parked['status']}: rejected, HTTP 422 not like this, receive 1" in lines[1]
    assert f"holds {parked['status']}: rejected HTTP 422 not like this" in lines[2]
    assert lines[-2].startswith(f"It needs a person: the parked queue holds {parked['status']} (rejected). ")
    assert lines[-1] == f"-> flash-call-relay --stack relay parked list --uuid {parked['uuid']}"

    relay.endpoint.heal()
    relay.accepted(deferred)
    relay.settled()
    assert told(deferred)[-1].startswith(f"It is confirmed: BetaTel got {deferred['status']} at ")
    relay.deployment.purge_queues()


def test_a_forgotten_confirmation_is_sent_again(
    relay: DeployedRelay, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that BetaTel does not have could not be sent again, or the wrong entry would be removed."""
    (one,) = issued(relay, 1)
    uuid, client = one["uuid"], relay.deployment.emulator.client("dynamodb")
    forget = ("--stack", "relay", "forget", "--uuid", uuid)
    relay.send(one)
    relay.accepted(one)
    relay.settled()
    entry = relay.ledger_entry(uuid)
    assert entry
    unasked, tried = operator(*forget), operator(*forget, "--dry-run")
    assert (unasked.status, tried.status) == (2, 0)
    assert tried.out.startswith(f"The ledger of relay (eu-central-1) has {uuid}: {one['status']}, confirmed at 20")

    def confirmed_again(*_: object, **__: object) -> bool:
        later = {**entry, "confirmed_at": {"N": str(int(entry["confirmed_at"]["N"]) + 1)}}
        client.put_item(TableName=relay.deployment.outputs["LedgerTableName"], Item=later)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "confirmed", confirmed_again)
        late = operator(*forget)
    assert (late.status, late.err.startswith("The entry has changed meanwhile")) == (1, True)
    assert relay.confirmed(uuid) == one["status"]

    forgotten = operator(*forget, "--yes")
    assert (forgotten.status, forgotten.err, relay.confirmed(uuid)) == (0, "", None)
    again = forgotten.out.strip().rpartition("flash-call-relay ")[2].split()
    assert operator(*again).status == 0
    wait_for(lambda: relay.endpoint.accepted.count((uuid, one["status"])) == 2, "the result, a second time")


def test_without_an_entry_there_is_nothing_to_forget(
    relay: DeployedRelay, function_route: DeployedRelay, operator: Operator
) -> None:
    """An operator who mistypes a uuid, or has no ledger, would believe that something was removed."""
    name = relay.deployment.name
    unknown = operator("--stack", name, "forget", "--uuid", "no-such-call", "--yes")
    assert (unknown.status, unknown.out) == (1, "")
    assert unknown.err.startswith(f"The ledger of {name} (eu-central-1) has no entry of no-such-call")
    without = operator("--stack", function_route.deployment.name, "forget", "--uuid", "one", "--yes")
    assert (without.status, without.out) == (2, "")
    assert "has no ledger (Deduplication is false)" in without.err
