"""`doctor`: check a stack; each finding has a level, and a next step where something is wrong."""

import json
import shlex
import socket
import ssl
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import click
from botocore.exceptions import ClientError
from urllib3.util import parse_url

from flash_call_relay.connections import tls_context
from flash_call_relay.credentials import CredentialsUnavailableError, parse
from flash_call_relay.models import Reason
from flash_call_relay.settings import Settings, SettingsError
from flash_call_relay.text import error_code
from ops import logs
from ops.errors import EXPLAINED, NOT_ALLOWED, KeyRefusedError, cause, explain
from ops.output import DAY_S, count, duration
from ops.queues import DEAD, NEARLY_ALL_IN_FLIGHT, PARKED, Depth, Queue, QueueKind
from ops.stack import ONE_INVOCATION, Stack

OK, NOTE, WRONG = "ok", "note", "WRONG"
COLOURS = {OK: "green", NOTE: "yellow", WRONG: "red"}
CONNECT_S = 5
LEAST_CONCURRENCY = 2  # a new account may have 10, shared with its other functions
CERTIFICATE_S = 14 * DAY_S  # a certificate that expires sooner gets a note
BY_A_PERSON = {"User action", "USER_INITIATED"}  # Lambda's API returns the first, and documents the second
SETTLED = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"}


@dataclass(frozen=True)
class Finding:
    """One finding of a check."""

    level: str
    says: str
    next_step: str = ""  # empty: there is none


Check = Callable[[Stack], Iterator[Finding]]


@click.command()
@click.option("--probe", is_flag=True, help="Let the function POST the result of a call that does not exist.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding and line.")
@click.pass_obj
def doctor(stack: Stack, *, probe: bool, as_json: bool) -> int:
    """Check a stack, from its outputs to the endpoint's certificate.

    Exit status 1 if anything is wrong. The command reads the credentials and never shows them.
    """
    _ = stack.description  # fails if there is no stack to check
    worst = OK
    for name, check in _checks(probe=probe):
        for finding in _findings(check, stack):
            worst = max(worst, finding.level, key=(OK, NOTE, WRONG).index)
            (_print_json if as_json else _print)(name, finding)
    return 1 if worst == WRONG else 0


def _print(check: str, finding: Finding) -> None:
    click.echo(f"{click.style(f'{finding.level:5}', fg=COLOURS[finding.level])}  {check}: {finding.says}")
    if finding.next_step:
        click.echo(f"       -> {finding.next_step}")


def _print_json(check: str, finding: Finding) -> None:
    line = {
        "check": check,
        "level": finding.level.lower(),
        "message": finding.says,
        "next_step": finding.next_step or None,
    }
    click.echo(json.dumps(line))


def _findings(check: Check, stack: Stack) -> Iterator[Finding]:
    try:
        yield from check(stack)
    except EXPLAINED as error:
        level = NOTE if error_code(error) in NOT_ALLOWED else WRONG  # a missing permission is no fault of the stack
        yield Finding(level, f"not checked: {explain(error)}")
    except KeyRefusedError as error:
        yield Finding(NOTE, f"not checked: {error}")
    except SettingsError as error:
        step = "restore it as docs/runbook.md#function-errors says"
        yield Finding(WRONG, f"the function's environment was changed: {error}", step)


def _check_stack(stack: Stack) -> Iterator[Finding]:
    status = stack.description["StackStatus"]
    stack.output("FunctionName")  # fails if the stack is not a relay
    says = f"{stack.name} in {stack.region}, {status}, {len(stack.outputs)} outputs"
    if status in SETTLED:
        yield Finding(OK, says)
    elif status.endswith("_IN_PROGRESS"):
        yield Finding(NOTE, says, "wait for the deployment to end")
    else:
        yield Finding(WRONG, says, f"aws cloudformation describe-stack-events --stack-name {stack.name}")


def _check_function(stack: Stack) -> Iterator[Finding]:
    client, name = stack.client("lambda"), stack.output("FunctionName")
    function = client.get_function_configuration(FunctionName=name)
    state, update = function.get("State", "Active"), function.get("LastUpdateStatus", "Successful")
    reserved = client.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")
    if state == "Pending" or update == "InProgress":
        yield Finding(NOTE, f"{name} is being updated", "run doctor again in a minute")
    elif state == "Failed" or update == "Failed":
        why = function.get("StateReason") or function.get("LastUpdateStatusReason") or ""
        yield Finding(WRONG, f"{name} is {state}, its last update {update}. {why}", "deploy the stack again")
    elif reserved == 0:
        step = f"aws lambda delete-function-concurrency --function-name {name}; to pause, use `pause`"
        yield Finding(WRONG, f"{name} has a reserved concurrency of 0, which uses up the receives of results", step)
    else:
        yield Finding(OK, f"{name} is {state}, {function.get('Runtime')}, {function.get('MemorySize')} MB")


def _check_concurrency(stack: Stack) -> Iterator[Finding]:
    limits = stack.client("lambda").get_account_settings()["AccountLimit"]
    account, unreserved = limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]
    wanted = int(stack.parameters.get("MaximumConcurrency", 0))
    most = f"up to {wanted}" if wanted else "all of them"
    says = f"{unreserved:,} of the account's {account:,} concurrent executions are unreserved; the relay may use {most}"
    if max(wanted, LEAST_CONCURRENCY) <= unreserved:
        yield Finding(OK, says)
    else:
        step = "ask AWS for more (Service Quotas, Lambda, concurrent executions), or lower MaximumConcurrency"
        yield Finding(NOTE, f"{says}, and Lambda throttles it beyond that", step)


def _check_rate_limit(stack: Stack) -> Iterator[Finding]:
    limit, environments = (stack.parameters.get(name, "0") for name in ("RateLimitPerSecond", "MaximumConcurrency"))
    if limit == "0":
        return
    if environments == "0":
        says, step = f"{limit} POSTs a second for each execution environment", "deploy with a MaximumConcurrency"
        yield Finding(NOTE, f"{says}, because MaximumConcurrency is 0", step)
    else:
        yield Finding(OK, f"{limit} POSTs a second, shared by {environments} execution environments")
    if stack.parameters.get("EventRoute") == "function":
        says = "events that go straight to the function can exceed it: MaximumConcurrency does not cap them"
        yield Finding(NOTE, says, "deploy with EventRoute=queue")


def _check_intake(stack: Stack) -> Iterator[Finding]:
    mapping = stack.client("lambda").get_event_source_mapping(UUID=stack.output("EventSourceMappingId"))
    state, reason = mapping["State"], mapping.get("StateTransitionReason") or "no reason given"
    resume = stack.command("resume")
    if state == "Enabled":
        last = mapping.get("LastProcessingResult") or "nothing processed yet"
        yield Finding(OK, f"the event source mapping is Enabled ({last})")
    elif not state.startswith("Disabl"):
        yield Finding(NOTE, f"the event source mapping is {state}", "run doctor again in a minute")
    elif reason in BY_A_PERSON:
        yield Finding(NOTE, f"the relay is paused (the event source mapping is {state}): results wait", resume)
    else:
        yield Finding(WRONG, f"AWS has disabled the event source mapping ({reason}): results wait", resume)


def _check_events(stack: Stack) -> Iterator[Finding]:
    route = stack.parameters.get("EventRoute", "queue")
    if route == "none":
        yield Finding(OK, "EventRoute is none: there is no rule")
        return
    events, rule, bus = stack.client("events"), stack.rule["Rule"], stack.rule["EventBusName"]
    state = events.describe_rule(Name=rule, EventBusName=bus)["State"]
    arns = [target["Arn"] for target in events.list_targets_by_rule(**stack.rule)["Targets"]]
    wanted = stack.output("FunctionArn" if route == "function" else "ResultQueueArn")
    if state != "ENABLED":
        step = f"aws events enable-rule --name {rule} --event-bus-name {bus}"
        yield Finding(WRONG, f"the rule {rule} is {state}: events are dropped", step)
    elif wanted in arns:
        yield Finding(OK, f"the rule {rule} is ENABLED and sends events to the {route}")
    elif stack.output("ResultQueueArn") in arns:
        yield Finding(NOTE, "the rule sends events to the result queue, because of `pause`", stack.command("resume"))
    else:
        targets = ", ".join(arns) or "no target"
        other = "queue" if route == "function" else "function"
        step = f"deploy with EventRoute={other}, then with {route}: without a change, CloudFormation restores nothing"
        yield Finding(WRONG, f"the rule {rule} sends events to {targets}", step)


def _check_outcome_bus(stack: Stack) -> Iterator[Finding]:
    if not (bus := stack.parameters.get("OutcomeBusName")):
        return
    try:
        stack.client("events").describe_event_bus(Name=bus)
    except ClientError as error:
        if error_code(error) != "ResourceNotFoundException":
            raise
        step = "make the bus, or deploy with another OutcomeBusName"
        yield Finding(WRONG, f"there is no bus {bus}: EventBridge drops the events about outcomes", step)
    else:
        yield Finding(OK, f"the bus {bus} exists")


def _check_credentials(stack: Stack) -> Iterator[Finding]:
    arn = stack.output("CredentialsSecretArn")
    fill = 'type {"api_key": "...", "user_id": "..."} and Ctrl-D into: aws secretsmanager put-secret-value'
    fill += f" --secret-id {arn} --secret-string file:///dev/stdin"  # not the file that may be at fault
    try:
        secret = stack.client("secretsmanager").get_secret_value(SecretId=arn)
        parse(secret.get("SecretString") or secret.get("SecretBinary"))
    except CredentialsUnavailableError as error:
        yield Finding(WRONG, str(error), fill)
    except ClientError as error:
        given = stack.parameters.get("CredentialsSecretArn")
        key = "its key, if it has one" if given else stack.parameters.get("KmsKeyArn")
        if error_code(error) in NOT_ALLOWED and key:
            step = f"you need secretsmanager:GetSecretValue, and kms:Decrypt with {key}"
            yield Finding(NOTE, f"not checked: {explain(error)}", step)
        elif error_code(error) == "ResourceNotFoundException":
            yield Finding(WRONG, "the secret is empty or does not exist", fill)
        else:
            raise
    else:
        yield Finding(OK, "the secret holds api_key and user_id")


def _check_result_queue(stack: Stack) -> Iterator[Finding]:
    depth = Queue.of(stack, "ResultQueueUrl").depth()
    if not depth.total:
        yield Finding(OK, "empty")
        return
    says = f"{depth.visible:,} waiting, {depth.hidden + depth.delayed:,} deferred or in progress"
    says += _age_of_oldest(stack, "ResultQueueUrl", depth)
    if depth.hidden < NEARLY_ALL_IN_FLIGHT:
        yield Finding(OK, says)
    else:
        limit = "SQS allows about 120,000 in flight: the others wait until some of these return; nothing is lost"
        yield Finding(NOTE, f"{says}. {limit}", "docs/runbook.md#too-many-messages-in-flight")


def _check_queue_is_empty(stack: Stack, kind: QueueKind) -> Iterator[Finding]:
    depth = kind.of(stack).depth()
    if depth.total:
        messages = count(depth.visible + depth.hidden, "message")
        says = f"{messages}{_age_of_oldest(stack, kind.output, depth)}"
        yield Finding(NOTE, says, stack.command(f"{kind.group} list"))
    else:
        yield Finding(OK, "empty")


def _age_of_oldest(stack: Stack, output: str, depth: Depth) -> str:
    """Return the age of a queue's oldest message as the end of a sentence; empty if CloudWatch does not know it."""
    if not depth.visible:
        return ""
    now = datetime.now(UTC)
    with suppress(ClientError):  # the depth is worth showing without the age
        points = stack.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName="ApproximateAgeOfOldestMessage",
            Dimensions=[{"Name": "QueueName", "Value": stack.output(output).rpartition("/")[2]}],
            StartTime=now - logs.RECENT,  # SQS reports a queue's age every one to five minutes
            EndTime=now,
            Period=60,
            Statistics=["Maximum"],
        )["Datapoints"]
        if points:
            latest = max(points, key=lambda point: point["Timestamp"])
            return f"; the oldest of those received at most twice is {duration(latest['Maximum'])} old"
    return ""


def _check_deferred(stack: Stack, *, probe: bool) -> Iterator[Finding]:
    now = datetime.now(UTC)
    lines = list(logs.find(stack, "message", "result.deferred", (now - logs.RECENT).timestamp()))
    if not lines:
        yield Finding(OK, "no result in the last 15 minutes")
        return
    reasons = Counter(str(line.get("reason")) for line in lines)
    counts = ", ".join(f"{reason} {times:,}" for reason, times in reasons.most_common())
    ago_s = (now - datetime.fromisoformat(max(line["timestamp"] for line in lines))).total_seconds()
    # A result that was deferred without an attempt shows nothing of the endpoint's answer.
    latest = max(lines, key=lambda line: ("duration_ms" in line, line["timestamp"]))
    step = f"story {shlex.quote(str(latest.get('uuid')))}" if probe else "doctor --probe"
    yield Finding(NOTE, f"in the last 15 minutes: {counts}; the latest {duration(ago_s)} ago", stack.command(step))


def _check_alarms(stack: Stack) -> Iterator[Finding]:
    nested = [_resources(stack, one) for one in _resources(stack, stack.name)["AWS::CloudFormation::Stack"]]
    names = [name for resources in nested for name in resources["AWS::CloudWatch::Alarm"]]
    if not names:
        yield Finding(NOTE, "the stack has none (Monitoring is false)", "deploy it with Monitoring=true")
        return
    alarms = stack.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
    ringing = [alarm for alarm in alarms if alarm["StateValue"] == "ALARM"]
    for alarm in ringing:
        heading = alarm["AlarmName"].removeprefix(f"{stack.name}-")
        says = f"{alarm['AlarmName']} is in ALARM: {alarm.get('StateReason', '')}"
        yield Finding(WRONG, says, f"docs/runbook.md#{heading}")
    if not ringing:
        yield Finding(OK, f"none of {len(alarms)} in ALARM")
    if not any(alarm.get("AlarmActions") for alarm in alarms):
        yield Finding(NOTE, "the alarms notify nobody", "deploy with AlarmTopicArn or AlarmEmail")
    if address := stack.parameters.get("AlarmEmail"):
        # While a deployment adds AlarmEmail, there is no topic yet.
        for topic in [topic for resources in nested for topic in resources["AWS::SNS::Topic"]]:
            yield from _check_address(stack, address, topic)


def _check_address(stack: Stack, address: str, topic: str) -> Iterator[Finding]:
    subscriptions = stack.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    # Until the address confirms, the ARN is a word. SNS deletes the subscription after two days.
    if not any(one["SubscriptionArn"].startswith("arn:") for one in subscriptions):
        again = f"aws sns subscribe --topic-arn {topic} --protocol email --notification-endpoint"
        says = f"{address} receives none, because it has not confirmed SNS's e-mail"
        yield Finding(WRONG, says, f"{again} {shlex.quote(address)}; then follow the link in the new e-mail")


def _resources(stack: Stack, name: str) -> defaultdict[str, list[str]]:
    """Return the physical ids of a stack's resources, by type."""
    ids = defaultdict(list)
    for page in stack.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=name):
        for one in page["StackResourceSummaries"]:
            # CloudFormation may also list a resource that it has deleted, and one that it is making, without an id.
            if one.get("PhysicalResourceId") and one["ResourceStatus"] != "DELETE_COMPLETE":
                ids[one["ResourceType"]].append(one["PhysicalResourceId"])
    return ids


def _check_webhook(stack: Stack) -> Iterator[Finding]:
    url = Settings.from_environment(stack.environment).webhook_url
    target = parse_url(url)
    host, port = target.host or "", target.port or (443 if target.scheme == "https" else 80)
    host = host.strip("[]")
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        with socket.create_connection((host, port), timeout=CONNECT_S) as connection:
            if target.scheme != "https":
                yield Finding(OK, f"{url} accepts connections at {address} (plain http, loopback)")
                return
            with tls_context().wrap_socket(connection, server_hostname=host) as tls:
                certificate = tls.getpeercert() or {}
    except (socket.gaierror, UnicodeError) as error:
        yield Finding(WRONG, f"{host} has no address on this machine: {cause(error)}", "check WebhookUrl")
    except ssl.SSLCertVerificationError as error:
        yield Finding(WRONG, f"the certificate of {host} is not valid: {error.verify_message}", "tell BetaTel")
    except OSError as error:
        step = "try from another machine; with --probe the function tries"
        yield Finding(WRONG, f"no connection to {host}:{port} from this machine: {cause(error)}", step)
    else:
        left_s = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()
        level = OK if left_s > CERTIFICATE_S else NOTE
        yield Finding(level, f"{host} is {address} on this machine; its certificate expires in {duration(left_s)}")


def _check_probe(stack: Stack) -> Iterator[Finding]:
    call, function = f"probe-{uuid.uuid4()}", stack.output("FunctionArn")
    try:
        reply = stack.client("lambda", ONE_INVOCATION).invoke(
            FunctionName=function, Payload=json.dumps({"probe": call})
        )
    except ClientError as error:
        if error_code(error) not in NOT_ALLOWED:
            raise
        yield Finding(NOTE, f"not checked: {explain(error)}", f"you need lambda:InvokeFunction on {function}")
        return
    answer = json.loads(reply["Payload"].read())
    if "FunctionError" in reply:
        yield _failed_probe(answer)
    elif "http_status" in answer:
        yield _judge(stack, call, answer["http_status"], answer["message"], is_object=answer["is_json_object"])
    else:
        yield _no_answer(function, answer["reason"], answer["detail"])


def _failed_probe(error: dict[str, str]) -> Finding:
    kind = error.get("errorType") or error.get("errorMessage", "no error type")
    if kind == "UnsupportedEventError":
        return Finding(WRONG, "the function is older than this command and knows no probe", "deploy the stack again")
    return Finding(WRONG, f"the function failed: {kind}", "read its log: docs/runbook.md#function-errors")


def _no_answer(function: str, reason: str, detail: str) -> Finding:
    routes = "in a VPC check the function's routes (docs/integrating.md#check-the-functions-routes)"
    restore = f"aws lambda update-function-configuration --function-name {function} --timeout 60"
    steps: dict[str, str] = {
        Reason.CREDENTIALS_UNAVAILABLE: f"check the secret and that the function's role may read it; {routes}",
        Reason.OUT_OF_TIME: f"restore the time-out: {restore}",
    }
    asked = "the function sent no POST" if reason in steps else "the function got no answer"
    return Finding(WRONG, f"{asked}: {reason}, {detail}", steps.get(reason, f"check WebhookUrl; {routes}"))


def _judge(stack: Stack, call: str, status: int, message: str, *, is_object: bool) -> Finding:
    said = f"HTTP {status}" + (f": {message}" if message else "")
    match status, is_object:
        case 404, True:
            says = f"route, path and credentials of the function are good: the endpoint does not know the call {call}"
            return Finding(OK, f"{says} ({said})")
        case 404, _:
            says, step = "the API is not at this path", "check the path of WebhookUrl"
        case 403, False:
            says = "something in front of the API refuses the POST, whatever the credentials"
            step = "check your own proxy and firewall, then ask BetaTel whether theirs refuses the function's address"
        case 401 | 403, _:
            says = "the endpoint refuses the credentials"
            step = "put the credentials that BetaTel gave you into the secret: docs/runbook.md#rotate-the-key"
        case 429, _:
            says, step = "the endpoint asks for a lower rate", "docs/runbook.md#throttled"
        case _:
            return _judge_unexpected(stack, said, is_2xx=200 <= status < 300, is_object=is_object)
    return Finding(WRONG, f"{says} ({said})", step)


def _judge_unexpected(stack: Stack, said: str, *, is_2xx: bool, is_object: bool) -> Finding:
    body = "a JSON object" if is_object else "not a JSON object"
    says = f"expected HTTP 404 for a call that does not exist; the endpoint answered {said} ({body})"
    if not is_2xx:
        return Finding(WRONG, says, "tell BetaTel if this lasts; the relay retries the waiting results")
    if is_object or stack.parameters.get("Confirmation") == "http-status":
        return Finding(NOTE, says)
    step = "something other than the API answers, such as a proxy: docs/runbook.md#replies-doubtful"
    return Finding(WRONG, says, step)


def _checks(*, probe: bool) -> Iterator[tuple[str, Check]]:
    yield "stack", _check_stack
    yield "function", _check_function
    yield "concurrency", _check_concurrency
    yield "rate limit", _check_rate_limit
    yield "intake", _check_intake
    yield "events", _check_events
    yield "outcome bus", _check_outcome_bus
    yield "credentials", _check_credentials
    yield "result queue", _check_result_queue
    yield "deferred", partial(_check_deferred, probe=probe)
    yield "parked queue", partial(_check_queue_is_empty, kind=PARKED)
    yield "dead-letter queue", partial(_check_queue_is_empty, kind=DEAD)
    yield "alarms", _check_alarms
    yield "webhook", _check_webhook
    if probe:
        yield "probe", _check_probe
