"""`doctor` and `pause` on replies that only AWS gives."""

import io
import json
import re
import time
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local import ROOT
from ops import cli, pause
from ops.stack import Stack
from tests.support.aws import Aws, FakeStack, busy_stack, counts, line, log
from tests.support.operator import run, terminal
from tests.support.template import environment

FILL = (
    "(trap 'stty echo' EXIT INT; stty -echo; aws secretsmanager put-secret-value --secret-id CredentialsSecretArn "
    "--region eu-central-1 --secret-string file:///dev/stdin)"
)
ERRORS = "docs/runbook.md#function-errors"
EMPTY = Aws.exceptions.ResourceNotFoundException({"Error": {"Code": "ResourceNotFoundException"}}, "GetSecretValue")
LATE = {"reason": "timeout", "detail": "late"}
HTTP_STATUS = {"Confirmation": "http-status"}
NEXT = "unless it is paused, the relay tries waiting results within 2 minutes, those older than an hour within 20"
RESUME = "flash-call-relay --stack a-stack resume"
TAKES = "the rule takes events of source acme.verification, detail-type Flash Call Result, on bus a-bus, and sends"
NO_SECRET = {"reason": "credentials_unavailable", "detail": "x"}
PAUSED_AT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def findings(stack: Stack, check: str) -> list[tuple[str, str, str]]:
    """Return the level, the description and the next step of each finding of a check of `doctor --probe`."""
    lines = [json.loads(line) for line in run(stack, "doctor", "--probe", "--json").out.splitlines()]
    return [(one["level"], one["message"], one["next_step"] or "") for one in lines if one["check"] == check]


def finding(stack: Stack, check: str) -> tuple[str, str, str]:
    """Return the one finding of a check."""
    (one,) = findings(stack, check)
    return one


def test_a_check_without_permission_is_a_note() -> None:
    """`doctor` would fail for an operator with fewer permissions, or not say which they are."""
    ended = run(FakeStack(), "doctor", "--probe")
    (_, *others), said = ended.out.splitlines(), "Not allowed to call AnyCall: ask for the permissions"
    assert ended.status == 0
    assert len(others) == 11
    assert all(re.match(rf"note   [a-z -]+: not checked: {said}", line) for line in others)


def function(concurrency: int = 5, route: str = "queue", settings: Mapping[str, str] = {}, **facts: str) -> FakeStack:
    """Return a stack whose function is so."""
    reserved = {"ReservedConcurrentExecutions": concurrency}
    said = {"Environment": {"Variables": {**environment(), **settings}}, **facts}
    return FakeStack({"EventRoute": route}, get_function_configuration=said, get_function_concurrency=reserved)


def mapping(state: str, reason: str | None = None, **more: Any) -> FakeStack:
    """Return a stack whose event source mapping is so."""
    facts = {"State": state, "StateTransitionReason": reason, "LastModified": PAUSED_AT}
    return FakeStack(get_event_source_mapping=facts, **more)


def rule(target: str, state: str = "ENABLED", route: str = "queue", **more: Any) -> FakeStack:
    """Return a stack whose rule is so, with messages on its queues."""
    pattern = json.dumps({"source": ["acme.verification"], "detail-type": ["Flash Call Result"]})
    stack = busy_stack(
        describe_stack_resource={"StackResourceDetail": {"PhysicalResourceId": "a-bus|a-rule"}},
        describe_rule={"State": state, "EventPattern": pattern},
        list_targets_by_rule={"Targets": [{"Arn": target}]},
        **more,
    )
    stack.parameters["EventRoute"] = route
    return stack


def secret(content: bytes) -> FakeStack:
    """Return a stack with a secret."""
    return FakeStack(get_secret_value={"SecretBinary": content})


def probe(said: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the answer of Lambda with what the function says."""
    return {"invoke": {"Payload": io.BytesIO(json.dumps(said).encode()), **more}}


def failed(**error: str) -> FakeStack:
    """Return a stack whose function fails."""
    return FakeStack(**probe(error, FunctionError="Unhandled"))


def api(status: int, message: str = "", *, is_object: bool = True) -> dict[str, Any]:
    """Return the function's report of an answer of the endpoint."""
    return probe({"http_status": status, "is_json_object": is_object, "message": message})


page = partial(api, is_object=False)  # of a proxy


@pytest.mark.parametrize(
    ("check", "stack", "level", "says", "step"),
    [
        ("function", function(State="Active", MemorySize="512"), "ok", "FunctionName is Active, None, 512 MB", ""),
        ("function", function(State="Pending"), "note", "is Pending, its last update Successful (no r", "deploy"),
        ("function", function(LastUpdateStatus="Failed"), "wrong", "is Active, its last update Failed (", "deploy"),
        ("function", function(0), "wrong", "concurrency of 0", "aws lambda delete-function-concurrency"),
        # A pause is no failure, and a failure is no pause. Lambda has two words for a pause.
        ("intake", mapping("Enabled"), "ok", "the event source mapping is Enabled (nothing processed yet)", ""),
        ("intake", mapping("Enabling"), "note", "the event source mapping is Enabling", "again in a minute"),
        ("intake", mapping("Disabled", "User action"), "note", "is paused since 2026-11-24T12:00:00Z", RESUME),
        ("intake", mapping("Disabled", "USER_INITIATED"), "note", "is paused since 2026-11-24T12:00", RESUME),
        ("intake", mapping("Disabled", "Lambda error"), "wrong", "disabled the event source mapping (L", RESUME),
        ("intake", mapping("Disabled"), "wrong", "mapping (no reason given) since 2026-11-24T12:00:00Z", RESUME),
        # An event of another source or detail-type vanishes.
        ("events", rule("ResultQueueArn"), "ok", TAKES, ""),
        ("events", FakeStack({"EventRoute": "none"}), "ok", "EventRoute is none: there is no rule", ""),
        ("events", rule("ResultQueueArn", "DISABLED"), "wrong", "a-rule", "aws events enable-rule --name a-rule"),
        ("events", rule("another"), "wrong", "the rule a-rule sends events to another", "deploy with another"),
        ("events", rule("FunctionArn", route="function"), "ok", "sends them to the function", ""),
        ("events", rule("ResultQueueArn", route="function"), "note", "because of `pause`", RESUME),
        ("credentials", secret(b'{"api_key": "k", "user_id": "u"}'), "ok", "the secret holds api_key and user_id", ""),
        ("credentials", secret(b'{"api_key": "hunter2", "user_id": 7}'), "wrong", "user_id", FILL),
        ("credentials", FakeStack(get_secret_value=EMPTY), "wrong", "the secret is empty or does not exist", FILL),
        # A traceback of the function could quote a secret.
        ("probe", failed(errorType="SettingsError", errorMessage="no URL"), "wrong", "SettingsError: no URL", ERRORS),
        ("probe", failed(errorType="KeyError", errorMessage="hunter2"), "wrong", "failed: KeyError", ERRORS),
        ("probe", failed(errorMessage="Task timed out"), "wrong", "the function failed: Task timed out", ERRORS),
        # A page of a proxy, refused credentials or a closed route would pass for a good endpoint.
        ("probe", FakeStack(**api(404)), "ok", "route, path and credentials of the function are good", NEXT),
        ("probe", FakeStack(**page(404)), "wrong", "the API is not at this path", "WebhookUrl"),
        ("probe", FakeStack(**page(401)), "wrong", "refuses the credentials (HTTP 401)", FILL),
        ("probe", FakeStack(**api(403, "no")), "wrong", "refuses the credentials (HTTP 403: no)", FILL),
        ("probe", FakeStack(**page(403, "no")), "wrong", "something in front of the API refuse", "own proxy"),
        ("probe", FakeStack(**api(429)), "wrong", "asks for a lower rate (HTTP 429)", "#throttled"),
        ("probe", FakeStack(**api(200)), "note", "otherwise (HTTP 200 and a JSON object)", ""),
        ("probe", FakeStack(**page(200)), "wrong", "otherwise (HTTP 200 and no JSON object)", "#replies-doubtful"),
        ("probe", FakeStack(HTTP_STATUS, **page(204)), "note", "otherwise (HTTP 204 and no JSON object)", ""),
        ("probe", FakeStack(**page(503)), "wrong", "otherwise (HTTP 503 and no JSON object)", "tell BetaTel"),
        ("probe", FakeStack(**probe(LATE)), "wrong", "no answer to the function: timeout, late", "#check-the-func"),
        ("probe", FakeStack(**probe(NO_SECRET)), "wrong", "credentials_unavailable, x", "role may read it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_check_finds(check: str, stack: FakeStack, level: str, says: str, step: str) -> None:
    """An operator would search for a failure for hours, or set right what is not wrong."""
    found = finding(stack, check)
    assert (found[0], says in found[1], step in found[2], bool(step)) == (level, True, True, bool(found[2])), found
    assert "hunter2" not in found[1]


def test_variables_that_the_operator_may_not_read_end_no_check() -> None:
    """With a key of its own, `doctor` would stop in the middle for an operator who may not use that key."""
    stack = function()
    stack.aws.replies["get_function_configuration"]["Environment"] = {"Error": {"ErrorCode": "AccessDeniedException"}}
    assert [level for level, *_ in findings(stack, "function")] == ["ok"]
    assert findings(stack, "probe")


LIMIT = {"RATE_LIMIT_PER_SECOND": "50"}
SAMCONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
OVERRIDES = SAMCONFIG["default"]["deploy"]["parameters"]["parameter_overrides"]


@pytest.mark.parametrize(
    ("settings", "route", "says"),
    [
        (LIMIT | {"MAXIMUM_CONCURRENCY": "0"}, "queue", ["RateLimitPerSecond holds for each execution environment"]),
        (LIMIT, "function", ["nothing limits how many there are"]),
        (LIMIT, "queue", []),
        ({"MAXIMUM_CONCURRENCY": "0"}, "function", []),
        ({"RETRY_CAP_SECONDS": "60"}, "queue", ["SQS may dead-letter a result at the age of 3 h, before the retry"]),
        ({"WEBHOOK_URL": re.findall(r"WebhookUrl=(\S+)", OVERRIDES)[0]}, "queue", ["is the placeholder of samconfig"]),
        ({"WEBHOOK_URL": ""}, "queue", ["The function has a wrong setting: WEBHOOK_URL must be set. See docs/runbo"]),
    ],
)
def test_a_setting_with_a_consequence_is_named(settings: dict[str, str], route: str, says: list[str]) -> None:
    """BetaTel would get more than a limit, results be dead-lettered early, or nobody see that no host takes them."""
    _, *found = findings(function(route=route, settings=settings), "function")
    assert [part in one[1] for part, one in zip(says, found, strict=True)] == [True] * len(says)


@pytest.mark.parametrize("busy", ["ResourceInUseException", "ResourceConflictException"])
def test_a_pause_waits_for_another_change_of_the_mapping(monkeypatch: pytest.MonkeyPatch, busy: str) -> None:
    """A pause during a deployment would end with an error of AWS, and the relay would continue."""
    monkeypatch.setattr(pause, "POLL_S", 0)
    states, refusals = iter(["Updating", "Enabled", "Enabled", "Disabled"]), iter([busy, None, None])

    def update(**_: object) -> None:
        if refusal := next(refusals):
            raise ClientError({"Error": {"Code": refusal}}, "UpdateEventSourceMapping")

    stack = FakeStack(
        {"RetryHorizonSeconds": "86400"},
        get_event_source_mapping=lambda **_: {"State": next(states)},
        update_event_source_mapping=update,
        get_queue_attributes=counts(visible=3000),
    )
    assert run(stack, "pause").out.startswith("a-stack is paused; 3,000 results waiting.")
    assert next(states, None) is None


@pytest.mark.parametrize(
    ("lines", "level", "says"),
    [
        ("delivered 20", "ok", "none; delivered 1 [20 s]"),
        ("", "ok", "none; delivered none"),
        (
            "endpoint_error 35, timeout 30, timeout 20, endpoint_failing 9, endpoint_failing 5, endpoint_failing 1",
            *("note", "timeout 2 [20 s], endpoint_error 1 [35 s], endpoint_failing 3 [1 s]; delivered none"),
        ),
        (
            "credentials_rejected 690, credentials_rejected 680, endpoint_error 20, delivered 9",
            *("note", "endpoint_error 1 [20 s]; over: credentials_rejected 2 [11 min]; delivered 1 [9 s]"),
        ),
        (
            "endpoint_error 600, endpoint_failing 590, delivered 20, delivered 10",
            *("ok", "over: endpoint_error 1 [10 min], endpoint_failing 1 [9 min]; delivered 2 [10 s]"),
        ),
        (
            "unknown_call 9, unknown_call 8, endpoint_failing 7, endpoint_failing 6, timeout 1",
            *("note", "timeout 1 [1 s], unknown_call 2 [8 s], endpoint_failing 2 [6 s]; delivered none"),
        ),
        ("timeout 600", "note", "timeout 1 [10 min]; delivered none"),
        ("endpoint_failing 5", "note", "endpoint_failing 1 [5 s]; delivered none"),
    ],
)
def test_the_cause_of_deferrals_that_is_named_first_is_the_present_one(lines: str, level: str, says: str) -> None:
    """An operator would look for a cause that is over, or for one that is none, or not see that the rest goes well."""
    now, events = time.time(), []
    for word, age_s in (one.split() for one in lines.split(", ") if one):
        why = {} if word == "delivered" else {"reason": word}
        message = "result.deferred" if why else "result.delivered"
        events.append(line(now - int(age_s), message, uuid=f"{word} {age_s}", **why))
    found = finding(FakeStack(**log(*events)), "deferred")
    said = re.sub(r"\(the latest (.*?) ago\)", r"[\1]", found[1])
    assert (found[0], said) == (level, f"in the last 15 minutes: {says}")
    first = says.partition(" ")[0]
    assert found[2].startswith(f"flash-call-relay --stack a-stack story '{first} " if level == "note" else "")


def test_what_sqs_did_not_do_and_contradictions_have_a_line() -> None:
    """An operator would not see why a result comes back late, or that BetaTel has two statuses of a call."""
    failure, conflict = line(time.time(), "settle.failed"), line(time.time(), "ledger.conflict", uuid="a call")
    stack = FakeStack(**log(failure, failure, conflict))
    (level, says, _), (others, *_) = findings(stack, "deferred")
    assert (level, others) == ("note", "ok")
    assert says.startswith("SQS did not hide or park 2 messages (settle.failed, the latest 0 s ago)")
    level, says, step = finding(stack, "confirmed twice")
    assert (level, says) == (
        "note",
        f"both statuses of 1 call in the last 24 hours, the latest at {conflict['timestamp']}",
    )
    assert step == "docs/runbook.md#both-statuses-confirmed flash-call-relay --stack a-stack story 'a call'"


def alarms(actions: list[str], *subscriptions: str, state: str = "OK") -> FakeStack:
    """Return a stack with an alarm, an address and its subscriptions, beside a stack whose name begins alike."""
    facts = {"StateValue": state, "StateReason": "5 > 0", "AlarmActions": actions}
    mine = {"AlarmName": "a-stack-one", "AlarmDescription": "First: --stack a-stack doctor", **facts}
    other = {"AlarmName": "a-stack-2-one", "AlarmDescription": "First: --stack a-stack-2 doctor", "StateValue": "ALARM"}
    return FakeStack(
        {"AlarmEmail": "oncall@example.com", "AlarmTopicArn": "a company's topic"},
        get_paginator=lambda: SimpleNamespace(paginate=lambda **_: [{"MetricAlarms": [mine, other]}]),
        list_subscriptions_by_topic={"Subscriptions": [{"SubscriptionArn": arn} for arn in subscriptions]},
    )


@pytest.mark.parametrize(
    ("stack", "says"),
    [
        (alarms(["a topic"], "PendingConfirmation"), ["none of 1", "oncall@example.com has not confirmed"]),
        (alarms([]), ["none of 1", "the alarms notify nobody"]),
        (alarms(["a topic", "a company's topic"], "Deleted", "arn:aws:sns:x"), ["none of 1"]),
        (alarms(["a company's topic"]), ["none of 1"]),
        (alarms(["a company's topic"], state="ALARM"), ["a-stack-one is in ALARM: 5 > 0"]),
        (FakeStack({"Monitoring": "false"}), ["the stack has none (Monitoring is false)"]),
    ],
    ids=["pending", "no topic", "confirmed", "another topic", "ringing", "no alarms"],
)
def test_alarms_that_nobody_gets_are_told(stack: FakeStack, says: list[str]) -> None:
    """All alarms would be silent, and `doctor` would call them good, or show those of another stack."""
    found = findings(stack, "alarms")
    assert [one[1].startswith(part) for one, part in zip(found, says, strict=True)] == [True] * len(says)


def test_a_terminal_of_80_columns_breaks_no_word() -> None:
    """A sentence would be hard to read at night, or a pasted command would end in the middle."""
    target = "a-target-" + "x" * 80
    stack = rule(target, get_secret_value={"SecretString": "{}"})
    whole = run(stack, "doctor").out
    with terminal("stdout", stack) as screen:
        cli.main(["doctor"])
        lines = screen.lines
    assert " ".join(lines).split() == whole.split()
    assert {f"       -> {FILL}", "       -> flash-call-relay --stack a-stack parked list"} <= set(lines)
    assert all(len(line) <= 80 or target in line or FILL in line for line in lines)
