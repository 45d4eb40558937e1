"""`send`, `story` and `forget` on the deployed stack."""

import re

import pytest

from local.endpoint.behaviour import answer, error
from ops import ledger
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.operator import Operator
from tests.support.payloads import pairs, result


def test_results_from_a_pipe_arrive_once_each(relay: DeployedRelay, operator: Operator) -> None:
    """An operator could not report a day's results later, or some would be lost or doubled."""
    results = [result(status="Success" if number % 2 else "Failed") for number in range(95)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    lines = ["uuid,status", *(f"{one['uuid']},{one['status']}" for one in [*results, results[0]])]
    sent = operator.process("--stack", "relay", "send", "--file", "-", says="\r\n".join(lines))
    assert (sent.status, sent.err) == (0, "1 repeated line left out.\n")
    assert sent.out == "95 results sent to the result queue of relay (eu-central-1).\n"
    assert relay.accepted(*results) == pairs(*results)


def test_a_story_shows_each_event_of_a_result(relay: DeployedRelay, operator: Operator) -> None:
    """An operator would have to search the logs, the queues and the ledger for one call."""
    delivered, deferred, parked = result(), result(status="Failed"), result()
    relay.endpoint.misbehave(parked["uuid"], answer(422, {"message": "not like this"}))
    relay.endpoint.always(deferred["uuid"], error(503))
    relay.send_known(delivered, deferred, parked)
    relay.accepted(delivered)
    relay.send(delivered)
    for one, times in ((delivered, 2), (deferred, 1), (parked, 1)):
        relay.story(one["uuid"], times)
    relay.endpoint.heal()

    def told(one: dict[str, str]) -> str:
        story = operator("--stack", "relay", "story", one["uuid"])
        assert (story.status, story.err) == (0, "")
        return story.out

    text = told(delivered)
    assert all(f" {event} " in text for event in ("log     delivered", "ledger  confirmed", "log     duplicate"))
    assert re.search(r"\nIt is confirmed: BetaTel got Success at 20\S+Z\.\n$", text)
    text = told(parked)
    assert " log     parked Success: rejected, HTTP 422 not like this, receive 1\n" in text
    assert re.search(r" parked +holds Success: rejected HTTP 422 not like this\n", text)
    assert "\nIt needs a person: the parked queue holds Success (rejected). " in text
    relay.settled()
    assert " log     deferred Failed: endpoint_error, HTTP 503" in told(deferred)
    relay.deployment.take_all("ParkedQueueUrl")


def test_a_forgotten_confirmation_is_sent_again(
    relay: DeployedRelay, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that BetaTel does not have could not be sent again, or the wrong entry would be removed."""
    one = result()
    forget = ("--stack", "relay", "forget", "--uuid", one["uuid"])
    relay.send_known(one)
    relay.accepted(one)
    relay.settled()
    entry = relay.ledger_entry(one["uuid"])
    assert entry

    def confirmed_again(*_: object, **__: object) -> bool:
        later = {**entry, "confirmed_at": {"N": str(int(entry["confirmed_at"]["N"]) + 1)}}
        table = relay.deployment.outputs["LedgerTableName"]
        relay.deployment.emulator.client("dynamodb").put_item(TableName=table, Item=later)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "confirmed", confirmed_again)  # while the operator reads the question
        late = operator(*forget)
    assert (late.status, late.err.startswith("The entry has changed meanwhile")) == (1, True)
    assert late.out.startswith(f"The ledger of relay (eu-central-1) has {one['uuid']}: Success, confirmed at 20")
    assert relay.confirmed(one["uuid"]) == "Success"

    forgotten = operator(*forget, "--yes")
    assert (forgotten.status, forgotten.err, relay.confirmed(one["uuid"])) == (0, "", None)
    unknown = operator(*forget, "--yes")
    assert (unknown.status, unknown.out) == (1, "")
    assert unknown.err.startswith(f"The ledger of relay (eu-central-1) has no entry of {one['uuid']}")
    again = forgotten.out.strip().rpartition("flash-call-relay ")[2].split()
    assert operator(*again).status == 0
    wait_for(lambda: relay.endpoint.accepted.count((one["uuid"], "Success")) == 2, "the result, a second time")
