"""Temporary faults on the deployed stack: the relay delivers each good result in the end."""

import math
import secrets

from flash_call_relay import budget
from local.endpoint.behaviour import error, hang
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.operator import Operator
from tests.support.payloads import pairs, result


def test_an_outage_closes_the_gate_and_a_recovery_delivers_all_results(swept: DeployedRelay) -> None:
    """The results of an outage would be lost, or the relay would keep sending to an endpoint that is down."""
    relay, earlier = swept, len(swept.deployment.log())

    def changes() -> list[str]:
        lines = relay.deployment.log()[earlier:]
        return [line["message"] for line in lines if line["message"] in ("endpoint.failing", "endpoint.recovered")]

    def held() -> list[dict[str, object]]:
        return [line for line in relay.deployment.log()[earlier:] if line.get("reason") == "endpoint_failing"]

    with relay.concurrency(1), relay.reconfigured(CONNECTIONS_PER_FUNCTION="2"):
        relay.endpoint.override(error(503))
        results = [result(status="Failed") for _ in range(30)]
        relay.send_known(*results)
        wait_for(lambda: "endpoint.failing" in changes(), "a gate to close")
        assert relay.deployment.depth("ResultQueueUrl") == 30
        asked = len(relay.endpoint.requests)
        wait_for(held, "a record that the gate defers")
        assert all("duration_ms" not in line for line in held()), "the gate makes no POST"
        relay.endpoint.heal()
        assert relay.accepted(*results) == pairs(*results)
        assert len(relay.endpoint.requests) >= asked + 30
        relay.settled()
        wait_for(lambda: changes()[-1] == "endpoint.recovered", "the gate to open")


def test_a_rotated_key_defers_results_and_costs_none(swept: DeployedRelay) -> None:
    """Each rotation of the key would need a person, or lose results."""
    relay, earlier = swept, len(swept.deployment.log())

    def refused() -> list[dict[str, object]]:
        return [line for line in relay.deployment.log()[earlier:] if line.get("reason") == "credentials_rejected"]

    with relay.reconfigured():
        before, during, after = ([result() for _ in range(20)] for _ in range(3))
        relay.send_known(*before)
        relay.accepted(*before)
        api_key, user_id = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        relay.endpoint.rotate(api_key, user_id)
        relay.send_known(*during)
        wait_for(refused, "the refusal in the log")
        relay.deployment.fill_secret(api_key, user_id)
        relay.api_key, relay.user_id = api_key, user_id
        relay.send_known(*after)
        assert relay.accepted(*before, *during, *after) == pairs(*before, *during, *after)
        relay.settled()
        assert relay.deployment.depth("ParkedQueueUrl") == 0
        assert {line["outcome"] for line in refused()} == {"deferred"}


def test_an_empty_or_forbidden_secret_only_delays_results(
    without_credentials: DeployedRelay, operator: Operator
) -> None:
    """Results sent before the secret is filled in would be lost, or nobody would know why they wait."""
    relay, one = without_credentials, result()
    found = operator("--stack", "without-credentials", "doctor", "--probe")
    assert [line.partition(":")[0] for line in found.out.splitlines() if "WRONG" in line] == [
        "WRONG  credentials",
        "WRONG  probe",
    ]
    arn = relay.deployment.outputs["CredentialsSecretArn"]
    assert f"aws secretsmanager put-secret-value --secret-id {arn}" in found.out
    relay.send_known(one)
    first = relay.story(one["uuid"], 1)[0]
    assert (first["message"], first["reason"]) == ("result.deferred", "credentials_unavailable")
    assert "secret" in str(first["detail"]).lower()

    deny = {"Effect": "Deny", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}
    outage = relay.with_role_policy("outage", {"Version": "2012-10-17", "Statement": [deny]})
    with outage, relay.reconfigured():
        wait_for(lambda: "AccessDenied" in str(relay.story(one["uuid"])[-1]["detail"]), "Secrets Manager's refusal")
    relay.deployment.fill_secret(relay.api_key, relay.user_id)
    with relay.reconfigured():
        assert relay.accepted(one) == pairs(one)
        relay.settled()


def test_a_batch_that_cannot_finish_is_deferred_before_the_timeout(relay: DeployedRelay) -> None:
    """Lambda would kill the function during a batch, and the relay would send delivered results again."""
    slow, earlier = [result() for _ in range(6)], len(relay.deployment.raw_log())
    relay.endpoint.issue(*(other["uuid"] for other in slow))
    for other in slow:
        relay.endpoint.misbehave(other["uuid"], hang())
    # Each batch has time for two attempts, and for one if the first begins 7 s late.
    variables = {"CONNECTIONS_PER_FUNCTION": "1", "REQUEST_TIMEOUT_SECONDS": "5"}
    with relay.reconfigured(math.ceil(budget.SETTLE_S) + 12, **variables):
        relay.send(*slow)
        assert relay.accepted(*slow) == pairs(*slow)
        relay.settled()
    firsts = [relay.story(other["uuid"], 1)[0] for other in slow]
    assert {line["reason"] for line in firsts} == {"timeout", "out_of_time"}
    assert all(line["retry_in_s"] for line in firsts)
    assert not [line for line in relay.deployment.raw_log()[earlier:] if "Task timed out" in line]
