"""Copies on the deployed stack, through the queue and the event bus."""

import json

from tests.support.deployed import DeployedRelay, wait_for
from tests.support.payloads import pairs, result


def test_three_hundred_results_sent_three_times_arrive_once(relay: DeployedRelay) -> None:
    """BetaTel would get a result as often as producers and AWS repeat it."""
    results = [result(status="Success" if number % 2 else "Failed") for number in range(300)]
    relay.send_known(*results)
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
    assert sorted(pair for pair in relay.endpoint.accepted if pair[0] in uuids) == pairs(*results)


def test_copies_sent_at_the_same_moment_arrive_and_stop_with_the_ledger_entry(relay: DeployedRelay) -> None:
    """Copies in flight would wait for each other, or the relay would take all of them for duplicates."""
    results = [result() for _ in range(20)]
    relay.send_known(*results, *results)
    relay.put_events(*results)
    assert set(relay.accepted(*results)) == set(pairs(*results))
    relay.settled()
    assert {one["uuid"]: relay.confirmed(one["uuid"]) for one in results} == dict(pairs(*results))
    asked = len(relay.endpoint.requests)
    relay.send(*results)
    relay.settled()
    assert len(relay.endpoint.requests) == asked, "no POST begins after the ledger entry"


def test_without_deduplication_there_is_no_table_no_permission_and_no_duplicate(function_route: DeployedRelay) -> None:
    """A customer without deduplication would still pay for a table, or have to explain its permissions."""
    assert "LedgerTableName" not in function_route.deployment.outputs
    assert "dynamodb" not in json.dumps(function_route.role_policy())
    one = result()
    function_route.send_known(one)
    assert function_route.accepted(one) == pairs(one)
    function_route.settled()
    function_route.send(one)
    assert [line["outcome"] for line in function_route.story(one["uuid"], 2)] == ["delivered", "delivered"]
