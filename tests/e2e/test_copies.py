"""Copies and contradictions on the deployed stack: through both ways in, at once and one after the other."""

import json
from collections import Counter

import pytest

from local.endpoint.behaviour import answer, hang
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.payloads import pairs, result


def test_three_hundred_results_sent_three_times_arrive_once(relay: DeployedRelay) -> None:
    """BetaTel would get a result as often as producers and AWS repeat it."""
    results = [result(status="Success" if number % 2 else "Failed") for number in range(300)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    relay.send(*results)
    assert relay.accepted(*results) == pairs(*results)
    relay.settled()
    relay.send(*results)
    relay.put_events(*results)
    uuids = {one["uuid"] for one in results}

    def duplicates() -> int:
        lines = relay.deployment.log()
        return sum(line.get("outcome") == "duplicate" and line["uuid"] in uuids for line in lines)

    wait_for(lambda: duplicates() == 600, "600 duplicates")
    relay.settled()
    assert Counter(relay.endpoint.accepted).keys() >= set(pairs(*results))
    assert sorted(pair for pair in relay.endpoint.accepted if pair[0] in uuids) == pairs(*results)


def test_copies_sent_at_once_arrive(relay: DeployedRelay) -> None:
    """Copies in flight side by side would wait for each other, or all be taken for duplicates."""
    results = [result() for _ in range(20)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    relay.send(*results, *results)
    relay.put_events(*results)
    accepted = relay.accepted(*results)
    relay.settled()
    assert set(accepted) == set(pairs(*results))
    table, dynamodb = relay.deployment.outputs["LedgerTableName"], relay.deployment.stack.client("dynamodb")
    for one in results:
        item = dynamodb.get_item(TableName=table, Key={"uuid": {"S": one["uuid"]}})["Item"]
        confirmed_at = int(item["confirmed_at"]["N"])
        starts = [request.at for request in relay.endpoint.requests if request.uuid == one["uuid"]]
        # To the second: that is how exactly the ledger knows it.
        assert max(starts) < confirmed_at + 1 or len(starts) == 1, "a POST began after the confirmation was written"


def test_a_contradiction_is_parked(relay: DeployedRelay) -> None:
    """BetaTel would hear two verdicts on one call, and nobody would be told."""
    first = result(status="Success")
    second = {**first, "status": "Failed"}
    relay.endpoint.issue(first["uuid"])
    relay.send(first)
    relay.accepted(first)
    relay.settled()
    (source,) = relay.send(second)
    parked = relay.parked(1)
    assert json.loads(parked[source]["Body"]) == second
    assert parked[source]["Reasons"]["reason"] == "conflicting_status"
    assert relay.accepted(first) == pairs(first)


THROTTLED = {
    "__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
    "message": "slow down",
}


@pytest.mark.parametrize("trouble", ["missing", "throttled", "slow"])
def test_trouble_with_the_table_loses_nothing(relay: DeployedRelay, trouble: str) -> None:
    """An outage of DynamoDB would stop all deliveries."""
    results = [result() for _ in range(10)]
    relay.endpoint.issue(*(one["uuid"] for one in results))
    before = len(ledger_faults(relay))
    with StandIn(api_key="none", user_id="none") as dynamodb:
        dynamodb.spell(hang() if trouble == "slow" else answer(400, THROTTLED))
        elsewhere = {"AWS_ENDPOINT_URL_DYNAMODB": dynamodb.url.removesuffix(WEBHOOK_PATH)}
        missing = {"LEDGER_TABLE_NAME": "no-such-table"}
        with relay.reconfigured(**(missing if trouble == "missing" else elsewhere)):
            relay.send(*results)
            assert relay.accepted(*results) == pairs(*results)
            relay.settled()
            wait_for(lambda: len(ledger_faults(relay)) >= before + 2, "the trouble in the log")
        assert bool(dynamodb.requests) is (trouble != "missing")


def ledger_faults(relay: DeployedRelay) -> list[str]:
    """Return what the function has logged of trouble with its ledger."""
    return [line["detail"] for line in relay.deployment.log() if line.get("message") == "ledger.failed"]


def test_without_deduplication_there_is_no_table_and_no_permission(function_route: DeployedRelay) -> None:
    """Who has switched it off would still pay for a table, or have to explain the permission to it."""
    assert "LedgerTableName" not in function_route.deployment.outputs
    iam = function_route.deployment.stack.client("iam")
    document = iam.get_role_policy(RoleName=function_route.deployment.role, PolicyName="relay")["PolicyDocument"]
    assert "dynamodb" not in json.dumps(document)
    one = result()
    function_route.endpoint.issue(one["uuid"])
    function_route.send(one)
    assert function_route.accepted(one) == pairs(one)
    function_route.settled()
    function_route.send(one)
    wait_for(lambda: len(function_route.story(one["uuid"])) == 2, "the second delivery")
    assert {line["outcome"] for line in function_route.story(one["uuid"])} == {"delivered"}
