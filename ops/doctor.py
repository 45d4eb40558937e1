"""`doctor`: is the stack ready? One line a check, each with the next step where something is wrong."""

import socket
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import click
from botocore.exceptions import ClientError
from urllib3.util import parse_url

from flash_call_relay.credentials import Credentials, CredentialsUnavailableError, parse
from flash_call_relay.models import FlashCallResult, NoReply
from flash_call_relay.settings import Settings, SettingsError
from flash_call_relay.webhook import Webhook, tls_context
from ops import logs, show
from ops.places import NEARLY_ALL_IN_FLIGHT
from ops.problems import EXPLAINED, NOT_ALLOWED, explain
from ops.stack import Stack

OK, NOTE, WRONG = "ok", "note", "WRONG"
COLOURS = {OK: "green", NOTE: "yellow", WRONG: "red"}
CONNECT_S = 5
LEAST_CONCURRENCY = 2  # a new account may have 10, of which others take their part
CERTIFICATE_S = 14 * show.DAY_S  # less than that left is worth a word
RECENT = timedelta(minutes=15)  # SQS reports a queue's age every minute or five
BY_A_PERSON = {"User action", "USER_INITIATED"}  # Lambda's word for it, and its API's documentation's
SETTLED = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"}


@dataclass(frozen=True)
class Finding:
    """What one check found: all is well, worth knowing, or wrong; and the next step."""

    level: str
    says: str
    next_step: str = ""


@click.command()
@click.option("--probe", is_flag=True, help="POST the result of a call that never was, and judge the answer.")
@click.pass_obj
def doctor(make_stack: Callable[[], Stack], *, probe: bool) -> int:
    """Check a stack before going live, or when something is wrong: from its outputs to the endpoint's certificate.

    Exit status 1 if anything is wrong. Credentials are read, and never shown.
    """
    stack = make_stack()
    _ = stack.description  # without which there is nothing to check
    worst = OK
    for name, check in _checks(stack, probe=probe):
        for finding in _findings(check):
            worst = max(worst, finding.level, key=(OK, NOTE, WRONG).index)
            click.echo(f"{click.style(f'{finding.level:5}', fg=COLOURS[finding.level])}  {name}: {finding.says}")
            if finding.next_step:
                click.echo(f"       -> {finding.next_step}")
    return 1 if worst == WRONG else 0


Check = Callable[[], Iterator[Finding]]


def _checks(stack: Stack, *, probe: bool) -> Iterator[tuple[str, Check]]:
    secret = _Secret(stack)
    yield "stack", lambda: _stack(stack)
    yield "function", lambda: _function(stack)
    yield "concurrency", lambda: _concurrency(stack)
    yield "intake", lambda: _intake(stack)
    yield "events", lambda: _events(stack)
    yield "credentials", secret.check
    yield "result queue", lambda: _queue(stack, "ResultQueueUrl", "")
    yield "deferred", lambda: _deferred(stack)
    yield "parked queue", lambda: _queue(stack, "ParkedQueueUrl", "parked")
    yield "dead-letter queue", lambda: _queue(stack, "DeadLetterQueueUrl", "dead")
    yield "alarms", lambda: _alarms(stack)
    yield "webhook", lambda: _webhook(stack)
    if probe:
        yield "probe", lambda: _probe(stack, secret)


def _findings(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except ClientError as error:
        # What this person may not see can still be well.
        refused = error.response.get("Error", {}).get("Code") in NOT_ALLOWED
        yield Finding(NOTE if refused else WRONG, f"not checked: {explain(error)}")
    except EXPLAINED as error:
        yield Finding(WRONG, f"not checked: {explain(error)}")
    except SettingsError as error:
        yield Finding(WRONG, f"the function's environment was changed: {error}", "deploy the stack again")


def _command(stack: Stack, words: str) -> str:
    return f"flash-call-relay --stack {stack.name} {words}"


def _stack(stack: Stack) -> Iterator[Finding]:
    status = stack.description["StackStatus"]
    stack.output("FunctionName")  # is it a relay at all?
    known = f"{stack.name} in {stack.region}, {status}, {len(stack.outputs)} outputs"
    if status in SETTLED:
        yield Finding(OK, known)
    elif status.endswith("_IN_PROGRESS"):
        yield Finding(NOTE, known, "wait for the deployment to end")
    else:
        yield Finding(WRONG, known, f"aws cloudformation describe-stack-events --stack-name {stack.name}")


def _function(stack: Stack) -> Iterator[Finding]:
    client, name = stack.client("lambda"), stack.output("FunctionName")
    found = client.get_function_configuration(FunctionName=name)
    state, update = found.get("State", "Active"), found.get("LastUpdateStatus", "Successful")
    reserved = client.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")
    if state == "Pending" or update == "InProgress":
        yield Finding(NOTE, f"{name} is being updated", "look again in a minute")
    elif state == "Failed" or update == "Failed":
        why = found.get("StateReason") or found.get("LastUpdateStatusReason") or ""
        yield Finding(WRONG, f"{name} is {state}, its last update {update}. {why}", "deploy the stack again")
    elif reserved == 0:
        step = f"aws lambda delete-function-concurrency --function-name {name}; to pause, use `pause`"
        yield Finding(WRONG, f"{name} has a reserved concurrency of 0, which uses results' receives up", step)
    else:
        yield Finding(OK, f"{name} is {state}, {found.get('Runtime')}, {found.get('MemorySize')} MB")


def _concurrency(stack: Stack) -> Iterator[Finding]:
    limits = stack.client("lambda").get_account_settings()["AccountLimit"]
    account, unreserved = limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]
    wanted = int(stack.parameters.get("MaximumConcurrency", 0))
    says = f"this account may run {unreserved:,} invocations at once that are reserved for no function"
    if max(wanted, LEAST_CONCURRENCY) <= unreserved:
        yield Finding(OK, f"{says}; the relay takes up to {wanted or 'all'} of them")
    else:
        step = "ask AWS for more (Service Quotas, Lambda, concurrent executions), or lower MaximumConcurrency"
        yield Finding(
            NOTE, f"{says} ({account:,} in all), and the relay may take {wanted or 'all'}: it is throttled then", step
        )


def _intake(stack: Stack) -> Iterator[Finding]:
    mapping = stack.client("lambda").get_event_source_mapping(UUID=stack.output("EventSourceMappingId"))
    state, last = mapping["State"], mapping.get("LastProcessingResult") or "nothing processed yet"
    resume = _command(stack, "resume")
    if state == "Enabled":
        yield Finding(OK, f"the event source mapping is Enabled ({last})")
    elif state.startswith("Disabl") and mapping.get("StateTransitionReason") in BY_A_PERSON:
        yield Finding(NOTE, f"the relay is paused (the event source mapping is {state}): results wait", resume)
    elif state.startswith("Disabl"):
        why = mapping.get("StateTransitionReason") or "no reason given"
        yield Finding(WRONG, f"AWS has stopped the event source mapping ({why}): results wait", resume)
    else:
        yield Finding(NOTE, f"the event source mapping is {state}", "look again in a minute")


def _events(stack: Stack) -> Iterator[Finding]:
    route = stack.parameters.get("EventRoute", "queue")
    if route == "none":
        yield Finding(OK, "EventRoute is none: there is no rule")
        return
    events = stack.client("events")
    name = stack.rule["Rule"]
    state = events.describe_rule(Name=name, EventBusName=stack.rule["EventBusName"])["State"]
    arns = [target["Arn"] for target in events.list_targets_by_rule(**stack.rule)["Targets"]]
    wanted = stack.output("FunctionArn" if route == "function" else "ResultQueueArn")
    if state != "ENABLED":
        step = f"aws events enable-rule --name {name} --event-bus-name {stack.rule['EventBusName']}"
        yield Finding(WRONG, f"the rule {name} is {state}: events are dropped", step)
    elif wanted in arns:
        yield Finding(OK, f"the rule {name} is ENABLED and sends events to the {route}")
    elif stack.output("ResultQueueArn") in arns:
        yield Finding(NOTE, "the rule sends events to the queue, as `pause` has it", _command(stack, "resume"))
    else:
        yield Finding(
            WRONG, f"the rule {name} sends events to {', '.join(arns) or 'nothing'}", "deploy the stack again"
        )


class _Secret:
    """The credentials, read once."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.credentials: Credentials | None = None

    def check(self) -> Iterator[Finding]:
        """Read the secret."""
        arn = self._stack.output("CredentialsSecretArn")
        step = f"aws secretsmanager put-secret-value --secret-id {arn} --secret-string file://credentials.json"
        secrets = self._stack.client("secretsmanager")
        try:
            self.credentials = parse(secrets.get_secret_value(SecretId=arn).get("SecretString"))
        except CredentialsUnavailableError as error:
            yield Finding(WRONG, str(error), step)
        except ClientError as error:
            code, key = error.response.get("Error", {}).get("Code"), self._stack.parameters.get("CredentialsKmsKeyArn")
            if code in NOT_ALLOWED and key:
                says = f"not checked: {explain(error)}"
                yield Finding(NOTE, says, f"you need secretsmanager:GetSecretValue, and kms:Decrypt with {key}")
            elif code == "ResourceNotFoundException":
                yield Finding(WRONG, "the secret is empty or does not exist", step)
            else:
                raise
        else:
            yield Finding(OK, "the secret holds api_key and user_id")


def _queue(stack: Stack, output: str, group: str) -> Iterator[Finding]:
    depth = stack.depth(output)
    if not depth.total:
        yield Finding(OK, "empty")
        return
    age_s = _age(stack, stack.output(output)) if depth.visible else None
    oldest = "" if age_s is None else f", the oldest received less than three times {show.span(age_s)} old"
    if group:
        says = f"{show.count(depth.visible + depth.hidden, 'message')}{oldest}"
        yield Finding(NOTE, says, _command(stack, f"{group} list"))
    else:
        hidden = f"{depth.hidden + depth.delayed:,} hidden until their next try or at work"
        says = f"{depth.visible:,} waiting, {hidden}{oldest}"
        if depth.hidden < NEARLY_ALL_IN_FLIGHT:
            yield Finding(OK, says)
        else:
            limit = "SQS has about 120,000 in flight at most: others wait until some come back; nothing is lost"
            yield Finding(NOTE, f"{says}. {limit}", "docs/runbook.md#so-much-waits-that-sqs-hands-out-no-more")


def _deferred(stack: Stack) -> Iterator[Finding]:
    since = (datetime.now(UTC) - RECENT).timestamp()
    lines = logs.lines(stack, "message", "result.deferred", since)
    reasons = Counter(str(line.get("reason")) for line in lines if line.get("message") == "result.deferred")
    if not reasons:
        yield Finding(OK, "no result in the last quarter of an hour")
        return
    said = ", ".join(f"{reason} {times:,}" for reason, times in reasons.most_common())
    yield Finding(NOTE, f"in the last quarter of an hour: {said}", _command(stack, "doctor --probe"))


def _age(stack: Stack, url: str) -> float | None:
    now = datetime.now(UTC)
    with suppress(ClientError):  # the depth says most of it
        points = stack.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName="ApproximateAgeOfOldestMessage",
            Dimensions=[{"Name": "QueueName", "Value": url.rpartition("/")[2]}],
            StartTime=now - RECENT,
            EndTime=now,
            Period=60,
            Statistics=["Maximum"],
        )["Datapoints"]
        if points:
            latest = max(points, key=lambda point: point["Timestamp"])
            return float(latest["Maximum"])
    return None


def _alarms(stack: Stack) -> Iterator[Finding]:
    nested = _physical_ids(stack, stack.name, "AWS::CloudFormation::Stack")
    names = [name for one in nested for name in _physical_ids(stack, one, "AWS::CloudWatch::Alarm")]
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
        yield Finding(NOTE, "they tell nobody", "deploy with AlarmTopicArn or AlarmEmail")


def _physical_ids(stack: Stack, name: str, resource_type: str) -> list[str]:
    pages = stack.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=name)
    resources = [one for page in pages for one in page["StackResourceSummaries"]]
    return [one["PhysicalResourceId"] for one in resources if one["ResourceType"] == resource_type]


def _webhook(stack: Stack) -> Iterator[Finding]:
    url = Settings.from_environment(stack.environment).webhook_url
    target = parse_url(url)
    host, port = target.host or "", target.port or (443 if target.scheme == "https" else 80)
    host = host.strip("[]")
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        with socket.create_connection((host, port), timeout=CONNECT_S) as connection:
            if target.scheme != "https":
                yield Finding(OK, f"{url} takes connections at {address} (plain http, loopback)")
                return
            with tls_context().wrap_socket(connection, server_hostname=host) as tls:
                certificate = tls.getpeercert() or {}
    except (socket.gaierror, UnicodeError) as error:
        yield Finding(WRONG, f"{host} has no address ({error})", "is WebhookUrl right?")
    except ssl.SSLCertVerificationError as error:
        yield Finding(WRONG, f"the certificate of {host} is not valid: {error.verify_message}", "tell BetaTel")
    except OSError as error:
        yield Finding(WRONG, f"no connection to {host}:{port} from this machine: {error}", "try from elsewhere")
    else:
        left_s = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()
        level = OK if left_s > CERTIFICATE_S else NOTE
        yield Finding(level, f"{host} resolves to {address}; its certificate is valid for {show.span(left_s)} more")


def _probe(stack: Stack, secret: _Secret) -> Iterator[Finding]:
    if secret.credentials is None:
        yield Finding(WRONG, "not made, for want of credentials")
        return
    call = f"probe-{uuid.uuid4()}"
    answer = Webhook(Settings.from_environment(stack.environment)).post(
        FlashCallResult(call, "Failed"), secret.credentials
    )
    if isinstance(answer, NoReply):
        yield Finding(WRONG, f"no answer: {answer.reason}, {answer.detail}", "is WebhookUrl right?")
        return
    said = f"HTTP {answer.http_status}" + (f": {answer.message}" if answer.message else "")
    match answer.http_status, answer.json_object:
        case 404, {}:
            yield Finding(OK, f"path and credentials are good: the endpoint knows no call {call} ({said})")
        case 401 | 403, _:
            step = "put the credentials that BetaTel gave you into the secret"
            yield Finding(WRONG, f"the endpoint refuses the credentials ({said})", step)
        case 404, _:
            yield Finding(WRONG, f"nothing of the API's is there ({said})", "is the path of WebhookUrl right?")
        case status, _:
            level = NOTE if 200 <= status < 300 else WRONG
            kind = "a JSON object" if answer.json_object is not None else "no JSON object"
            says = f"expected HTTP 404 for a call that never was; the endpoint answered {said} ({kind})"
            yield Finding(
                level, says, "tell BetaTel if it lasts; what waits is tried by itself" if level == WRONG else ""
            )
