"""Mistakes of operators and of their machines end in one sentence."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from local.emulator.emulator import Emulator
from tests.support.deployed import DeployedRelay, wait_for
from tests.support.operator import Operator, ended


def said(ending: Any, status: int) -> str:
    """Return the one line that a failed command has printed."""
    assert ending.status == status, ending
    assert ending.out == ""
    assert ending.err.count("\n") == 1, ending.err
    assert "Traceback" not in ending.err
    return str(ending.err)


@pytest.mark.usefixtures("relay")
def test_an_unknown_stack_is_named(operator: Operator) -> None:
    """An operator who mistypes a stack would not see the mistake, or the command would differ as a program."""
    with operator.start("--stack", "no-such-stack", "parked", "list") as process:
        sentence = said(ended(process), 2)
    assert sentence.startswith("There is no stack 'no-such-stack' in eu-central-1: name another --stack")


def test_a_stack_of_another_application_is_refused(relay: DeployedRelay, operator: Operator) -> None:
    """An operator who names another application's stack would get a traceback."""
    cloudformation, name = relay.deployment.emulator.client("cloudformation"), f"other-{uuid4().hex[:8]}"
    template = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps(template))

    def there() -> bool:
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        return bool(stack["StackStatus"] == "CREATE_COMPLETE")

    wait_for(there, "the other stack")
    try:
        assert "is it a relay stack" in said(operator("--stack", name, "parked", "list"), 2)
    finally:
        cloudformation.delete_stack(StackName=name)


@pytest.mark.usefixtures("relay")
def test_a_region_can_be_named(operator: Operator) -> None:
    """An operator could not reach a stack in another region."""
    nowhere = {"AWS_REGION": None, "AWS_DEFAULT_REGION": None}
    asked = ("--region", "eu-central-1", "--stack", "relay", "parked", "list")
    assert operator(*asked, environment=nowhere).status == 0
    elsewhere = said(operator("--region", "eu-west-1", "--stack", "relay", "parked", "list"), 2)
    assert "in eu-west-1" in elsewhere


def iam_user(emulator: Emulator, *actions: str) -> dict[str, str]:
    """Create a user with these permissions; return the environment with its keys."""
    iam, name = emulator.client("iam"), f"operator-{uuid4().hex}"
    iam.create_user(UserName=name)
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    iam.put_user_policy(UserName=name, PolicyName="narrow", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def test_missing_permissions_are_named(emulator: Emulator, swept: DeployedRelay, operator: Operator) -> None:
    """An operator without a permission could not tell an administrator what to allow."""
    swept.put("ParkedQueueUrl", ('{"uuid": "one", "status": "Success"}', {"reason": "rejected"}))
    keys = iam_user(emulator, "cloudformation:DescribeStacks")
    for command, call in (
        (("parked", "list"), "ReceiveMessage"),
        (("parked", "replay", "--yes"), "ReceiveMessage"),
        (("send", "--uuid", "one", "--status", "Success"), "SendMessageBatch"),
        (("account", "--file", "none"), "GetQueueAttributes"),
        (("pause",), "GetEventSourceMapping"),
        (("story", "one"), "StartQuery"),
        (("forget", "--uuid", "one"), "BatchGetItem"),
        (("watch", "--count", "1"), "StartQuery"),
    ):
        refused = operator("--stack", "relay", *command, environment=keys)
        assert (refused.status, refused.out) == (2, "")
        assert f"Not allowed to call {call}: ask for the permissions" in refused.err.splitlines()[-1]
        assert "Traceback" not in refused.err
    looking = {"sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:ChangeMessageVisibility"}
    keys = iam_user(emulator, "cloudformation:DescribeStacks", "sqs:ChangeMessageVisibilityBatch", *looking)
    refused = operator("--stack", "relay", "parked", "replay", "--yes", environment=keys)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "Not allowed to call SendMessageBatch" in refused.err
    assert swept.visible("ParkedQueueUrl") == 1, "the message is still on the queue, and visible"


def test_a_check_without_permission_is_a_note(emulator: Emulator, relay: DeployedRelay, operator: Operator) -> None:
    """`doctor` would fail for an operator with fewer permissions."""
    relay.settled()
    keys = iam_user(emulator, "cloudformation:DescribeStacks", "sqs:GetQueueAttributes")
    found = operator("--stack", relay.deployment.name, "doctor", "--probe", environment=keys)
    assert (found.status, found.err) == (0, "")
    assert "note   credentials: not checked: Not allowed to call GetSecretValue" in found.out
    assert "ok     result queue: empty" in found.out
    assert "note   probe: not checked: Not allowed to call Invoke" in found.out
    keys = iam_user(emulator, "cloudformation:DescribeStacks", "lambda:InvokeFunction")
    found = operator("--stack", relay.deployment.name, "doctor", "--probe", environment=keys)
    assert "ok     probe: " in found.out


def test_an_untrusted_certificate_is_reported(operator: Operator) -> None:
    """An operator behind a company proxy would get a traceback."""
    asked = operator("--stack", "relay", "parked", "list", environment={"AWS_CA_BUNDLE": None})
    assert "AWS_CA_BUNDLE" in said(asked, 2)


def test_commands_on_empty_queues_succeed(swept: DeployedRelay, operator: Operator, tmp_path: Path) -> None:
    """A script would fail on an empty queue."""
    assert swept.deployment.depth("ParkedQueueUrl") == 0
    file = tmp_path / "discarded.jsonl"
    for words in (("list",), ("replay", "--yes"), ("discard", "--yes", "--to", str(file))):
        nothing = operator("--stack", "relay", "parked", *words)
        assert (nothing.status, nothing.err) == (0, "")
        assert nothing.out == "No visible messages on the parked queue of relay (eu-central-1).\n"
    assert not file.exists()
    as_json = operator("--stack", "relay", "dead", "list", "--json")
    assert (as_json.status, as_json.out, as_json.err) == (0, "", "")
