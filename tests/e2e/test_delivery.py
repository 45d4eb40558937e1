"""Results through each entrance of the deployed stack."""

import json
import uuid as uuids

from local import ROOT
from local.endpoint.behaviour import error, hang
from tests.support import emf
from tests.support.deployed import SENDER_RULES, DeployedRelay, wait_for
from tests.support.emitted import emitted_fields, emitted_metrics
from tests.support.operator import Operator
from tests.support.payloads import pairs, result


def test_a_queued_result_becomes_the_documented_request(relay: DeployedRelay) -> None:
    """BetaTel would refuse or misread each request."""
    one = result()
    relay.send_known({**one, "note": "not for BetaTel"})
    assert relay.accepted(one) == pairs(one)
    request = next(request for request in relay.endpoint.requests if request.uuid == one["uuid"])
    headers = {name.lower(): value for name, value in request.headers}
    assert (request.method, request.path) == ("POST", "/api/v1/connect-hub/call/flash/webhook")
    assert headers["content-type"] == "application/json"
    assert headers["x-api-key"] == relay.api_key
    assert headers["x-user-id"] == relay.user_id
    assert headers["user-agent"].startswith("flash-call-relay/")
    assert json.loads(request.body) == one


def test_the_function_writes_only_known_fields_and_metrics_in_the_stacks_name(relay: DeployedRelay) -> None:
    """The checks of dashboard, alarms and saved queries would rest on fields that the function never writes."""
    one = result()
    relay.send_known(one)
    relay.story(one["uuid"], 1)
    lines = [line for line in relay.deployment.log() if line.get("service") == "relay"]
    assert {field for line in lines for field in line} <= emitted_fields()
    blobs = relay.deployment.metrics()
    metrics = [metric for blob in blobs for metric in emf.read(blob)]
    assert {metric.name for metric in metrics} <= emitted_metrics().keys()
    assert {metric.dimensions["service"] for metric in metrics} == {"relay"}
    assert not [blob for blob in blobs if "level" in blob], "Lambda's log level would drop it"


def test_an_event_on_the_bus_is_delivered(relay: DeployedRelay) -> None:
    """The results of backends that use EventBridge would not arrive."""
    events = [result(status="Failed"), result()]
    relay.endpoint.issue(*(one["uuid"] for one in events))
    relay.put_events(*events)
    assert relay.accepted(*events) == pairs(*events)


def test_events_of_another_shape_are_delivered_by_the_documented_rules(relay: DeployedRelay) -> None:
    """A company that copies the rules from the documentation would lose its events, or report the wrong status."""
    verified, failed = result(), result(status="Failed")
    relay.endpoint.issue(verified["uuid"], failed["uuid"])
    page = (ROOT / "docs" / "integrating.md").read_text()
    section = page[page.index("\n## Events of another shape") :]
    cloudformation = relay.deployment.emulator.client("cloudformation")
    queue = {"ParameterKey": "ResultQueueArn", "ParameterValue": relay.deployment.outputs["ResultQueueArn"]}
    cloudformation.create_stack(
        StackName="acme", TemplateBody=section.split("```yaml\n")[1].split("```")[0], Parameters=[queue]
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName="acme", WaiterConfig={"Delay": 1})
    common = {"Source": "acme.verification", "DetailType": "Verification Ended"}
    details = [{"callId": one["uuid"], "verified": one["status"] == "Success"} for one in (verified, failed)]
    relay.deployment.bus.put_events(Entries=[{**common, "Detail": json.dumps(detail)} for detail in details])
    assert relay.accepted(verified, failed) == pairs(verified, failed)

    # EventBridge in the emulator does not ask the queue's policy.
    asked = {"QueueUrl": relay.deployment.outputs["ResultQueueUrl"], "AttributeNames": ["Policy"]}
    policy = json.loads(relay.deployment.sqs.get_queue_attributes(**asked)["Attributes"]["Policy"])
    (allowed,) = [one for one in policy["Statement"] if one["Sid"] == "AcceptEventsOfYourRules"]
    arns = [relay.deployment.bus.describe_rule(Name=name)["Arn"] for name in SENDER_RULES]
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": arns}}


def test_each_record_of_a_mixed_batch_gets_its_own_outcome(relay: DeployedRelay) -> None:
    """One bad record would delay, lose or repeat its neighbours."""
    good, failing, silent, unknown = [result() for _ in range(6)], result(), result(), result(status="Failed")
    relay.endpoint.issue(*(one["uuid"] for one in [*good, failing, silent]))
    relay.endpoint.misbehave(failing["uuid"], error(500))
    relay.endpoint.misbehave(silent["uuid"], hang())
    malformed = json.dumps({"uuid": uuids.uuid4().hex, "status": "ok"})
    ids = relay.send(*good, malformed, unknown, failing, silent)

    assert relay.accepted(*good, failing, silent) == pairs(*good, failing, silent)
    parked = relay.parked(2)
    assert parked.keys() == {ids[6], ids[7]}
    assert parked[ids[6]]["Body"] == malformed
    assert parked[ids[6]]["Reasons"]["reason"] == "invalid_event"
    assert "status must be exactly" in parked[ids[6]]["Reasons"]["detail"]
    assert json.loads(parked[ids[7]]["Body"]) == unknown
    assert parked[ids[7]]["Reasons"]["reason"] == "unknown_call"
    assert parked[ids[7]]["Reasons"]["http_status"] == "404"
    relay.settled()
    assert relay.deployment.depth("DeadLetterQueueUrl") == 0

    for one, reason in ((failing, "endpoint_error"), (silent, "timeout")):
        first, last = relay.story(one["uuid"], 2)
        assert (first["message"], first["reason"]) == ("result.deferred", reason)
        assert first["retry_in_s"] in (1, 2)
        assert (last["message"], last["receive_count"]) == ("result.delivered", 2)
    *deferrals, final = relay.story(unknown["uuid"], 2)
    assert {line["reason"] for line in deferrals} == {"unknown_call"}
    grace_s = float(relay.deployment.parameters["UnknownCallGraceSeconds"])
    assert all(float(str(line["age_s"])) <= grace_s for line in deferrals)
    assert float(str(final["age_s"])) >= grace_s


def test_a_direct_event_is_delivered_deferred_to_the_queue_or_parked(function_route: DeployedRelay) -> None:
    """`EventRoute: function` would deliver nothing, or lose each result that BetaTel does not take immediately."""
    prompt, late = result(), result(status="Failed")
    function_route.endpoint.issue(prompt["uuid"], late["uuid"])
    function_route.endpoint.misbehave(late["uuid"], error(500))
    function_route.put_events(prompt, late)
    assert function_route.accepted(prompt, late) == pairs(prompt, late)
    assert [line["receive_count"] for line in function_route.story(prompt["uuid"], 1)] == [1]
    deferred, delivered = function_route.story(late["uuid"], 2)
    assert deferred["reason"] == "endpoint_error"
    assert delivered["message_id"] != deferred["message_id"], "the retry comes from the result queue"
    function_route.put_events({"uuid": "", "status": "Success"})
    (parked,) = function_route.parked(1).values()
    assert parked["Reasons"]["reason"] == "invalid_event"
    assert json.loads(parked["Body"])["detail"] == {"uuid": "", "status": "Success"}


def test_three_hundred_results_sent_three_times_arrive_once(relay: DeployedRelay) -> None:
    """BetaTel would get a result as often as producers and AWS repeat it."""
    results = [result(status="Success" if number % 2 else "Failed") for number in range(300)]
    relay.send_known(*results)
    assert relay.accepted(*results) == pairs(*results)
    relay.settled()
    assert relay.confirmed(results[0]["uuid"]) == results[0]["status"]
    relay.send(*results)
    relay.put_events(*results)
    uuids = {one["uuid"] for one in results}

    def duplicates() -> int:
        lines = relay.deployment.log()
        return sum(line.get("outcome") == "duplicate" and line["uuid"] in uuids for line in lines)

    wait_for(lambda: duplicates() == 600, "600 duplicates")
    relay.settled()
    assert sorted(pair for pair in relay.endpoint.accepted if pair[0] in uuids) == pairs(*results)


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
