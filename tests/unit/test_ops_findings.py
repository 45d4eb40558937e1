"""`doctor` and `pause` on replies that only AWS gives, and the check of certificates."""

import io
import json
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import trustme
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from flash_call_relay.connections import tls_context
from ops import pause
from ops.stack import Stack
from tests.support.aws import FakeStack, counts
from tests.support.operator import run

NESTED, TOPIC, ALARM = "AWS::CloudFormation::Stack", "AWS::SNS::Topic", "AWS::CloudWatch::Alarm"
PATIENCE_S = 60  # only a failing test waits this long
KEY = "arn:aws:kms:eu-central-1:123456789012:key/0b5d4a9e"
OTHER_KEY = "arn:aws:kms:eu-central-1:123456789012:key/7c1e2f3a"


def finding(stack: Stack, check: str) -> tuple[str, str, str]:
    """Return the level, the description and the next step that `doctor --probe` prints for a check."""
    lines = run(stack, "doctor", "--probe").out.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line[7:].startswith(f"{check}: ")]
    level, says = lines[number].split(maxsplit=1)
    following = lines[number + 1].split("-> ") if number + 1 < len(lines) else [""]
    return level, says.removeprefix(f"{check}: "), following[1] if len(following) > 1 else ""


@pytest.mark.parametrize(
    ("maximum", "unreserved", "wanted"),
    [
        ("10", 1000, "ok"),
        ("10", 10, "ok"),
        ("10", 9, "note"),
        ("0", 1000, "ok"),
        ("0", 1, "note"),
        ("1000", 900, "note"),
    ],
)
def test_a_small_concurrency_quota_is_noted(maximum: str, unreserved: int, wanted: str) -> None:
    """An operator of a new account would not learn why Lambda throttles the relay."""
    limits = {"ConcurrentExecutions": 2000, "UnreservedConcurrentExecutions": unreserved}
    stack = FakeStack({"MaximumConcurrency": maximum}, get_account_settings={"AccountLimit": limits})
    level, says, next_step = finding(stack, "concurrency")
    assert level == wanted
    assert says.startswith(f"{unreserved:,} of the account's 2,000 concurrent executions are unreserved")
    assert ("MaximumConcurrency" in next_step) == (wanted == "note")


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({}, []),
        ({"RateLimitPerSecond": "0", "EventRoute": "function"}, []),
        ({"RateLimitPerSecond": "50"}, ["note   rate limit: 50 POSTs a second for each execution environment"]),
        (
            {"RateLimitPerSecond": "50", "MaximumConcurrency": "5"},
            ["ok     rate limit: 50 POSTs a second, shared by 5"],
        ),
        (
            {"RateLimitPerSecond": "50", "MaximumConcurrency": "5", "EventRoute": "function"},
            ["ok     rate limit: 50 POSTs a second, shared by 5", "note   rate limit: events that go straight to the"],
        ),
    ],
)
def test_a_rate_limit_that_can_be_exceeded_is_noted(parameters: dict[str, str], wanted: list[str]) -> None:
    """An operator would believe that BetaTel never gets more than the limit."""
    found = [line for line in run(FakeStack(parameters), "doctor").out.splitlines() if " rate limit: " in line]
    assert len(found) == len(wanted)
    assert all(line.startswith(start) for line, start in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("reason", "wanted", "start"),
    [
        ("User action", "note", "the relay is paused"),
        ("USER_INITIATED", "note", "the relay is paused"),
        ("Lambda internal error", "WRONG", "AWS has disabled the event source mapping (Lambda internal error)"),
        (None, "WRONG", "AWS has disabled the event source mapping (no reason given)"),
    ],
)
def test_a_pause_is_a_note_and_a_mapping_disabled_by_aws_is_wrong(reason: str | None, wanted: str, start: str) -> None:
    """`doctor` would report a pause as a failure, or a failure as a pause."""
    mapping = {"State": "Disabled", "StateTransitionReason": reason}
    level, says, next_step = finding(FakeStack(get_event_source_mapping=mapping), "intake")
    assert (level, next_step) == (wanted, "flash-call-relay --stack a-stack resume")
    assert says.startswith(start)


@pytest.mark.parametrize("busy", ["ResourceInUseException", "ResourceConflictException"])
def test_a_pause_waits_for_another_change_of_the_mapping(monkeypatch: pytest.MonkeyPatch, busy: str) -> None:
    """A pause during a deployment would end with an error of AWS, and the relay would continue."""
    monkeypatch.setattr(pause, "POLL_S", 0)
    exceptions = {
        name: type(name, (Exception,), {}) for name in ("ResourceInUseException", "ResourceConflictException")
    }
    states, refusals = iter(["Updating", "Enabled", "Enabled", "Disabled"]), iter([exceptions[busy], None])

    def update(**_: object) -> None:
        if refusal := next(refusals):
            raise refusal

    stack = FakeStack(
        {"RetryHorizonSeconds": "86400"},
        get_event_source_mapping=lambda **_: {"State": next(states)},
        update_event_source_mapping=update,
        exceptions=SimpleNamespace(**exceptions),
        get_queue_attributes=counts(visible=3),
    )
    assert run(stack, "pause").out.startswith("a-stack is paused; 3 results waiting.")
    assert next(states, None) is None


@pytest.mark.parametrize(("hidden", "wanted"), [(99_999, "ok"), (100_000, "note")])
def test_a_result_queue_near_the_in_flight_limit_is_noted(hidden: int, wanted: str) -> None:
    """An operator would not learn that SQS's limit holds new results back."""
    level, says, _ = finding(FakeStack(get_queue_attributes=counts(hidden=hidden)), "result queue")
    assert level == wanted
    assert ("120,000" in says) == (wanted == "note")


@pytest.mark.parametrize(
    "parameters",
    [
        {"CredentialsSecretArn": "a-secret", "CredentialsKmsKeyArn": KEY, "KmsKeyArn": OTHER_KEY},
        {"CredentialsSecretArn": "", "CredentialsKmsKeyArn": "", "KmsKeyArn": KEY},
    ],
    ids=["a given secret", "the stack's secret"],
)
def test_a_refused_secret_with_its_own_key_names_both_permissions(parameters: dict[str, str]) -> None:
    """An operator with access to the secret, and not to its key, would not know which permission to ask for."""
    level, _, next_step = finding(FakeStack(parameters), "credentials")
    assert level == "note"
    assert f"kms:Decrypt with {KEY}" in next_step


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
@pytest.mark.parametrize(("user_id", "wanted"), [("u", "ok"), (7, "WRONG")])
def test_a_secret_is_read_as_by_the_function(encoding: str, user_id: object, wanted: str) -> None:
    """`doctor` would refuse a secret that the function reads, or have the operator upload the same file again."""
    secret = json.dumps({"api_key": "k", "user_id": user_id}).encode(encoding)
    replies: list[dict[str, str | bytes]] = [{"SecretBinary": secret}]
    if encoding.startswith("utf-8"):
        replies.append({"SecretString": secret.decode()})
    for reply in replies:
        level, says, next_step = finding(FakeStack(get_secret_value=reply), "credentials")
        assert (level, "user_id" in says) == (wanted, True)
        assert next_step.endswith("--secret-string file:///dev/stdin") == (wanted == "WRONG")


def test_a_probe_without_permission_is_a_note() -> None:
    """`doctor --probe` would fail for an operator who may only read, or would not name the permission."""
    level, says, next_step = finding(FakeStack(), "probe")
    assert (level, next_step) == ("note", "you need lambda:InvokeFunction on FunctionArn")
    assert says.startswith("not checked: ")


@pytest.mark.parametrize(
    ("error", "says", "step"),
    [
        ({"errorType": "UnsupportedEventError"}, "the function is older than this command", "deploy the stack again"),
        ({"errorType": "SettingsError", "errorMessage": "text"}, "the function failed: SettingsError", "runbook.md#"),
        ({"errorMessage": "Task timed out after 60.00 seconds"}, "the function failed: Task timed out", "runbook.md#"),
    ],
)
def test_a_probe_that_the_function_fails_on_is_wrong(error: dict[str, str], says: str, step: str) -> None:
    """An operator would read a traceback, or blame the endpoint for a fault of the function."""
    reply = {"FunctionError": "Unhandled", "Payload": io.BytesIO(json.dumps(error).encode())}
    level, found, next_step = finding(FakeStack(invoke=reply), "probe")
    assert (level, found.startswith(says), step in next_step) == ("WRONG", True, True)


def test_a_probe_that_lambda_throttles_is_wrong() -> None:
    """A throttled probe would look like a fault of the endpoint, or of the operator's permissions."""
    throttled = ClientError({"Error": {"Code": "TooManyRequestsException", "Message": "no"}}, "Invoke")
    level, says, _ = finding(FakeStack(invoke=throttled), "probe")
    assert (level, says.startswith("not checked: AWS throttles Invoke")) == ("WRONG", True)


@pytest.mark.parametrize(
    ("answer", "wanted", "part"),
    [
        ({"http_status": 404, "is_json_object": False, "message": ""}, "WRONG", "the API is not at this path"),
        ({"http_status": 401, "is_json_object": False, "message": ""}, "WRONG", "refuses the credentials (HTTP 401)"),
        ({"http_status": 403, "is_json_object": True, "message": "no"}, "WRONG", "refuses the credentials (HTTP 403:"),
        (
            {"http_status": 403, "is_json_object": False, "message": "no"},
            "WRONG",
            "something in front of the API refuse",
        ),
        ({"http_status": 429, "is_json_object": True, "message": ""}, "WRONG", "asks for a lower rate (HTTP 429)"),
        ({"http_status": 200, "is_json_object": True, "message": ""}, "note", "the endpoint answered HTTP 200 (a JSON"),
        (
            {"http_status": 200, "is_json_object": False, "message": ""},
            "WRONG",
            "answered HTTP 200 (not a JSON object)",
        ),
        (
            {"http_status": 503, "is_json_object": False, "message": ""},
            "WRONG",
            "answered HTTP 503 (not a JSON object)",
        ),
        ({"reason": "timeout", "detail": "late"}, "WRONG", "the function got no answer: timeout, late"),
        ({"reason": "out_of_time", "detail": "short"}, "WRONG", "the function sent no POST: out_of_time, short"),
    ],
)
def test_an_answer_to_a_probe_is_judged(answer: dict[str, object], wanted: str, part: str) -> None:
    """A page of a proxy, refused credentials or a closed route would pass for a good endpoint."""
    reply = {"Payload": io.BytesIO(json.dumps(answer).encode())}
    level, says, next_step = finding(FakeStack(invoke=reply), "probe")
    assert (level, part in says) == (wanted, True)
    assert ("docs/integrating.md#check-the-functions-routes" in next_step) == ("timeout" in says)


def test_the_step_for_a_short_time_out_names_the_function() -> None:
    """An operator at night would paste a command that the AWS CLI refuses."""
    reply = {"Payload": io.BytesIO(json.dumps({"reason": "out_of_time", "detail": "short"}).encode())}
    stack = FakeStack(invoke=reply)
    _, _, next_step = finding(stack, "probe")
    assert f"--function-name {stack.output('FunctionArn')} " in next_step


def test_any_2xx_to_a_probe_is_no_fault_if_it_confirms() -> None:
    """`doctor` would call an endpoint wrong whose empty replies confirm results."""
    answer = {"http_status": 204, "is_json_object": False, "message": ""}
    reply = {"Payload": io.BytesIO(json.dumps(answer).encode())}
    assert finding(FakeStack({"Confirmation": "http-status"}, invoke=reply), "probe")[0] == "note"


def test_the_deferred_results_have_the_time_and_the_story_of_the_latest() -> None:
    """After `doctor --probe` an operator would not know whether the fault is over, or which result to look at."""
    now = datetime.now(UTC)
    lines = [
        {"uuid": uuid, "reason": reason, "timestamp": (now - timedelta(seconds=age_s)).isoformat(), **attempt}
        for uuid, reason, age_s, attempt in (
            ("a", "throttled", 400, {"duration_ms": 1.5}),
            ("b c", "throttled", 300, {"duration_ms": 1.5}),
            ("d", "throttled", 185, {}),
            ("e", "endpoint_failing", 184, {}),
        )
    ]
    events = [{"message": json.dumps({"message": "result.deferred", **line})} for line in lines]
    level, says, next_step = finding(FakeStack(filter_log_events={"events": events}), "deferred")
    assert (level, next_step) == ("note", "flash-call-relay --stack a-stack story 'b c'")
    assert says == "in the last 15 minutes: throttled 3, endpoint_failing 1; the latest 3 min ago"


def test_variables_that_the_key_hides_are_a_note() -> None:
    """An operator without the key would see a traceback instead of the other checks."""
    error = {"ErrorCode": "AccessDeniedException", "Message": "Lambda was unable to decrypt"}
    stack = FakeStack({"KmsKeyArn": KEY}, get_function_configuration={"Environment": {"Error": error}})
    level, says, _ = finding(stack, "webhook")
    assert level == "note"
    assert f"you need kms:Decrypt with {KEY}" in says


@pytest.mark.parametrize(
    ("reply", "wanted", "part"),
    [
        ({}, "ok", "the bus acme exists"),
        (ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "DescribeEventBus"), "WRONG", "no bus acme"),
        (ClientError({"Error": {"Code": "AccessDeniedException"}}, "DescribeEventBus"), "note", "not checked"),
    ],
)
def test_a_missing_outcome_bus_is_wrong(reply: object, wanted: str, part: str) -> None:
    """EventBridge would drop all events, answer that it took them, and nobody would know."""
    level, says, _ = finding(FakeStack({"OutcomeBusName": "acme"}, describe_event_bus=reply), "outcome bus")
    assert level == wanted
    assert part in says


def listing(*kinds: str, status: str = "CREATE_COMPLETE", unmade: str = "") -> SimpleNamespace:
    """Return a paginator of `list_stack_resources`: every stack has a resource of each kind, and one without an id."""
    resources = [{"ResourceType": kind, "ResourceStatus": status, "PhysicalResourceId": f"a {kind}"} for kind in kinds]
    if unmade:
        resources.append({"ResourceType": unmade, "ResourceStatus": "CREATE_IN_PROGRESS"})
    return SimpleNamespace(paginate=lambda **_: [{"StackResourceSummaries": resources}])


@pytest.mark.parametrize(
    ("arns", "wanted"),
    [
        ([], True),
        (["PendingConfirmation"], True),
        (["Deleted", "arn:aws:sns:eu-central-1:123456789012:alarms:2bcf"], False),
    ],
    ids=["deleted after two days", "pending", "confirmed"],
)
def test_an_address_that_has_not_confirmed_is_wrong(arns: list[str], wanted: bool) -> None:  # noqa: FBT001
    """All alarms would be silent, and `doctor` would call them good."""
    stack = FakeStack(
        {"AlarmEmail": "oncall@example.com"},
        get_paginator=lambda: listing(NESTED, ALARM, TOPIC),
        describe_alarms={"MetricAlarms": [{"AlarmName": "one", "StateValue": "OK", "AlarmActions": ["a topic"]}]},
        list_subscriptions_by_topic={"Subscriptions": [{"SubscriptionArn": arn} for arn in arns]},
    )
    says = run(stack, "doctor").out
    assert "ok     alarms: none of 1 in ALARM" in says
    assert ("WRONG  alarms: oncall@example.com receives none" in says) is wanted


@pytest.mark.parametrize("unmade", ["", TOPIC], ids=["before", "begun"])
def test_a_topic_that_cloudformation_has_not_made_yet_is_not_checked(unmade: str) -> None:
    """`doctor` would crash during the deployment that adds AlarmEmail, and print none of the later checks."""
    stack = FakeStack(
        {"AlarmEmail": "oncall@example.com"},
        get_paginator=lambda: listing(NESTED, ALARM, unmade=unmade),
        describe_alarms={"MetricAlarms": [{"AlarmName": "one", "StateValue": "OK"}]},
    )
    assert "note   alarms: the alarms notify nobody" in run(stack, "doctor").out


def test_the_alarms_of_a_deleted_monitoring_stack_are_not_checked() -> None:
    """After Monitoring=false, `doctor` would say that none of 0 alarms rings."""
    resources = listing(NESTED, ALARM, status="DELETE_COMPLETE")
    stack = FakeStack(get_paginator=lambda: resources, describe_alarms={"MetricAlarms": []})
    assert finding(stack, "alarms")[:2] == ("note", "the stack has none (Monitoring is false)")


def lax_certificate() -> tuple[ssl.SSLContext, bytes]:
    """Return a server's certificate without an authority key identifier, and its authority."""
    root = trustme.CA()
    issuer = x509.load_pem_x509_certificate(root.cert_pem.bytes())
    leaf = x509.load_pem_x509_certificate(root.issue_cert("127.0.0.1").cert_chain_pems[0].bytes())
    server = trustme.CA()  # has another key
    issuer_key, key = (load_pem_private_key(one.private_key_pem.bytes(), None) for one in (root, server))
    assert isinstance(issuer_key, EllipticCurvePrivateKey)
    assert isinstance(key, EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder(
        issuer.subject, leaf.subject, key.public_key(), 7, leaf.not_valid_before_utc, leaf.not_valid_after_utc
    )
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    certificate = builder.add_extension(names.value, critical=False).sign(issuer_key, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pems = trustme.LeafCert(server.private_key_pem.bytes(), certificate.public_bytes(Encoding.PEM), [])
    pems.configure_cert(context)
    return context, root.cert_pem.bytes()


@pytest.mark.parametrize("strict", [False, True])
def test_a_certificate_is_checked_as_strictly_as_by_the_function(strict: bool) -> None:  # noqa: FBT001
    """`doctor` on an older Python would accept a certificate that the function refuses."""
    context, authority = lax_certificate()
    trusting = tls_context() if strict else ssl.create_default_context()
    if not strict:
        trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
    trusting.load_verify_locations(cadata=authority.decode())
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as server:
        listener.settimeout(PATIENCE_S)

        def serve() -> None:
            one = listener.accept()[0]
            with one, suppress(OSError):  # the client refuses the certificate
                one.settimeout(PATIENCE_S)
                context.wrap_socket(one, server_side=True).close()

        served = server.submit(serve)
        with socket.create_connection(listener.getsockname(), PATIENCE_S) as connection:
            if strict:
                with pytest.raises(ssl.SSLCertVerificationError, match="Authority Key Identifier"):
                    trusting.wrap_socket(connection, server_hostname="127.0.0.1")
            else:
                trusting.wrap_socket(connection, server_hostname="127.0.0.1").close()
        served.result()
