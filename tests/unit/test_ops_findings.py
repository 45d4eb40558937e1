"""`doctor` and `pause` on replies that only AWS gives."""

import io
import json
import re
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ops import cli, pause
from ops.stack import Stack
from tests.support.aws import FakeStack, busy_stack, counts, log
from tests.support.operator import run, terminal

FILL = (
    "(trap 'stty echo' EXIT INT; stty -echo; aws secretsmanager put-secret-value --secret-id CredentialsSecretArn "
    "--region eu-central-1 --secret-string file:///dev/stdin)"
)
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


@pytest.mark.parametrize(
    ("limit", "environments", "route", "levels"),
    [
        ("0", "10", "function", []),
        ("50", "0", "queue", ["note"]),
        ("50", "5", "queue", []),
        ("50", "5", "function", ["note"]),
    ],
)
def test_a_rate_limit_that_can_be_exceeded_is_noted(
    limit: str, environments: str, route: str, levels: list[str]
) -> None:
    """An operator would believe that BetaTel never gets more than the limit."""
    parameters = {"RateLimitPerSecond": limit, "MaximumConcurrency": environments, "EventRoute": route}
    assert [level for level, *_ in findings(FakeStack(parameters), "rate limit")] == levels


@pytest.mark.parametrize(
    ("reason", "wanted", "start"),
    [
        ("User action", "note", "the relay is paused since 2026-11-24T12:00:00Z"),
        ("USER_INITIATED", "note", "the relay is paused since 2026-11-24T12:00:00Z"),
        ("Lambda internal error", "wrong", "AWS has disabled the event source mapping (Lambda internal error) since"),
        (None, "wrong", "AWS has disabled the event source mapping (no reason given) since 2026-11-24T12:00:00Z"),
    ],
)
def test_a_pause_is_a_note_and_a_mapping_disabled_by_aws_is_wrong(reason: str | None, wanted: str, start: str) -> None:
    """`doctor` would report a pause as a failure, or a failure as a pause, or not say since when."""
    mapping = {"State": "Disabled", "StateTransitionReason": reason, "LastModified": PAUSED_AT}
    level, says, next_step = finding(FakeStack(get_event_source_mapping=mapping), "intake")
    assert (level, says.startswith(start)) == (wanted, True)
    assert next_step.endswith("flash-call-relay --stack a-stack resume")


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
        get_queue_attributes=counts(visible=3),
    )
    assert run(stack, "pause").out.startswith("a-stack is paused; 3 results waiting.")
    assert next(states, None) is None


def test_the_events_that_the_rule_takes_are_named() -> None:
    """An event of another source or detail-type would vanish, and `doctor` would call the rule good."""
    pattern = json.dumps({"source": ["acme.verification"], "detail-type": ["Flash Call Result"]})
    stack = FakeStack(
        describe_stack_resource={"StackResourceDetail": {"PhysicalResourceId": "a-bus|a-rule"}},
        describe_rule={"State": "ENABLED", "EventPattern": pattern},
        list_targets_by_rule={"Targets": [{"Arn": "ResultQueueArn"}]},
    )
    level, says, _ = finding(stack, "events")
    assert level == "ok"
    assert "events of source acme.verification, detail-type Flash Call Result, on bus a-bus" in says


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
@pytest.mark.parametrize(("user_id", "wanted"), [("u", "ok"), (7, "wrong")])
def test_a_secret_is_read_as_by_the_function(encoding: str, user_id: object, wanted: str) -> None:
    """`doctor` would refuse a secret that the function reads, or the key would be on the screen and in a file."""
    secret = json.dumps({"api_key": "k", "user_id": user_id}).encode(encoding)
    level, says, next_step = finding(FakeStack(get_secret_value={"SecretBinary": secret}), "credentials")
    assert (level, "user_id" in says) == (wanted, True)
    assert next_step.endswith(FILL) == (wanted == "wrong")


def answer(reply: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what Lambda answers to an invocation."""
    return {"Payload": io.BytesIO(json.dumps(reply).encode()), **more}


@pytest.mark.parametrize(
    ("error", "says", "step"),
    [
        (
            {"errorType": "SettingsError", "errorMessage": "X is no URL"},
            "the function failed: SettingsError: X",
            "#fun",
        ),
        ({"errorType": "KeyError", "errorMessage": "hunter2"}, "the function failed: KeyError", "#function-errors"),
        ({"errorMessage": "Task timed out after 60.00 seconds"}, "the function failed: Task timed out", "#function"),
    ],
)
def test_a_probe_that_the_function_fails_on_is_wrong(error: dict[str, str], says: str, step: str) -> None:
    """An operator would read a traceback, or blame the endpoint for a fault of the function."""
    level, found, next_step = finding(FakeStack(invoke=answer(error, FunctionError="Unhandled")), "probe")
    assert (level, found.startswith(says), step in next_step) == ("wrong", True, True)
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("reply", "wanted", "part", "step"),
    [
        ((404, False, ""), "wrong", "the API is not at this path", "WebhookUrl"),
        ((401, False, ""), "wrong", "refuses the credentials (HTTP 401)", FILL),
        ((403, True, "no"), "wrong", "refuses the credentials (HTTP 403: no)", FILL),
        ((403, False, "no"), "wrong", "something in front of the API refuse", "your own proxy and firewall"),
        ((429, True, ""), "wrong", "asks for a lower rate (HTTP 429)", "#throttled"),
        ((200, True, ""), "note", "otherwise (HTTP 200 and a JSON object)", ""),
        ((200, False, ""), "wrong", "otherwise (HTTP 200 and no JSON object)", "#replies-doubtful"),
        ((503, False, ""), "wrong", "otherwise (HTTP 503 and no JSON object)", "tell BetaTel"),
        (("timeout", "late"), "wrong", "no answer to the function: timeout, late", "#check-the-functions-routes"),
        (("credentials_unavailable", "x"), "wrong", "credentials_unavailable, x", "role may read it"),
    ],
)
def test_an_answer_to_a_probe_is_judged(reply: tuple[Any, ...], wanted: str, part: str, step: str) -> None:
    """A page of a proxy, refused credentials or a closed route would pass for a good endpoint."""
    names = ("http_status", "is_json_object", "message") if len(reply) == 3 else ("reason", "detail")
    level, says, next_step = finding(FakeStack(invoke=answer(dict(zip(names, reply, strict=True)))), "probe")
    assert (level, part in says, step in next_step) == (wanted, True, True)


@pytest.mark.parametrize(("state", "wanted"), [("Enabled", True), ("Disabled", False)])
def test_after_a_good_probe_the_next_attempts_are_promised(state: str, wanted: bool) -> None:  # noqa: FBT001
    """After a repair an operator would not know whether to do more, or would wait for a paused relay."""
    stack = FakeStack(
        invoke=answer({"http_status": 404, "is_json_object": True, "message": ""}),
        get_event_source_mapping={"State": state, "LastModified": PAUSED_AT},
        get_queue_attributes=counts(hidden=3),
    )
    says = "3 results left: the relay tries them within 2 minutes, those older than an hour within 20"
    assert findings(stack, "next") == ([("ok", says, "")] if wanted else [])


@pytest.mark.parametrize(
    ("lines", "level", "says"),
    [
        ("delivered 20", "ok", "none; delivered 1 (the latest 20 s ago)"),
        ("", "ok", "none; delivered none"),
        (
            "timeout 30, timeout 20, endpoint_failing 10, endpoint_failing 5, endpoint_failing 1",
            "note",
            "timeout 2 (the latest 20 s ago), endpoint_failing 3 (the latest 1 s ago); delivered none",
        ),
        (
            "credentials_rejected 690, credentials_rejected 680, endpoint_error 20, delivered 9",
            "note",
            (
                "endpoint_error 1 (the latest 20 s ago); over: credentials_rejected 2 (the latest 11 min ago); "
                "delivered 1 (the latest 9 s ago)"
            ),
        ),
        (
            "endpoint_error 600, endpoint_failing 590, delivered 20, delivered 10",
            "ok",
            (
                "over: endpoint_error 1 (the latest 10 min ago), endpoint_failing 1 (the latest 9 min ago); "
                "delivered 2 (the latest 10 s ago)"
            ),
        ),
        (
            "unknown_call 9, unknown_call 8, endpoint_failing 7, endpoint_failing 6, timeout 1",
            "note",
            (
                "timeout 1 (the latest 1 s ago), unknown_call 2 (the latest 8 s ago), "
                "endpoint_failing 2 (the latest 6 s ago); delivered none"
            ),
        ),
        ("timeout 600", "note", "timeout 1 (the latest 10 min ago); delivered none"),
        ("endpoint_failing 5", "note", "endpoint_failing 1 (the latest 5 s ago); delivered none"),
    ],
)
def test_the_cause_of_deferrals_that_is_named_first_is_the_present_one(lines: str, level: str, says: str) -> None:
    """An operator would look for a cause that is over, or for one that is none, or not see that the rest goes well."""
    now, events = time.time(), []
    for word, age_s in (one.split() for one in lines.split(", ") if one):
        facts = (
            {"message": "result.delivered"} if word == "delivered" else {"message": "result.deferred", "reason": word}
        )
        at = datetime.fromtimestamp(now - int(age_s), UTC).isoformat()
        events.append({**facts, "uuid": f"{word} {age_s}", "timestamp": at})
    found = finding(FakeStack(**log(*events)), "deferred")
    assert found[:2] == (level, f"in the last 15 minutes: {says}")
    first = re.search(r"[a-z_]+", says)
    assert first
    assert found[2].startswith(f"flash-call-relay --stack a-stack story '{first[0]} " if level == "note" else "")


def test_what_sqs_did_not_do_and_contradictions_have_a_line() -> None:
    """An operator would not see why a result comes back late, or that BetaTel has two statuses of a call."""
    at = datetime.now(UTC).isoformat()
    lines = [{"message": "settle.failed", "timestamp": at, "message_id": "m", "detail": "hide: x"}] * 2
    lines += [{"message": "ledger.conflict", "timestamp": at, "uuid": "a call"}]
    stack = FakeStack(**log(*lines))
    (level, says, _), _ = findings(stack, "deferred")
    assert level == "note"
    assert says.startswith("SQS did not hide or park 2 messages (settle.failed, the latest 0 s ago)")
    level, says, step = finding(stack, "confirmed twice")
    assert (level, says) == ("note", f"both statuses of 1 call in the last 24 hours, the latest at {at}")
    assert step == "docs/runbook.md#both-statuses-confirmed flash-call-relay --stack a-stack story 'a call'"


def alarms(actions: list[str], *subscriptions: str) -> FakeStack:
    """Return a stack with an alarm, an address and its subscriptions, beside a stack whose name begins alike."""
    facts = {"StateValue": "OK", "AlarmActions": actions}
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
        (alarms(["a topic"]), ["none of 1", "oncall@example.com has not confirmed"]),
        (alarms([]), ["none of 1", "the alarms notify nobody"]),
        (alarms(["a topic", "a company's topic"], "Deleted", "arn:aws:sns:x"), ["none of 1"]),
        (alarms(["a company's topic"]), ["none of 1"]),
        (FakeStack({"Monitoring": "false"}), ["the stack has none (Monitoring is false)"]),
    ],
)
def test_alarms_that_nobody_gets_are_told(stack: FakeStack, says: list[str]) -> None:
    """All alarms would be silent, and `doctor` would call them good, or show those of another stack."""
    found = findings(stack, "alarms")
    assert [one[1].startswith(part) for one, part in zip(found, says, strict=True)] == [True] * len(says)


def test_a_terminal_of_80_columns_breaks_no_word() -> None:
    """A sentence would be hard to read at night, or a pasted command would end in the middle."""
    rule = "a-rule-" + "x" * 80
    stack = busy_stack(
        get_secret_value={"SecretString": "{}"},
        describe_stack_resource={"StackResourceDetail": {"PhysicalResourceId": f"a-bus|{rule}"}},
        describe_rule={"State": "DISABLED"},
        list_targets_by_rule={"Targets": []},
    )
    whole = run(stack, "doctor").out
    with terminal("stdout", stack) as screen:
        cli.main(["doctor"])
        lines = screen.lines
    assert " ".join(lines).split() == whole.split()
    assert {f"       -> {FILL}", "       -> flash-call-relay --stack a-stack parked list"} <= set(lines)
    assert all(len(line) <= 80 or rule in line or FILL in line for line in lines)


def test_any_2xx_to_a_probe_is_no_fault_if_it_confirms() -> None:
    """`doctor` would call an endpoint wrong whose empty replies confirm results."""
    reply = answer({"http_status": 204, "is_json_object": False, "message": ""})
    assert finding(FakeStack({"Confirmation": "http-status"}, invoke=reply), "probe")[0] == "note"
