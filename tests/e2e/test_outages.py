"""Faults that pass, on the deployed stack: whoever is at fault, good results are delivered in the end, and once."""

import json
import math
import secrets

from flash_call_relay import budget
from local.endpoint.behaviour import error, hang
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.payloads import pairs, result


def events(relay: DeployedRelay, *names: str) -> list[str]:
    """Return which of these events the function has logged, oldest first."""
    return [line["message"] for line in relay.deployment.log() if line.get("message") in names]


def test_an_outage_of_the_endpoint_from_start_to_recovery(relay: DeployedRelay) -> None:
    """Results of an outage would be lost, or the endpoint would be pressed on while it is down."""
    names = ("endpoint.failing", "endpoint.recovered")
    with relay.alone(), relay.reconfigured(CONNECTIONS_PER_FUNCTION="2"):
        relay.endpoint.spell(error(503))
        results = [result(status="Failed") for _ in range(30)]
        relay.endpoint.issue(*(one["uuid"] for one in results))
        relay.send(*results)
        wait_for(lambda: "endpoint.failing" in events(relay, *names), "a gate to close")
        wait_for(lambda: relay.deployment.depth("ResultQueueUrl") == 30, "all results back on the queue")
        asked = len(relay.endpoint.requests)

        def held() -> list[dict[str, object]]:
            return [line for line in relay.deployment.log() if line.get("reason") == "endpoint_failing"]

        wait_for(held, "a record that is held back")
        assert all("duration_ms" not in line for line in held()), "the endpoint was spared"
        relay.endpoint.heal()
        assert relay.accepted(*results) == pairs(*results)
        assert len(relay.endpoint.requests) >= asked + 30
        relay.settled()
        wait_for(lambda: events(relay, *names)[-1] == "endpoint.recovered", "the gate to open")


def test_a_rotated_key_costs_no_result(relay: DeployedRelay) -> None:
    """Each rotation of the key would need a person, or lose the results of its minutes."""
    with relay.reconfigured():
        before, meanwhile, after = ([result() for _ in range(20)] for _ in range(3))
        relay.endpoint.issue(*(one["uuid"] for one in [*before, *meanwhile, *after]))
        relay.send(*before)
        relay.accepted(*before)
        api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        relay.endpoint.rotate(api_key, user_id)
        relay.send(*meanwhile)
        wait_for(lambda: events(relay, "credentials.rejected"), "the refusal in the log")
        relay.deployment.fill_secret(api_key, user_id)
        relay.api_key, relay.user_id = api_key, user_id
        relay.send(*after)
        assert relay.accepted(*before, *meanwhile, *after) == pairs(*before, *meanwhile, *after)
        relay.settled()
        assert relay.deployment.depth("ParkedQueueUrl") == 0
        refused = [line for line in relay.deployment.log() if line.get("reason") == "credentials_rejected"]
        assert {line["outcome"] for line in refused} == {"deferred"}


def test_a_late_call_is_waited_for(relay: DeployedRelay) -> None:
    """A result that overtakes its call would be parked, and a person would have to send it again."""
    one = result()
    relay.send(one)
    wait_for(lambda: relay.story(one["uuid"]), "a first try")
    relay.endpoint.issue(one["uuid"])
    assert relay.accepted(one) == pairs(one)
    relay.settled()
    assert [line["message"] for line in relay.story(one["uuid"])][-1] == "result.delivered"


def test_an_empty_secret_only_delays(without_credentials: DeployedRelay) -> None:
    """Results sent before the secret is filled in would be lost, or nobody would know why they wait."""
    relay, one = without_credentials, result()
    relay.endpoint.issue(one["uuid"])
    relay.send(one)
    wait_for(lambda: relay.story(one["uuid"]), "a first try")
    first = relay.story(one["uuid"])[0]
    assert (first["message"], first["reason"]) == ("result.deferred", "credentials_unavailable")
    assert "secret" in str(first["detail"]).lower()

    # Secrets Manager says no altogether.
    iam, role = relay.deployment.stack.client("iam"), relay.deployment.role
    deny = {"Effect": "Deny", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    iam.put_role_policy(RoleName=role, PolicyName="outage", PolicyDocument=document)
    with relay.reconfigured():
        wait_for(lambda: "AccessDenied" in str(relay.story(one["uuid"])[-1]["detail"]), "Secrets Manager's refusal")
    iam.delete_role_policy(RoleName=role, PolicyName="outage")
    relay.deployment.fill_secret(relay.api_key, relay.user_id)
    with relay.reconfigured():
        assert relay.accepted(one) == pairs(one)
        relay.settled()


def test_a_batch_that_cannot_finish_is_put_off_in_time(relay: DeployedRelay) -> None:
    """The function would be killed in mid-batch, and what it has delivered would be sent again."""
    one = result()
    relay.endpoint.issue(one["uuid"])
    slow = [result() for _ in range(10)]
    relay.endpoint.issue(*(other["uuid"] for other in slow))
    for other in slow:
        relay.endpoint.misbehave(other["uuid"], hang())
    with relay.reconfigured(math.ceil(budget.SETTLE_S) + 5, CONNECTIONS_PER_FUNCTION="1"):
        relay.send(*slow)
        assert relay.accepted(*slow) == pairs(*slow)
        relay.settled()
    firsts = [relay.story(other["uuid"])[0] for other in slow]
    assert {line["reason"] for line in firsts} == {"timeout", "out_of_time"}
    assert all(line["retry_in_s"] for line in firsts)
    assert not [line for line in relay.deployment.raw_log() if "Task timed out" in line]


def test_what_outlasts_the_horizon_is_parked_with_its_last_reason(relay: DeployedRelay) -> None:
    """A result would be retried for ever, or given up without anybody knowing why."""
    one = result()
    relay.endpoint.issue(one["uuid"])
    relay.endpoint.always(one["uuid"], error(500))
    with relay.reconfigured(RETRY_HORIZON_SECONDS="3"):
        (source,) = relay.send(one)
        parked = relay.parked(1)
    assert json.loads(parked[source]["Body"]) == one
    assert parked[source]["Reasons"]["reason"] == "retries_exhausted"
    assert "endpoint_error" in parked[source]["Reasons"]["detail"]
    assert int(parked[source]["Reasons"]["receive_count"]) > 1


def test_a_short_schedule_is_warned_of(relay: DeployedRelay) -> None:
    """Somebody who shortens the schedule would learn from the dead-letter queue that the horizon is gone."""
    warning = "settings.receives_run_out_before_the_horizon"
    wait_for(lambda: events(relay, warning), "the warning")
