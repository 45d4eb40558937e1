"""Temporary faults on the deployed stack: the relay delivers each good result in the end."""

from local.endpoint.behaviour import error
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
