"""Dashboard, alarms, queries and runbook agree with the emitted metrics and lines, and with CloudWatch's limits."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from local import ROOT
from ops.cli import relay
from tests.support.alarms import period_s
from tests.support.emitted import emitted, emitted_fields, emitted_metrics
from tests.support.template import monitoring, stack, template

RESOURCES = template()["Resources"]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
NAMESPACE = "FlashCallRelay"
DAY_S = 86_400
LOSSES = ("EventsLostAlarm", "FunctionDeadLettersLostAlarm", "FunctionEventsDroppedAlarm")
SEARCH = re.compile(r"""SEARCH\('\{(\w+),([\w,]+)\} MetricName="(\w+)" (\w+)="([^"]+)"', 'Sum', (\d+)\)""")

ALARMS = monitoring("AWS::CloudWatch::Alarm")
QUERIES = monitoring("AWS::Logs::QueryDefinition")
(DASHBOARD,) = monitoring("AWS::CloudWatch::Dashboard").values()
WIDGETS = json.loads(DASHBOARD["DashboardBody"])["widgets"]
GRAPHS = [widget["properties"] for widget in WIDGETS if widget["type"] == "metric"]
every_alarm = pytest.mark.parametrize("name", ALARMS)


class Metric(NamedTuple):
    """A metric that an alarm or a graph names."""

    namespace: str
    name: str
    dimensions: dict[str, str]


def alarm_metrics(alarm: dict[str, Any]) -> Iterator[Metric]:
    """Yield an alarm's metrics."""
    for one in [one["MetricStat"]["Metric"] for one in alarm.get("Metrics", ()) if "MetricStat" in one] or [alarm]:
        dimensions = {dimension["Name"]: dimension["Value"] for dimension in one["Dimensions"]}
        yield Metric(one["Namespace"], one["MetricName"], dimensions)


def graph_metrics(graph: dict[str, Any]) -> Iterator[Metric]:
    """Yield a graph's metrics. What a search leaves open has the value `*`."""
    for *names, options in graph["metrics"]:
        if names:
            yield Metric(names[0], names[1], dict(zip(names[2::2], names[3::2], strict=True)))
        elif found := SEARCH.fullmatch(options["expression"]):
            namespace, keys, name, key, value, _ = found.groups()
            yield Metric(namespace, name, dict.fromkeys(keys.split(","), "*") | {key: value})


NAMED = [metric for alarm in ALARMS.values() for metric in alarm_metrics(alarm)]
NAMED += [metric for graph in GRAPHS for metric in graph_metrics(graph)]


# ---- names and fields are the emitted ones ----


def test_the_metrics_of_alarms_and_graphs_are_the_emitted_ones() -> None:
    """An alarm could never fire, a graph would stay empty, or nobody would see a metric that costs money."""
    own = [metric for metric in NAMED if metric.namespace == NAMESPACE]
    assert {metric.name for metric in own} == emitted_metrics().keys()
    for _, name, dimensions in own:
        known = [one.dimensions for one in emitted()[1] if (one.namespace, one.name) == (NAMESPACE, name)]
        reasons = {one.get("reason") for one in known if one.keys() == dimensions.keys()}
        assert dimensions.get("reason") in reasons or (reasons and dimensions["reason"] == "*"), (name, dimensions)
        assert dimensions["service"] == "a-stack", "another stack's metric"
    variables = stack()["RelayFunction"]["Properties"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_SERVICE_NAME"] == "a-stack"


def test_aws_metrics_are_those_of_the_stacks_resources() -> None:
    """An alarm would watch a queue or a function that does not exist."""
    for metric in NAMED:
        if metric.namespace == NAMESPACE:
            continue
        ((dimension, value),) = metric.dimensions.items()
        resource = value.removesuffix(".QueueName").removeprefix("a-stack-").removesuffix("-1U44TLUZ7OR55")
        assert RESOURCES[resource]["Type"].endswith("::" + dimension.removesuffix("Name")), metric
        assert value.endswith(".QueueName") == (dimension == "QueueName"), "!Ref of a queue is its URL"
    for queue in ("ParkedQueue", "DeadLetterQueue"):
        watched = [metric for name in ALARMS if name.startswith(queue) for metric in alarm_metrics(ALARMS[name])]
        assert [metric.dimensions for metric in watched] == [{"QueueName": f"{queue}.QueueName"}] * 2


@pytest.mark.parametrize(("bus", "dimensions"), [("default", {}), ("a/bus", {"EventBusName": "a/bus"})])
def test_the_alarm_on_lost_events_watches_the_rule_of_either_bus(bus: str, dimensions: dict[str, str]) -> None:
    """EventBridge would lose events, and the alarm would look at a metric that EventBridge never reports."""
    (metric,) = alarm_metrics(monitoring("AWS::CloudWatch::Alarm", EventBusName=bus)["EventsLostAlarm"])
    assert metric.dimensions == {"RuleName": "a-stack-ResultRule-1U44TLUZ7OR55", **dimensions}


@pytest.mark.parametrize(("route", "lost"), [("none", ()), ("queue", LOSSES[:1]), ("function", LOSSES)])
def test_the_alarms_on_lost_events_exist_where_their_metrics_do(route: str, lost: tuple[str, ...]) -> None:
    """The deployment would fail, a lost event would go unnoticed, or an alarm would cost money for nothing."""
    alarms = monitoring("AWS::CloudWatch::Alarm", EventRoute=route)
    assert ALARMS.keys() - alarms.keys() == set(LOSSES) - set(lost)
    (dashboard,) = monitoring("AWS::CloudWatch::Dashboard", EventRoute=route).values()
    widgets = json.loads(dashboard["DashboardBody"])["widgets"]
    (shown,) = [widget["properties"]["alarms"] for widget in widgets if widget["type"] == "alarm"]
    assert sorted(shown) == sorted(f"{name}.Arn" for name in alarms)


TEXTS = {widget["properties"]["title"]: widget["properties"]["query"] for widget in WIDGETS if widget["type"] == "log"}
TEXTS |= {query["Name"]: query["QueryString"] for query in QUERIES.values()}


@pytest.mark.parametrize("query", TEXTS.values(), ids=TEXTS)
def test_every_field_of_a_query_is_in_real_log_lines(query: str) -> None:
    """An on-call engineer would run a saved query that finds nothing."""
    text = re.sub(r"(?m)^\s*#.*$|\"[^\"]*\"|'[^']*'|/[^/|\n]+/", " ", query)
    words = {"SOURCE", "fields", "filter", "stats", "sort", "limit", "by", "as", "asc", "desc", "and"}
    words |= set(re.findall(r"\bas (\w+)", text)) | set(re.findall(r"\b(\w+)\(", text))
    fields = set(re.findall(r"(?<![@\w])[a-zA-Z_]\w*", text)) - words
    assert fields
    assert fields <= emitted_fields() | {"type"}  # Lambda's own lines have `type` in place of `message`


def test_the_saved_queries_have_the_stacks_name_and_read_its_log_only() -> None:
    """Nobody would find a query, or it would search each log of the account at the customer's cost."""
    for query in QUERIES.values():
        assert query["Name"].startswith("a-stack/")
        assert query["LogGroupNames"] == ["RelayLogGroup"]


# ---- the dashboard ----


def test_every_widget_is_of_this_stack_and_its_expressions_name_its_own_lines() -> None:
    """CloudWatch would show an error or another region in place of a graph, or refuse the dashboard and the stack."""
    assert DASHBOARD["DashboardName"] == "a-stack-eu-central-1", "the name is the account's, not the region's"
    for widget in WIDGETS:
        assert widget["x"] + widget["width"] <= 24
        assert widget["properties"].get("region") == ("eu-central-1" if widget["type"] in ("metric", "log") else None)
    for graph in GRAPHS:
        options = [one for *_, one in graph["metrics"]]
        formulas = " ".join(one.get("expression", "") for one in options)
        ids = {one["id"] for one in options if "id" in one}
        assert set(re.findall(r"\b[a-z]\w*", SEARCH.sub("", formulas))) <= ids
        assert graph["yAxis"].keys() == {one.get("yAxis", "left") for one in options}


# ---- the alarms ----


@every_alarm
def test_an_alarms_text_has_its_meaning_first_command_and_runbook_link(name: str) -> None:
    """An on-call engineer would not know whether to hurry or where to begin."""
    text = ALARMS[name]["AlarmDescription"]
    assert len(text) <= 1024
    assert ("Nothing is lost" in text) != ("is lost: send the results of that time again" in text) == (name in LOSSES)
    assert re.search(r"First: flash-call-relay --stack a-stack (doctor --probe|(parked|dead) list) ", text)
    assert text.endswith(f" Runbook: docs/runbook.md#{ALARMS[name]['AlarmName'].removeprefix('a-stack-')}")


def test_alarms_and_runbook_headings_match() -> None:
    """An alarm's link would lead nowhere, or the runbook would describe an alarm that does not exist."""
    _, *parts = RUNBOOK.split("\n## The alarms\n")[1].split("\n## ")[0].split("\n### ")
    names = [f"a-stack-{part.splitlines()[0]}" for part in parts]
    assert names == [alarm["AlarmName"] for alarm in ALARMS.values()]
    for part in parts:
        assert re.search(r"\*\*Look\*\*.*\*\*do\*\*.*\*\*Over\*\*", part, re.DOTALL | re.IGNORECASE), part


@every_alarm
def test_an_alarm_notifies_twice_and_is_within_the_limits_of_cloudwatch(name: str) -> None:
    """Nobody would learn of the recovery, or CloudFormation would refuse the stack although the emulator takes it."""
    alarm = ALARMS[name]
    assert alarm["AlarmActions"] == alarm["OKActions"] == ["a-topic", "AlarmTopic"]
    assert alarm["TreatMissingData"] in {"ignore", "notBreaching"}, "an idle relay would wake an engineer"
    assert period_s(alarm) * alarm["EvaluationPeriods"] <= (7 * DAY_S if period_s(alarm) >= 3600 else DAY_S)
    assert 1 <= alarm.get("DatapointsToAlarm", 1) <= alarm["EvaluationPeriods"]
    returned = [one for one in alarm.get("Metrics", ()) if one.get("ReturnData", True)]
    assert ["Expression" in one for one in returned] == [True] * ("Metrics" in alarm)


def test_only_cloudwatch_may_publish_alarms_and_only_over_tls() -> None:
    """A stranger could send false alarms, or alarms would travel unencrypted."""
    refusal, allowed = monitoring("AWS::SNS::TopicPolicy")["AlarmTopicPolicy"]["PolicyDocument"]["Statement"]
    assert (refusal["Effect"], refusal["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert allowed["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert allowed["Condition"] == {"StringEquals": {"aws:SourceAccount": "111122223333"}}


# ---- the runbook's commands ----

OPERATORS = re.findall(r"`flash-call-relay ([a-z][^`]*)`", RUNBOOK)
OPERATORS += re.findall(r"`((?:doctor|story|send|parked|dead) ?[^`]*)`", RUNBOOK)
OPERATORS += [re.findall(r"--stack a-stack (.+) Runbook", alarm["AlarmDescription"])[0] for alarm in ALARMS.values()]


@pytest.mark.parametrize("command", sorted(set(OPERATORS)))
def test_an_operators_command_of_the_runbook_or_an_alarm_exists(command: str) -> None:
    """An on-call engineer would type a command that `flash-call-relay` refuses."""
    tried = CliRunner().invoke(relay, ["--stack", "a-stack", *command.split(), "--help"])
    assert tried.exit_code == 0, tried.output


@pytest.mark.parametrize(
    ("words", "part"), [(r"\$\(output (\w+)\)", "Outputs"), (r"(?m)(?:^|`)change (\w+) ", "Parameters")]
)
def test_the_runbook_names_outputs_and_parameters_that_exist(words: str, part: str) -> None:
    """An on-call engineer would look for an output or a parameter that the stack does not have."""
    named = set(re.findall(words, RUNBOOK))
    assert named
    assert named <= template()[part].keys()
