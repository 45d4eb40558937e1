"""The function's role may do what the relay needs, and nothing else: each permission is taken away in turn."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.endpoint.behaviour import error
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.payloads import pairs, result

Permission = tuple[str, str]  # the action, and what it is allowed on
Signs = set[str]


def deliver(relay: DeployedRelay) -> Signs:
    """DeployedRelay a good result; return what went wrong."""
    one = result()
    relay.endpoint.issue(one["uuid"])
    return signs(relay, batch(relay, one))


def begin(relay: DeployedRelay) -> Signs:
    """DeployedRelay a good result in a new execution environment, which knows no credentials."""
    with relay.reconfigured():
        return deliver(relay)


def defer(relay: DeployedRelay) -> Signs:
    """DeployedRelay a result that the endpoint fails on, so that its message is hidden."""
    return signs(relay, batch(relay, failing(relay)))


def park(relay: DeployedRelay) -> Signs:
    """DeployedRelay a message that is no result."""
    return signs(relay, batch(relay, {"uuid": "", "status": "Success"}))


def requeue(relay: DeployedRelay) -> Signs:
    """Give an event straight to the function that the endpoint fails on, so that it joins the result queue."""
    return signs(relay, {"id": "e", "detail-type": "Flash Call Result", "detail": failing(relay)})


# Without it: what does not work, and how that shows.
NEEDED: dict[Permission, tuple[Callable[[DeployedRelay], Signs], str]] = {
    ("secretsmanager:GetSecretValue", "secret"): (begin, "result.deferred credentials_unavailable"),
    ("dynamodb:BatchGetItem", "ledger"): (deliver, "ledger.failed read"),
    ("dynamodb:PartiQLInsert", "ledger"): (deliver, "ledger.failed write"),
    ("sqs:ChangeMessageVisibility", "result queue"): (defer, "settle.failed hide"),
    ("sqs:SendMessage", "parked queue"): (park, "settle.failed park"),
    ("sqs:SendMessage", "result queue"): (requeue, "settle.failed requeue"),
}

# What Lambda or Secrets Manager does in the role's name on AWS, by AWS's documentation. The emulator doesn't ask.
NOT_ASKED_FOR: dict[Permission, str] = {
    ("sqs:ReceiveMessage", "result queue"): "AWSLambdaSQSQueueExecutionRole: an event source mapping receives",
    (
        "sqs:DeleteMessage",
        "result queue",
    ): "AWSLambdaSQSQueueExecutionRole: and deletes what was not reported as failed",
    ("sqs:GetQueueAttributes", "result queue"): "AWSLambdaSQSQueueExecutionRole: and looks at the queue's settings",
    ("sqs:SendMessage", "dead-letter queue"): "Lambda, dead-letter queues: sent in the function's role",
    (
        "kms:Decrypt",
        "key",
    ): "Secrets Manager, encryption: decrypts in the name of who reads a secret with a key of its own",
    ("logs:CreateLogStream", "log group"): "AWSLambdaBasicExecutionRole: one for each execution environment",
    ("logs:PutLogEvents", "log group"): "AWSLambdaBasicExecutionRole: what the function writes",
}


def test_no_permission_is_unaccounted_for(permitted: DeployedRelay) -> None:
    """A permission that nobody needs would widen what a flaw in the relay can reach."""
    granted = [permission for statement in role(permitted)["Statement"] for permission in split(permitted, statement)]
    assert sorted(granted) == sorted([*NEEDED, *NOT_ASKED_FOR])


@pytest.mark.parametrize("permission", NEEDED, ids=" on ".join)
def test_each_permission_is_needed(permitted: DeployedRelay, permission: Permission) -> None:
    """The role would allow what the relay never does, or the relay would miss a permission without a word."""
    act, sign = NEEDED[permission]
    assert act(permitted) == set(), "with all permissions, nothing fails"
    with without(permitted, permission):
        assert act(permitted) == {sign}


def test_what_the_emulator_does_not_ask_for(permitted: DeployedRelay) -> None:
    """A permission would count as one that can't be shown to be needed, though it can."""
    one = result()
    permitted.endpoint.issue(one["uuid"])
    with without(permitted, *NOT_ASKED_FOR):
        assert begin(permitted) == set()
        permitted.deployment.sqs.purge_queue(QueueUrl=permitted.deployment.outputs["ResultQueueUrl"])
        permitted.poll(on=True)
        permitted.send(one)
        assert permitted.accepted(one) == pairs(one)
        permitted.settled()
        permitted.poll(on=False)


def role(relay: DeployedRelay) -> dict[str, Any]:
    """Return the policy of the deployed function's role, as the template has it."""
    iam = relay.deployment.stack.client("iam")
    assert set(iam.list_role_policies(RoleName=relay.deployment.role)["PolicyNames"]) == {"relay", "emulator-only"}
    document: dict[str, Any] = iam.get_role_policy(RoleName=relay.deployment.role, PolicyName="relay")["PolicyDocument"]
    return document


def split(relay: DeployedRelay, statement: dict[str, Any]) -> Iterator[Permission]:
    """Yield what a statement allows, one action on one resource at a time."""
    assert statement["Effect"] == "Allow"
    for action in listed(statement["Action"]):
        for resource in listed(statement["Resource"]):
            yield action, name_of(relay, resource)


@contextlib.contextmanager
def without(relay: DeployedRelay, *permissions: Permission) -> Iterator[None]:
    """Take permissions away for the length of a block, and what stands for them in the emulator."""
    before = role(relay)
    left = [
        {**one, "Action": action, "Resource": resource}
        for one in before["Statement"]
        for action in listed(one["Action"])
        for resource in listed(one["Resource"])
        if (action, name_of(relay, resource)) not in permissions
    ]
    put(relay, {**before, "Statement": left})
    try:
        yield
    finally:
        put(relay, before)


def put(relay: DeployedRelay, document: dict[str, Any]) -> None:
    """Give the role this policy."""
    relay.deployment.stack.client("iam").put_role_policy(
        RoleName=relay.deployment.role, PolicyName="relay", PolicyDocument=json.dumps(document)
    )
    relay.deployment.add_batch_twins()


def listed(value: str | list[str]) -> list[str]:
    """Return what a policy gives as one or as many, as many."""
    return value if isinstance(value, list) else [value]


def name_of(relay: DeployedRelay, arn: str) -> str:
    """Return what an ARN of the relay's is called here; any other is itself."""
    outputs = relay.deployment.outputs
    names = {
        outputs["ResultQueueArn"]: "result queue",
        outputs["ParkedQueueArn"]: "parked queue",
        outputs["DeadLetterQueueArn"]: "dead-letter queue",
        outputs["CredentialsSecretArn"]: "secret",
    }
    ends = {
        f":table/{outputs['LedgerTableName']}": "ledger",
        f":log-group:{outputs['LogGroupName']}:*": "log group",
        ":key/0b5d4a9e-7d2c-4c5e-9d0f-5b1f0a3c6e11": "key",
    }
    return names.get(arn) or next((name for end, name in ends.items() if arn.endswith(end)), arn)


def failing(relay: DeployedRelay) -> dict[str, str]:
    """Return a result that the endpoint knows, and fails on once."""
    one = result()
    relay.endpoint.issue(one["uuid"])
    relay.endpoint.misbehave(one["uuid"], error(500))
    return one


def batch(relay: DeployedRelay, body: dict[str, str]) -> dict[str, Any]:
    """Put a body on the result queue and take it from there, as Lambda's poller does."""
    (message_id,) = relay.send(body)
    taken: list[dict[str, Any]] = []

    def there() -> bool:
        messages = relay.deployment.sqs.receive_message(
            QueueUrl=relay.deployment.outputs["ResultQueueUrl"], MaxNumberOfMessages=10, AttributeNames=["All"]
        ).get("Messages", [])
        taken.extend(message for message in messages if message["MessageId"] == message_id)
        return bool(taken)

    wait_for(there, "the message")
    (message,) = taken
    names = {"messageId": "MessageId", "receiptHandle": "ReceiptHandle", "body": "Body", "attributes": "Attributes"}
    return {"Records": [{"eventSource": "aws:sqs", **{ours: message[theirs] for ours, theirs in names.items()}}]}


def signs(relay: DeployedRelay, event: dict[str, Any]) -> Signs:
    """Invoke the function; return what it fails at, by its log."""

    def ends() -> list[int]:
        return [at for at, line in enumerate(relay.deployment.log(), start=1) if line.get("message") == "batch.settled"]

    before = ends()
    relay.deployment.invoke(event)
    wait_for(lambda: len(ends()) > len(before), "the end of the batch in the log")
    seen = set()
    for line in relay.deployment.log()[max(before, default=0) :]:
        if line["message"] in ("settle.failed", "ledger.failed"):
            what, _, code = str(line["detail"]).partition(": ")
            assert "AccessDenied" in code
            seen.add(f"{line['message']} {what}")
        elif line.get("reason") == "credentials_unavailable":
            assert "AccessDenied" in str(line["detail"])
            seen.add(f"{line['message']} {line['reason']}")
    return seen
