"""Dashboard, alarms, queries and runbook agree with the emitted metrics and lines, and with CloudWatch's limits."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from local import ROOT
from ops.cli import relay
from tests.support.dashboard import SEARCH, Line, MetricId, lines
from tests.support.emitted import emitted_dimensions, emitted_fields, emitted_metrics, emitted_reasons
from tests.support.template import monitoring, stack, template

TEMPLATE = template()
RESOURCES = TEMPLATE["Resources"]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
NAMESPACE = "FlashCallRelay"
DAY_S = 86_400
# The metrics that AWS reports, by namespace, dimension, and type of the resource that the dimension names.
AWS_METRICS = {
    ("AWS/SQS", "QueueName", "AWS::SQS::Queue"): {
        "ApproximateAgeOfOldestMessage",
        "ApproximateNumberOfMessagesDelayed",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesVisible",
    },
    ("AWS/Lambda", "FunctionName", "AWS::Serverless::Function"): {
        "AsyncEventsDropped",
        "ConcurrentExecutions",
        "DeadLetterErrors",
        "Duration",
        "Errors",
        "Invocations",
        "Throttles",
    },
    ("AWS/Logs", "LogGroupName", "AWS::Logs::LogGroup"): {"IncomingBytes"},
    ("AWS/Events", "RuleName", "AWS::Events::Rule"): {"InvocationsFailedToBeSentToDlq"},
}
WATCHES = {
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::Logs::QueryDefinition",
    "AWS::SNS::Topic",
    "AWS::SNS::TopicPolicy",
}
LOSSES = ("EventsLost", "FunctionDeadLettersLost", "FunctionEventsDropped")
UNIT_WORDS = {"Seconds": r"\bseconds\b", "Milliseconds": r"\bmilliseconds\b", "Count": r"results|calls|failing|in 5"}


ALARMS = monitoring("AWS::CloudWatch::Alarm")
QUERIES = monitoring("AWS::Logs::QueryDefinition")
(DASHBOARD,) = monitoring("AWS::CloudWatch::Dashboard").values()
WIDGETS = json.loads(DASHBOARD["DashboardBody"])["widgets"]
GRAPHS = [widget["properties"] for widget in WIDGETS if widget["type"] == "metric"]
TITLES = [graph["title"] for graph in GRAPHS]
every_alarm = pytest.mark.parametrize("alarm", ALARMS.values(), ids=ALARMS)
every_query = pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
every_graph = pytest.mark.parametrize("graph", GRAPHS, ids=TITLES)


def slug(alarm: dict[str, Any]) -> str:
    """Return an alarm's name without the stack's."""
    name: str = alarm["AlarmName"]
    assert name.startswith("a-stack-")
    return name.removeprefix("a-stack-")


def dimensions(metric: dict[str, Any]) -> dict[str, str]:
    """Return a metric's dimensions by name."""
    return {dimension["Name"]: dimension["Value"] for dimension in metric["Dimensions"]}


def alarm_metrics(alarm: dict[str, Any]) -> list[MetricId]:
    """Return an alarm's metrics."""
    looked_at = [one["MetricStat"]["Metric"] for one in alarm.get("Metrics", ()) if "MetricStat" in one] or [alarm]
    return [MetricId.of(one["Namespace"], one["MetricName"], dimensions(one)) for one in looked_at]


def searched(line: Line) -> MetricId:
    """Return the metric that a search finds, with `*` for the dimension that it leaves open."""
    search = SEARCH.fullmatch(str(line.source))
    assert search, line.source
    namespace, names, name, dimension, value, _, _ = search.groups()
    return MetricId.of(namespace, name, dict.fromkeys(names.split(","), "*") | {dimension: value})


def graph_metrics(graph: dict[str, Any]) -> list[MetricId]:
    """Return the metrics that a graph shows or searches for."""
    found = []
    for line in lines(graph):
        if isinstance(line.source, MetricId):
            found.append(line.source)
        elif "SEARCH" in line.source:
            found.append(searched(line))
    return found


NAMED = list(itertools.chain(*map(alarm_metrics, ALARMS.values()), *map(graph_metrics, GRAPHS)))


# ---- names and fields are the emitted ones ----


def test_the_metrics_of_alarms_and_graphs_are_the_emitted_ones() -> None:
    """An alarm could never fire, a graph would stay empty, or nobody would see a metric that costs money."""
    own = [metric for metric in NAMED if metric.namespace == NAMESPACE]
    assert {metric.name for metric in own} == set(emitted_metrics())
    for metric in own:
        names = {name for name, _ in metric.dimensions}
        assert names in [set(known) for known in emitted_dimensions()[metric.name]], metric
        assert dict(metric.dimensions)["service"] == "a-stack", metric
        reason = dict(metric.dimensions).get("reason", "*")
        assert reason == "*" or reason in emitted_reasons()[metric.name], metric
    variables = stack()["RelayFunction"]["Properties"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_SERVICE_NAME"] == "a-stack"


def test_aws_metrics_have_the_names_and_dimensions_of_aws() -> None:
    """An alarm would watch a metric, a queue or a function that does not exist."""
    for metric in NAMED:
        if metric.namespace == NAMESPACE:
            continue
        ((dimension, value),) = metric.dimensions
        resource = value.removesuffix(".QueueName").removeprefix("a-stack-").removesuffix("-1U44TLUZ7OR55")
        key = (metric.namespace, dimension, RESOURCES[resource]["Type"])
        assert metric.name in AWS_METRICS[key], metric
        assert value.endswith(".QueueName") == (dimension == "QueueName"), "!Ref of a queue is its URL"


@pytest.mark.parametrize(
    ("bus", "dimensions"), [("default", {}), ("a-bus", {"EventBusName": "a-bus"}), ("a/bus", {"EventBusName": "a/bus"})]
)
def test_the_alarm_on_lost_events_watches_the_rule_of_either_bus(bus: str, dimensions: dict[str, str]) -> None:
    """EventBridge would lose events, and the alarm would look at a metric that EventBridge never reports."""
    (metric,) = alarm_metrics(monitoring("AWS::CloudWatch::Alarm", EventBusName=bus)["EventsLostAlarm"])
    assert dict(metric.dimensions) == {"RuleName": "a-stack-ResultRule-1U44TLUZ7OR55", **dimensions}


@pytest.mark.parametrize(
    ("route", "lost"),
    [("none", ()), ("queue", ("EventsLost",)), ("function", LOSSES)],
)
def test_the_alarms_on_lost_events_exist_where_their_metrics_do(route: str, lost: tuple[str, ...]) -> None:
    """The deployment would fail, a lost event would go unnoticed, or an alarm would cost money for nothing."""
    alarms = monitoring("AWS::CloudWatch::Alarm", EventRoute=route)
    assert ALARMS.keys() - alarms.keys() == {f"{name}Alarm" for name in set(LOSSES) - set(lost)}
    (dashboard,) = monitoring("AWS::CloudWatch::Dashboard", EventRoute=route).values()
    (shown,) = [one["properties"]["alarms"] for one in json.loads(dashboard["DashboardBody"])["widgets"][1:2]]
    assert sorted(shown) == sorted(f"{name}.Arn" for name in alarms)


def query_fields(query: str) -> set[str]:
    """Return the fields of log lines that a query of Logs Insights names, without CloudWatch's own (`@...`)."""
    text = re.sub(r"(?m)^\s*#.*$|\"[^\"]*\"|'[^']*'|/[^/|\n]+/", " ", query)
    aliases = set(re.findall(r"\bas (\w+)", text))
    keywords = {"SOURCE", "fields", "filter", "stats", "sort", "limit", "by", "as", "asc", "desc", "and"}
    functions = set(re.findall(r"\b(\w+)\(", text))
    names = set(re.findall(r"(?<![@\w])[a-zA-Z_]\w*", text))
    return names - aliases - functions - keywords


TEXTS = {widget["properties"]["title"]: widget["properties"]["query"] for widget in WIDGETS if widget["type"] == "log"}
TEXTS |= {query["Name"]: query["QueryString"] for query in QUERIES.values()}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_field_of_a_query_is_in_real_log_lines(text: str) -> None:
    """An on-call engineer would run a saved query that finds nothing."""
    fields = query_fields(text)
    assert fields
    assert fields <= emitted_fields() | {"type"}  # Lambda's own lines have `type` in place of `message`


@every_query
def test_a_saved_query_is_named_after_the_stack_and_reads_its_log_only(query: dict[str, Any]) -> None:
    """Nobody would find the query, or it would search each log of the account at the customer's cost."""
    assert re.fullmatch(r"a-stack/[a-z ]+", query["Name"])
    assert query["LogGroupNames"] == ["RelayLogGroup"]
    assert query.keys() == {"Name", "LogGroupNames", "QueryString"}, "parameters are new: a region may not know them"


def test_the_six_saved_queries_exist() -> None:
    """An on-call engineer would have to write a query at night."""
    assert sorted(query["Name"].removeprefix("a-stack/") for query in QUERIES.values()) == [
        "cost of logs",
        "late deliveries",
        "slowest attempts",
        "the story of one uuid",
        "what the endpoint answered over time",
        "why results were parked",
    ]


# ---- the dashboard ----


def test_widgets_fill_the_grid_without_overlap() -> None:
    """CloudWatch would refuse the dashboard or rearrange its widgets."""
    taken: set[tuple[int, int]] = set()
    for widget in WIDGETS:
        x, y, width, height = (widget[key] for key in ("x", "y", "width", "height"))
        assert x + width <= 24
        cells = set(itertools.product(range(x, x + width), range(y, y + height)))
        assert len(cells) == width * height > 0
        assert not cells & taken
        taken |= cells
    bottom = max(y for _, y in taken) + 1
    assert len(taken) == 24 * bottom, "a hole"


def test_every_widget_has_the_properties_that_cloudwatch_expects() -> None:
    """CloudWatch would refuse the dashboard."""
    needed = {
        "text": {"markdown"},
        "alarm": {"title", "alarms", "sortBy"},
        "metric": {"title", "view", "stacked", "region", "period", "yAxis", "metrics"},
        "log": {"title", "view", "region", "query"},
    }
    allowed = {"metric": {"annotations", "start", "end"}}
    for widget in WIDGETS:
        kind = widget["type"]
        assert widget.keys() == {"type", "x", "y", "width", "height", "properties"}
        assert needed[kind] <= widget["properties"].keys() <= needed[kind] | allowed.get(kind, set())
        assert widget["properties"].get("region", "eu-central-1") == "eu-central-1"
    titles = [widget["properties"]["title"] for widget in WIDGETS if widget["type"] != "text"]
    assert len(titles) == len(set(titles))
    assert all("?" in title for title in titles)


@every_graph
def test_a_graphs_axis_labels_state_its_unit_and_period(graph: dict[str, Any]) -> None:
    """A reader would take milliseconds for seconds, or five minutes for an hour."""
    assert graph["period"] % 60 == 0
    assert graph["view"] == "timeSeries"
    read = lines(graph)
    sides = {False: "left", True: "right"}
    assert set(graph["yAxis"]) == {sides[line.right] for line in read}
    for line in read:
        assert line.label or not line.visible
        if isinstance(line.source, str):
            continue
        assert re.fullmatch(r"Sum|Maximum|Average|p\d\d", line.stat)
        unit = emitted_metrics().get(line.source.name)
        if unit:
            assert re.search(UNIT_WORDS[unit], graph["yAxis"][sides[line.right]]["label"]), line
            assert (line.stat == "Sum") <= (unit == "Count"), "a sum of times says nothing"
    span = {300: r"\b5 minutes", 900: r"\b15 minutes", 3600: r"\bhour"}[graph["period"]]
    if any(line.stat == "Sum" for line in read):
        assert any(re.search(span, axis["label"]) for axis in graph["yAxis"].values())


@every_graph
def test_a_graphs_expressions_use_only_its_own_lines(graph: dict[str, Any]) -> None:
    """CloudWatch would show an error in place of the graph."""
    read = lines(graph)
    ids = [line.id for line in read if line.id]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z]\w*", one) for one in ids)
    for line in read:
        if isinstance(line.source, str) and (search := SEARCH.fullmatch(line.source)):
            assert int(search[7]) == graph["period"]
            (left_open,) = [name for name, value in searched(line).dimensions if value == "*"]
            assert line.label == f"${{PROP('Dim.{left_open}')}}"
        elif isinstance(line.source, str):
            assert set(re.findall(r"\b[a-z]\w*", line.source)) <= set(ids)
            assert set(re.findall(r"\b[A-Z_]+\b", line.source)) <= {"AVG", "STDDEV", "TIME_SERIES"}


def annotations() -> Iterator[tuple[dict[str, Any], str, float]]:
    """Yield each horizontal line that marks an alarm's threshold: the graph, the alarm's slug, the value."""
    for graph in GRAPHS:
        for one in graph.get("annotations", {}).get("horizontal", ()):
            for name in one["label"].split(", "):
                yield graph, name, one["value"]


def test_a_graph_draws_an_alarms_line_at_its_threshold() -> None:
    """The dashboard would show another threshold than the alarm's."""
    by_slug = {slug(alarm): alarm for alarm in ALARMS.values()}
    drawn = list(annotations())
    assert len(drawn) >= 6
    for graph, name, value in drawn:
        assert by_slug[name]["Threshold"] == value
        assert set(alarm_metrics(by_slug[name])) & set(graph_metrics(graph)), name
        if by_slug[name].get("Statistic") == "Sum":
            assert by_slug[name]["Period"] == graph["period"], name


def test_the_dashboards_name_has_stack_and_region() -> None:
    """Two stacks of one name in two regions would overwrite each other's dashboard."""
    assert DASHBOARD["DashboardName"] == "a-stack-eu-central-1"


# ---- the alarms ----


@every_alarm
def test_an_alarms_text_has_its_meaning_first_command_and_runbook_link(alarm: dict[str, Any]) -> None:
    """An on-call engineer would not know whether to hurry or where to begin."""
    text = alarm["AlarmDescription"]
    assert len(text) <= 1024
    assert re.match(r"[A-Z][^.]+[.:]", text)
    loses = alarm in [ALARMS[f"{name}Alarm"] for name in LOSSES]
    assert ("Nothing is lost" in text, "its result is lost: send the results of that time again" in text) == (
        not loses,
        loses,
    )
    assert re.search(r"First: flash-call-relay --stack a-stack (doctor --probe|(parked|dead) list) ", text)
    assert text.endswith(f" Runbook: docs/runbook.md#{slug(alarm)}")


def test_alarms_and_runbook_headings_match() -> None:
    """An alarm's link would lead nowhere, or the runbook would describe an alarm that does not exist."""
    alarms_part = RUNBOOK.split("\n## The alarms\n")[1].split("\n## ")[0]
    assert re.findall(r"(?m)^### (.+)$", alarms_part) == [slug(alarm) for alarm in ALARMS.values()]
    for part in alarms_part.split("\n### ")[1:]:
        assert re.search(r"\*\*Look\*\*.*\*\*do\*\*.*\*\*Over\*\*", part, re.DOTALL | re.IGNORECASE), part


@every_alarm
def test_an_alarm_notifies_when_it_fires_and_when_it_ends(alarm: dict[str, Any]) -> None:
    """An idle relay would wake an engineer, or nobody would learn of the recovery."""
    assert alarm["TreatMissingData"] in {"ignore", "notBreaching"}
    assert alarm["AlarmActions"] == alarm["OKActions"] == ["a-topic", "AlarmTopic"]


@every_alarm
def test_an_alarm_is_within_the_limits_of_cloudwatch(alarm: dict[str, Any]) -> None:
    """CloudFormation would refuse the stack on AWS, although the emulator takes it."""
    periods = {one["MetricStat"]["Period"] for one in alarm.get("Metrics", ()) if "MetricStat" in one}
    (period,) = periods or {alarm["Period"]}
    assert period % 60 == 0
    assert period * alarm["EvaluationPeriods"] <= (7 * DAY_S if period >= 3600 else DAY_S)
    assert 1 <= alarm.get("DatapointsToAlarm", 1) <= alarm["EvaluationPeriods"]
    assert alarm["ComparisonOperator"] in {"GreaterThanOrEqualToThreshold", "GreaterThanThreshold"}
    returned = [one for one in alarm.get("Metrics", ()) if one.get("ReturnData", True)]
    assert len(returned) == ("Metrics" in alarm)
    for one in returned:
        inputs = {other["Id"] for other in alarm["Metrics"]} - {one["Id"]}
        words = set(re.findall(r"[A-Za-z_]+", one["Expression"]))
        assert words - {"FILL", "REPEAT", "IF"} == inputs  # tests/support/alarms.py evaluates it


@pytest.mark.parametrize("queue", ["ParkedQueue", "DeadLetterQueue"])
def test_the_expiry_alarm_fires_a_week_before_messages_expire(queue: str) -> None:
    """Results that a person has to decide on would expire unseen."""
    alarm = ALARMS[f"{queue}ExpiringAlarm"]
    held, visible = alarm["Metrics"]
    told_after_s = visible["MetricStat"]["Period"] * alarm["EvaluationPeriods"]
    assert told_after_s + 7 * DAY_S <= RESOURCES[queue]["Properties"]["MessageRetentionPeriod"]
    assert (visible["MetricStat"]["Stat"], alarm["Threshold"]) == ("Maximum", 1)
    assert held["Expression"] == "FILL(visible, REPEAT)", "a gap would start the week again"
    assert dict(alarm_metrics(alarm)[0].dimensions) == {"QueueName": f"{queue}.QueueName"}


def test_only_cloudwatch_may_publish_alarms_and_only_over_tls() -> None:
    """A stranger could send false alarms, or alarms would travel unencrypted."""
    refusal, allowed = monitoring("AWS::SNS::TopicPolicy")["AlarmTopicPolicy"]["PolicyDocument"]["Statement"]
    assert (refusal["Effect"], refusal["Principal"]) == ("Deny", "*")
    assert refusal["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert allowed["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert allowed["Condition"] == {"StringEquals": {"aws:SourceAccount": "111122223333"}}


# ---- the switch ----


def test_monitoring_false_makes_no_monitoring_resources() -> None:
    """`Monitoring: false` would cost the same, or the deployment would fail."""
    assert RESOURCES["MonitoringStack"]["Condition"] == "Monitors"
    assert not WATCHES & {resource["Type"] for resource in RESOURCES.values()}
    assert TEMPLATE["Conditions"]["Monitors"] == {"Fn::Equals": [{"Ref": "Monitoring"}, "true"]}
    outputs = [output for output in TEMPLATE["Outputs"].values() if "MonitoringStack" in str(output["Value"])]
    assert [output["Condition"] for output in outputs] == ["Monitors", "Monitors"]


def test_the_nested_stack_gets_each_of_its_parameters() -> None:
    """A deployment would fail on AWS only."""
    passed = RESOURCES["MonitoringStack"]["Properties"]["Parameters"]
    assert passed.keys() == template("monitoring")["Parameters"].keys()


# ---- the runbook's commands ----

OPERATORS = re.findall(r"`flash-call-relay ([a-z][^`]*)`", RUNBOOK)
OPERATORS += re.findall(r"`((?:doctor|story|send|parked|dead) ?[^`]*)`", RUNBOOK)
OPERATORS += [re.findall(r"--stack a-stack (.+) Runbook", alarm["AlarmDescription"])[0] for alarm in ALARMS.values()]


@pytest.mark.parametrize("command", sorted(set(OPERATORS)))
def test_an_operators_command_of_the_runbook_or_an_alarm_exists(command: str) -> None:
    """An on-call engineer would type a command that `flash-call-relay` refuses."""
    tried = CliRunner().invoke(relay, ["--stack", "a-stack", *command.split(), "--help"])
    assert tried.exit_code == 0, tried.output


def test_the_runbook_names_outputs_and_parameters_that_exist() -> None:
    """An on-call engineer would look for an output or a parameter that the stack does not have."""
    named = set(re.findall(r"\$\(output (\w+)\)", RUNBOOK))
    assert named
    assert named <= TEMPLATE["Outputs"].keys()
    changed = set(re.findall(r"(?m)(?:^|`)change (\w+) ", RUNBOOK))
    assert changed
    assert changed <= TEMPLATE["Parameters"].keys()
