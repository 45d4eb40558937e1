"""Results through each entrance of the deployed stack."""

import json

from local import ROOT
from local.endpoint.behaviour import error
from tests.support.deployed import SENDER_RULES, DeployedRelay, wait_for
from tests.support.emitted import emitted_fields, emitted_metrics, read_emf
from tests.support.operator import Operator
from tests.support.payloads import pairs, result


def test_a_queued_result_and_an_event_on_the_bus_are_delivered(relay: DeployedRelay) -> None:
    """A company that has just deployed the relay would see nothing arrive by one of its two entrances."""
    queued, event = result(), result(status="Failed")
    relay.endpoint.issue(event["uuid"])
    relay.send_known({**queued, "note": "not for BetaTel"})
    relay.put_events(event)
    assert relay.accepted(queued, event) == pairs(queued, event)


def test_the_function_writes_only_known_fields_and_metrics_in_the_stacks_name(relay: DeployedRelay) -> None:
    """The checks of dashboard, alarms and saved queries would rest on fields that the function never writes."""
    one = result()
    relay.send_known(one)
    relay.story(one["uuid"], 1)
    lines = [line for line in relay.deployment.log() if line.get("service") == "relay"]
    assert {field for line in lines for field in line} <= emitted_fields()
    blobs = relay.deployment.log(metrics=True)
    metrics = [metric for blob in blobs for metric in read_emf(blob)]
    assert {metric.name for metric in metrics} <= emitted_metrics().keys()
    assert {metric.dimensions["service"] for metric in metrics} == {"relay"}
    assert not [blob for blob in blobs if "level" in blob], "Lambda's log level would drop it"


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
    relay.deployment.client("events").put_events(
        Entries=[{**common, "Detail": json.dumps(detail)} for detail in details]
    )
    assert relay.accepted(verified, failed) == pairs(verified, failed)

    # EventBridge in the emulator does not ask the queue's policy.
    asked = {"QueueUrl": relay.deployment.outputs["ResultQueueUrl"], "AttributeNames": ["Policy"]}
    policy = json.loads(relay.deployment.sqs.get_queue_attributes(**asked)["Attributes"]["Policy"])
    (allowed,) = [one for one in policy["Statement"] if one["Sid"] == "AcceptEventsOfYourRules"]
    arns = [relay.deployment.client("events").describe_rule(Name=name)["Arn"] for name in SENDER_RULES]
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": arns}}


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
    wait_for(lambda: function_route.visible("ParkedQueueUrl") == 1, "the invalid event, parked")
    (parked,) = function_route.deployment.peek("ParkedQueueUrl")
    assert parked["MessageAttributes"]["reason"]["StringValue"] == "invalid_event"
    assert json.loads(parked["Body"])["detail"] == {"uuid": "", "status": "Success"}
    function_route.deployment.purge_queues()


def test_without_deduplication_there_is_no_table_and_no_permission(function_route: DeployedRelay) -> None:
    """A customer without deduplication would still pay for a table, or have to explain its permissions."""
    assert "LedgerTableName" not in function_route.deployment.outputs
    assert "dynamodb" not in json.dumps(function_route.role_policy())


def test_results_wait_until_the_secret_is_filled_in(without_credentials: DeployedRelay, operator: Operator) -> None:
    """Results sent before the secret is filled in would be lost, or nobody would know why they wait."""
    relay, one = without_credentials, result()
    found = operator("--stack", "without-credentials", "doctor", "--probe")
    wrong = [line.partition(":")[0] for line in found.out.splitlines() if "WRONG" in line]
    assert wrong == ["WRONG  credentials", "WRONG  probe"]
    arn = relay.deployment.outputs["CredentialsSecretArn"]
    assert f"aws secretsmanager put-secret-value --secret-id {arn}" in found.out
    relay.send_known(one)
    assert relay.story(one["uuid"], 1)[0]["reason"] == "credentials_unavailable"
    relay.deployment.fill_secret(*relay.endpoint.credentials)
    with relay.reconfigured():
        assert relay.accepted(one) == pairs(one)
        relay.settled()
