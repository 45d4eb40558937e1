"""`doctor`: check a stack; each finding has a level, and a next step where something is wrong."""

import json
import shlex
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import click

from flash_call_relay.credentials import CredentialsUnavailableError, parse
from flash_call_relay.models import Reason
from flash_call_relay.policy import JITTER, schedule_s
from flash_call_relay.settings import Settings
from flash_call_relay.text import error_code
from ops import logs
from ops.errors import EXPLAINED, NOT_ALLOWED, explain
from ops.output import DAY_S, count, duration, paragraph, timestamp
from ops.queues import DEAD, PARKED, RECEIVES, RESULTS, VISIBILITY_S, QueueKind
from ops.stack import ONE_INVOCATION, Stack

OK, NOTE, WRONG = "ok", "note", "WRONG"
COLOURS = {OK: "green", NOTE: "yellow", WRONG: "red"}
APART_S = 90  # a reason without a deferral for this long before the newest outcome is over
BY_A_PERSON = {"User action", "USER_INITIATED"}  # Lambda's API returns the first, and documents the second
SETTLED = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"}
# The command restores the terminal's echo when it ends or is interrupted. The secret is in no file and no history.
FILL = "(trap 'stty echo' EXIT INT; stty -echo; {put} --secret-string file:///dev/stdin)"
GOOD_STEP = "unless it is paused, the relay tries waiting results within 2 minutes, those older than an hour within 20"
FILL_STEP = (
    'restore the previous ones (docs/runbook.md#credentials-refused), or paste {"api_key": "...", "user_id": "..."}, '
    "Enter and Ctrl-D into this command, which shows nothing of it:"
)


@dataclass(frozen=True)
class Finding:
    """One finding of a check."""

    level: str
    says: str
    step: str = ""  # what to do; empty: nothing, or the command only
    command: str = ""  # to copy and paste; empty: there is none


@click.command()
@click.option("--probe", is_flag=True, help="Let the function POST the result of a call that does not exist.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding and line.")
@click.pass_obj
def doctor(stack: Stack, *, probe: bool, as_json: bool) -> int:
    """Check a stack, from its outputs to the endpoint's answer.

    Exit status 1 if anything is wrong. The command reads the credentials and never shows them. For a probe the function
    reads them again and opens a new connection; a probe leaves nothing on a queue, in the ledger or in a metric. HTTP
    404 with a JSON object means that route, path and credentials are good.
    """
    _ = stack.description  # fails if there is no stack to check
    levels = set[str]()
    for name, check in _checks(probe=probe):
        for finding in _findings(check, stack):
            levels.add(finding.level)
            _print(name, finding, as_json=as_json)
    return 1 if WRONG in levels else 0


def _checks(*, probe: bool) -> Iterator[tuple[str, Callable[[Stack], Iterator[Finding]]]]:
    yield "stack", _check_stack
    yield "function", _check_function
    yield "intake", _check_intake
    yield "events", _check_events
    yield "credentials", _check_credentials
    yield "result queue", partial(_check_queue, kind=RESULTS)
    yield "deferred", partial(_check_deferred, probe=probe)
    yield "confirmed twice", _check_conflicts
    yield "parked queue", partial(_check_queue, kind=PARKED)
    yield "dead-letter queue", partial(_check_queue, kind=DEAD)
    yield "alarms", _check_alarms
    if probe:
        yield "probe", _check_probe


def _print(check: str, finding: Finding, *, as_json: bool) -> None:
    if as_json:
        next_step = f"{finding.step} {finding.command}".strip() or None
        line = {"check": check, "level": finding.level.lower(), "message": finding.says, "next_step": next_step}
        click.echo(json.dumps(line))
        return
    level = click.style(f"{finding.level:5}", fg=COLOURS[finding.level])
    paragraph(f"{check}: {finding.says}", f"{level}  ", " " * 7)
    if finding.step:
        paragraph(finding.step, "       -> ", " " * 10)
    if finding.command:  # a terminal wraps it without breaking what is copied
        click.echo(f"       -> {finding.command}")


def _findings(check: Callable[[Stack], Iterator[Finding]], stack: Stack) -> Iterator[Finding]:
    try:
        yield from check(stack)
    except EXPLAINED as error:
        level = NOTE if error_code(error) in NOT_ALLOWED else WRONG  # a missing permission is no fault of the stack
        yield Finding(level, f"not checked: {explain(error)}")


def _check_stack(stack: Stack) -> Iterator[Finding]:
    status = stack.description["StackStatus"]
    stack.output("FunctionName")  # fails if the stack is not a relay
    command = stack.aws_command("cloudformation describe-stack-events", stack_name=stack.name)
    says = f"{stack.name} in {stack.region}, {status}, {len(stack.outputs)} outputs"
    yield Finding(OK, says) if status in SETTLED else Finding(NOTE, says, "wait for its end, or see why:", command)


def _check_function(stack: Stack) -> Iterator[Finding]:
    client, name = stack.client("lambda"), stack.output("FunctionName")
    function = client.get_function_configuration(FunctionName=name)
    state, update = function.get("State", "Active"), function.get("LastUpdateStatus", "Successful")
    if (state, update) != ("Active", "Successful"):
        why = function.get("StateReason") or function.get("LastUpdateStatusReason") or "no reason given"
        level = WRONG if "Failed" in (state, update) else NOTE
        step = "run doctor again in a minute; if it is Failed, deploy the stack again"
        yield Finding(level, f"{name} is {state}, its last update {update} ({why})", step)
    elif client.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions") == 0:
        says = f"{name} has a reserved concurrency of 0, which uses up the receives of results"
        command = stack.aws_command("lambda delete-function-concurrency", function_name=name)
        yield Finding(WRONG, says, "remove it; to stop the relay, use `pause`:", command)
    else:
        yield Finding(OK, f"{name} is {state}, {function.get('Runtime')}, {function.get('MemorySize')} MB")
    if not (variables := function["Environment"].get("Variables")):  # they have a key that the operator may not use
        return
    settings = Settings.from_environment(variables)
    if ".invalid/" in settings.webhook_url:
        says = f"WebhookUrl is the placeholder of samconfig.toml, which no host answers: {settings.webhook_url}"
        yield Finding(WRONG, says, "deploy a sandbox and name it as WebhookUrl: docs/proving.md")
    is_capped = settings.maximum_concurrency and stack.parameters.get("EventRoute") != "function"
    if settings.rate_limit_per_second and not is_capped:
        says = "RateLimitPerSecond holds for each execution environment, and nothing limits how many there are"
        yield Finding(NOTE, says, "deploy with a MaximumConcurrency, which caps EventRoute=queue only")
    if (age_s := earliest_exhaustion_s(settings)) < settings.retry_horizon_seconds:
        says = f"SQS may dead-letter a result at the age of {duration(age_s)}, before the retry horizon"
        yield Finding(NOTE, says, "deploy with longer retry caps, or a shorter RetryHorizonSeconds")


def earliest_exhaustion_s(settings: Settings) -> int:
    """Return the earliest age in seconds at which SQS can have used up a result's receives: after shortest delays.

    If the relay did not hide it, it comes back after the visibility timeout. No delay gets shorter with the age.
    """
    age_s = 0
    for receive in range(1, RECEIVES):
        age_s += min(schedule_s(settings, receive, age_s, JITTER[0]), VISIBILITY_S)
    return age_s


def _check_intake(stack: Stack) -> Iterator[Finding]:
    mapping = stack.client("lambda").get_event_source_mapping(UUID=stack.output("EventSourceMappingId"))
    state, reason = mapping["State"], mapping.get("StateTransitionReason") or "no reason given"
    if state == "Enabled":
        last = mapping.get("LastProcessingResult") or "nothing processed yet"
        yield Finding(OK, f"the event source mapping is Enabled ({last})")
    elif not state.startswith("Disabl"):
        yield Finding(NOTE, f"the event source mapping is {state}", "run doctor again in a minute")
    else:
        paused, since = reason in BY_A_PERSON, timestamp(mapping["LastModified"].timestamp())
        says = "the relay is paused" if paused else f"AWS has disabled the event source mapping ({reason})"
        step = "docs/runbook.md#pause-and-resume tells who paused it. To start it again:" if paused else ""
        says = f"{says} since {since}: results wait"
        yield Finding(NOTE if paused else WRONG, says, step, stack.command("resume"))


def _check_events(stack: Stack) -> Iterator[Finding]:
    route = stack.parameters.get("EventRoute", "queue")
    if route == "none":
        yield Finding(OK, "EventRoute is none: there is no rule")
        return
    events, rule, bus = stack.client("events"), stack.rule["Rule"], stack.rule["EventBusName"]
    described = events.describe_rule(Name=rule, EventBusName=bus)
    pattern = json.loads(described.get("EventPattern") or "{}")
    source, kind = (" or ".join(map(str, pattern.get(key, ["any"]))) for key in ("source", "detail-type"))
    arns = [target["Arn"] for target in events.list_targets_by_rule(**stack.rule)["Targets"]]
    wanted = stack.output("FunctionArn" if route == "function" else "ResultQueueArn")
    if described["State"] != "ENABLED":
        command = stack.aws_command("events enable-rule", name=rule, event_bus_name=bus)
        says = f"the rule {rule} is {described['State']}: events are dropped"
        yield Finding(WRONG, says, "enable it, then send those of that time again:", command)
    elif wanted in arns:
        takes = f"events of source {source}, detail-type {kind}, on bus {bus}"
        yield Finding(OK, f"the rule takes {takes}, and sends them to the {route}; EventBridge drops any other")
    elif stack.output("ResultQueueArn") in arns:
        says = "the rule sends events to the result queue, because of `pause`"
        yield Finding(NOTE, says, "", stack.command("resume"))
    else:
        step = f"deploy with another EventRoute, then with {route}: without a change, CloudFormation restores nothing"
        yield Finding(WRONG, f"the rule {rule} sends events to {', '.join(arns) or 'no target'}", step)


def _fill(stack: Stack, says: str) -> Finding:
    """Return the finding that the secret has to be filled with other credentials."""
    put = stack.aws_command("secretsmanager put-secret-value", secret_id=stack.output("CredentialsSecretArn"))
    return Finding(WRONG, says, FILL_STEP, FILL.format(put=put))


def _check_credentials(stack: Stack) -> Iterator[Finding]:
    client = stack.client("secretsmanager")
    try:
        secret = client.get_secret_value(SecretId=stack.output("CredentialsSecretArn"))
        parse(secret.get("SecretString") or secret.get("SecretBinary"))
        yield Finding(OK, "the secret holds api_key and user_id")
    except CredentialsUnavailableError as error:
        yield _fill(stack, str(error))
    except client.exceptions.ResourceNotFoundException:
        yield _fill(stack, "the secret is empty or does not exist")


def _check_queue(stack: Stack, kind: QueueKind) -> Iterator[Finding]:
    depth = kind.of(stack).depth()
    if not depth.total:
        yield Finding(OK, "empty")
    elif kind == RESULTS:
        yield Finding(OK, f"{depth.visible:,} waiting, {depth.in_flight:,} in flight")
    else:
        yield Finding(NOTE, count(depth.total, "message"), command=stack.command(f"{kind.group} list"))


def _check_deferred(stack: Stack, *, probe: bool) -> Iterator[Finding]:
    def ago(lines: list[logs.Line]) -> str:
        return f"the latest {duration(time.time() - logs.at_of(lines[-1]))} ago"

    groups = defaultdict[str, list[logs.Line]](list)
    for line in logs.recent(stack):
        groups[line.get("reason") or line["message"]].append(line)
    causes = {reason: lines for reason, lines in groups.items() if reason not in logs.COUNTED}
    delivered = groups[logs.DELIVERED]
    if failed := groups[logs.NOT_SETTLED]:
        says = f"SQS did not hide or park {count(len(failed), 'message')} (settle.failed, {ago(failed)})"
        yield Finding(NOTE, f"{says}: they come back after the queue's visibility timeout")
    # An unknown call waits by design. `endpoint_failing` is no cause: the relay did not try because of another reason.
    last = ("", Reason.UNKNOWN_CALL, Reason.ENDPOINT_FAILING)
    order = sorted(causes, key=lambda reason: (reason in last and last.index(reason), -len(causes[reason])))
    known = [*(causes[reason] for reason in order if reason != Reason.ENDPOINT_FAILING), delivered]
    newest = max((logs.at_of(lines[-1]) for lines in known if lines), default=0.0)
    present = [reason for reason in order if logs.at_of(causes[reason][-1]) > newest - APART_S]
    texts = {reason: f"{reason} {len(causes[reason]):,} ({ago(causes[reason])})" for reason in order}
    parts = [", ".join(texts.pop(reason) for reason in present), texts and f"over: {', '.join(texts.values())}"]
    parts.append(f"delivered {len(delivered):,} ({ago(delivered)})" if delivered else "delivered none")
    says = f"in the last 15 minutes: {'' if causes else 'none; '}{'; '.join(part for part in parts if part)}"
    if not present:
        yield Finding(OK, says)
        return
    lines = causes[present[0]]
    *_, one = [line for line in lines if "duration_ms" in line] or lines  # one that the relay has tried, if any
    step = f"story {shlex.quote(str(one.get('uuid')))}" if probe else "doctor --probe"
    yield Finding(NOTE, says, command=stack.command(step))


def _check_conflicts(stack: Stack) -> Iterator[Finding]:
    if lines := logs.find(stack, "message", logs.CONFLICT, time.time() - DAY_S):
        calls = count(len({line.get("uuid") for line in lines}), "call")
        says = f"both statuses of {calls} in the last 24 hours, the latest at {lines[-1]['timestamp']}"
        command = stack.command(f"story {shlex.quote(str(lines[-1].get('uuid')))}")
        yield Finding(NOTE, says, "docs/runbook.md#both-statuses-confirmed", command)


def _check_alarms(stack: Stack) -> Iterator[Finding]:
    if stack.parameters.get("Monitoring") == "false":
        yield Finding(NOTE, "the stack has none (Monitoring is false)", "deploy it with Monitoring=true")
        return
    name, address = stack.description["StackName"], stack.parameters.get("AlarmEmail")
    pages = stack.client("cloudwatch").get_paginator("describe_alarms").paginate(AlarmNamePrefix=f"{name}-")
    found = [alarm for page in pages for alarm in page["MetricAlarms"]]
    # Another stack's name may begin with this one. The description has the stack's name, too.
    alarms = [alarm for alarm in found if f"--stack {name} " in alarm["AlarmDescription"]]
    ringing = {alarm["AlarmName"]: alarm.get("StateReason", "") for alarm in alarms if alarm["StateValue"] == "ALARM"}
    for alarm, why in ringing.items():
        yield Finding(WRONG, f"{alarm} is in ALARM: {why}", f"docs/runbook.md#{alarm.removeprefix(f'{name}-')}")
    if not ringing:
        yield Finding(OK, f"none of {len(alarms)} in ALARM")
    topics = {topic for alarm in alarms for topic in alarm.get("AlarmActions", ())}
    if not topics:
        yield Finding(NOTE, "the alarms notify nobody", "deploy with AlarmTopicArn or AlarmEmail")
    for topic in topics - {stack.parameters.get("AlarmTopicArn")} if address else ():
        # Until the address confirms, the subscription's ARN is a word. SNS deletes it after two days.
        subscriptions = stack.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
        if not any(one["SubscriptionArn"].startswith("arn:") for one in subscriptions):
            says, subscribe = f"{address} has not confirmed SNS's e-mail", "sns subscribe --protocol email"
            command = stack.aws_command(subscribe, topic_arn=topic, notification_endpoint=str(address))
            yield Finding(WRONG, says, "subscribe it again, then follow the link in the new e-mail:", command)


def _check_probe(stack: Stack) -> Iterator[Finding]:
    call, function = f"probe-{uuid.uuid4()}", stack.output("FunctionArn")
    client, payload = stack.client("lambda", ONE_INVOCATION), json.dumps({"probe": call})
    reply = client.invoke(FunctionName=function, Payload=payload)
    answer = json.loads(reply["Payload"].read())
    if "FunctionError" in reply:
        kind, text = answer.get("errorType"), answer.get("errorMessage", "no error type")
        why = f"{kind}: {text}" if kind == "SettingsError" else kind or text  # another text could quote a secret
        yield Finding(WRONG, f"the function failed: {why}", "docs/runbook.md#function-errors")
    elif "http_status" in answer:
        yield _judge(stack, call, answer["http_status"], answer["message"], is_object=answer["is_json_object"])
    else:
        secret = answer["reason"] == Reason.CREDENTIALS_UNAVAILABLE
        step = "check the secret and that the function's role may read it" if secret else "check WebhookUrl"
        routes = "in a VPC check the function's routes (docs/integrating.md#check-the-functions-routes)"
        yield Finding(WRONG, f"no answer to the function: {answer['reason']}, {answer['detail']}", f"{step}; {routes}")


def _judge(stack: Stack, call: str, status: int, message: str, *, is_object: bool) -> Finding:
    said = f"HTTP {status}" + (f": {message}" if message else "")
    match status, is_object:
        case 404, True:
            says = f"route, path and credentials of the function are good: the endpoint does not know the call {call}"
            return Finding(OK, f"{says} ({said})", GOOD_STEP)
        case 404, _:
            says, step = "the API is not at this path", "check the path of WebhookUrl"
        case 403, False:
            says = "something in front of the API refuses the POST, whatever the credentials"
            step = "check your own proxy and firewall, then ask BetaTel whether theirs refuses the function's address"
        case 401 | 403, _:
            return _fill(stack, f"the endpoint refuses the credentials ({said})")
        case 429, _:
            says, step = "the endpoint asks for a lower rate", "docs/runbook.md#throttled"
        case _:
            says = "expected HTTP 404 for a call that does not exist; the endpoint answered otherwise"
            said += " and a JSON object" if is_object else " and no JSON object"
            step = "tell BetaTel if this lasts; the relay retries the waiting results"
            if status // 100 == 2:
                if is_object or stack.parameters.get("Confirmation") == "http-status":
                    return Finding(NOTE, f"{says} ({said})")
                step = "something other than the API answers, such as a proxy: docs/runbook.md#replies-doubtful"
    return Finding(WRONG, f"{says} ({said})", step)
