"""The function's role has the permissions that the relay needs, and no others: tests take away one after another."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from local.endpoint.behaviour import error
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.payloads import result
from tests.support.template import texts

Permission = tuple[str, str]  # the action, and what it is allowed on

# The permissions that the emulator enforces, each with what fails without it and its sign in the log.
NEEDED: dict[Permission, tuple[str, str]] = {
    ("secretsmanager:GetSecretValue", "secret"): ("a result in a new environment", "result.deferred credentials"),
    ("dynamodb:BatchGetItem", "ledger"): ("a result", "ledger.failed read"),
    ("dynamodb:PartiQLInsert", "ledger"): ("a result", "ledger.failed write"),
    ("sqs:ChangeMessageVisibility", "result queue"): ("a result that fails", "settle.failed hide"),
    ("sqs:SendMessage", "parked queue"): ("a malformed result", "settle.failed park"),
    ("sqs:SendMessage", "result queue"): ("an event that fails", "settle.failed requeue"),
    ("events:PutEvents", "outcome bus"): ("a result", "outcome_event.failed PutEvents"),
}

# The permissions that Lambda or Secrets Manager uses on AWS, by its documentation. The emulator does not enforce them.
NOT_ASKED_FOR: dict[Permission, str] = {
    ("sqs:ReceiveMessage", "result queue"): "AWSLambdaSQSQueueExecutionRole: an event source mapping receives",
    ("sqs:DeleteMessage", "result queue"): "AWSLambdaSQSQueueExecutionRole: and deletes settled messages",
    ("sqs:GetQueueAttributes", "result queue"): "AWSLambdaSQSQueueExecutionRole: and reads the queue's settings",
    ("sqs:SendMessage", "dead-letter queue"): "Lambda, dead-letter queues: Lambda sends with the function's role",
    ("kms:Decrypt", "key of the stack"): "SQS, key management: a consumer needs it, and so does a producer",
    ("kms:GenerateDataKey", "key of the stack"): "SQS, key management: a producer needs it",
    ("logs:CreateLogStream", "log group"): "AWSLambdaBasicExecutionRole: a stream for each execution environment",
    ("logs:PutLogEvents", "log group"): "AWSLambdaBasicExecutionRole: the function's log lines",
}


def test_the_role_has_exactly_the_known_permissions(permitted: DeployedRelay) -> None:
    """A needless permission would widen the reach of a flaw in the relay."""
    iam, role = permitted.deployment.emulator.client("iam"), permitted.deployment.role
    names = {"relay", "network-interfaces", "emulator-only"}
    assert set(iam.list_role_policies(RoleName=role)["PolicyNames"]) == names
    granted = permitted.role_policy()["Statement"]
    assert {one["Effect"] for one in granted} == {"Allow"}
    assert split(permitted, granted).keys() == NEEDED.keys() | NOT_ASKED_FOR.keys()
    document = iam.get_role_policy(RoleName=role, PolicyName="network-interfaces")["PolicyDocument"]
    # Lambda needs some of EC2 for a function in a VPC. Requests by Lambda itself do not carry this key.
    assert all(action.startswith("ec2:") for action, _ in split(permitted, document["Statement"]))
    denied = document["Statement"][-1]
    assert (denied["Effect"], denied["Action"], denied["Resource"]) == ("Deny", "ec2:*", "*")
    assert list(denied["Condition"]["ArnLike"]) == ["lambda:SourceFunctionArn"], "the function's code may do none of it"


@pytest.mark.parametrize("permission", NEEDED, ids=" on ".join)
def test_the_relay_fails_visibly_without_the_permission(permitted: DeployedRelay, permission: Permission) -> None:
    """The role would allow more than the relay does, or the relay would hide a missing permission."""
    what, sign = NEEDED[permission]
    assert signs(permitted, what) == set(), "with all permissions, nothing fails"
    with without(permitted, permission):
        assert signs(permitted, what) == {sign}


def split(relay: DeployedRelay, statements: list[dict[str, Any]]) -> dict[Permission, dict[str, Any]]:
    """Return the statements by their permissions, each with one action on one resource."""
    return {
        (action, name_of(relay, resource)): {**statement, "Action": action, "Resource": resource}
        for statement in statements
        for action in texts(statement["Action"])
        for resource in texts(statement["Resource"])
    }


@contextlib.contextmanager
def without(relay: DeployedRelay, permission: Permission) -> Iterator[None]:
    """Take this permission from the role for the length of a `with` block."""
    document = relay.role_policy()
    left = split(relay, document["Statement"])
    del left[permission]
    with relay.with_role_policy({**document, "Statement": [*left.values()]}):
        yield


def name_of(relay: DeployedRelay, arn: str) -> str:
    """Return the name of one of the relay's resources; another ARN is its own name."""
    outputs = relay.deployment.outputs
    ends = {
        outputs["ResultQueueArn"]: "result queue",
        outputs["ParkedQueueArn"]: "parked queue",
        outputs["DeadLetterQueueArn"]: "dead-letter queue",
        outputs["CredentialsSecretArn"]: "secret",
        f":table/{outputs['LedgerTableName']}": "ledger",
        f":log-group:{outputs['LogGroupName']}:*": "log group",
        relay.deployment.parameters["KmsKeyArn"]: "key of the stack",
        ":event-bus/default": "outcome bus",
    }
    return next((name for end, name in ends.items() if arn.endswith(end)), arn)


def event(relay: DeployedRelay, what: str) -> dict[str, Any]:
    """Return the event that brings this to the function."""
    one = result()
    if what == "a malformed result":
        one["uuid"] = ""
    else:
        relay.endpoint.issue(one["uuid"])
    if what.endswith("that fails"):
        relay.endpoint.misbehave(one["uuid"], error(500))
    if what.startswith("an event"):
        return {"id": "e", "detail-type": "Flash Call Result", "detail": one}
    return batch(relay, one)


def batch(relay: DeployedRelay, body: dict[str, str]) -> dict[str, Any]:
    """Put a body on the emptied result queue; receive it as the event that Lambda's poller makes of it."""
    relay.deployment.purge_queues()
    relay.send(body)
    (message,) = relay.deployment.sqs.receive_message(
        QueueUrl=relay.deployment.outputs["ResultQueueUrl"], WaitTimeSeconds=20, AttributeNames=["All"]
    )["Messages"]
    names = {"messageId": "MessageId", "receiptHandle": "ReceiptHandle", "body": "Body", "attributes": "Attributes"}
    return {"Records": [{"eventSource": "aws:sqs", **{ours: message[theirs] for ours, theirs in names.items()}}]}


def signs(relay: DeployedRelay, what: str) -> set[str]:
    """Invoke the function with this; return its failures, by its log."""

    def ends() -> list[int]:
        return [at for at, line in enumerate(relay.deployment.log(), start=1) if line.get("message") == "batch.settled"]

    before = ends()
    with relay.reconfigured() if what.endswith("new environment") else contextlib.nullcontext():
        relay.invoke(event(relay, what))
        wait_for(lambda: len(ends()) > len(before), "the end of the batch in the log")
    seen = set()
    for line in relay.deployment.log()[max(before, default=0) :]:
        failed = line["message"] in ("settle.failed", "ledger.failed", "outcome_event.failed")
        if failed or line.get("reason") == "credentials_unavailable":
            assert "AccessDenied" in str(line["detail"])
            seen.add(f"{line['message']} {str(line['detail']).partition(': ')[0] if failed else 'credentials'}")
    return seen
