"""`template.yaml` and `monitoring.yaml` as data, with CloudFormation's short tags as functions."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from flash_call_relay.settings import Settings
from local import ROOT


class _Loader(yaml.SafeLoader):
    pass


def _function(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if not isinstance(node, yaml.SequenceNode):
        raise TypeError(f"!{tag} takes a text or a list")
    return {name: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


@cache
def template(name: str = "template") -> dict[str, Any]:
    """Return the template of this name; its nested one is `monitoring`."""
    loaded: dict[str, Any] = yaml.load((ROOT / f"{name}.yaml").read_text(), _Loader)
    return loaded


def resolved(node: Any, known: Mapping[str, str], mappings: Mapping[str, Any], held: Mapping[str, bool]) -> Any:  # noqa: PLR0911 - a table
    """Return a part of the template with its functions resolved.

    `known` holds the values of resources, attributes and parameters by `Name` or `Name.Attribute`. A name without a
    value resolves to itself. `held` has the conditions.
    """
    if isinstance(node, list):
        items = [resolved(item, known, mappings, held) for item in node]
        return [item for item in items if item != "AWS::NoValue"]
    if not isinstance(node, dict):
        return node
    match [*node.items()]:
        case [("Ref" | "Fn::GetAtt", str(name))]:
            return known.get(name, name)
        case [("Fn::If", [name, then, otherwise])]:
            return resolved(then if held[name] else otherwise, known, mappings, held)
        case [("Fn::FindInMap", [name, key, value])]:
            return mappings[name][resolved(key, known, mappings, held)][value]
        case [("Fn::Split", [separator, text])]:
            return resolved(text, known, mappings, held).split(separator)
        case [("Fn::Select", [index, items])]:
            return resolved(items, known, mappings, held)[index]
        case [("Fn::Sub", str(text))]:
            return _substituted(text, known)
        case [("Fn::Sub", [text, own])]:
            values = {name: str(value) for name, value in resolved(own, known, mappings, held).items()}
            return _substituted(text, {**known, **values})
    values = {key: resolved(value, known, mappings, held) for key, value in node.items()}
    return {key: value for key, value in values.items() if value != "AWS::NoValue"}


def _holds(node: Any, conditions: Mapping[str, Any], known: Mapping[str, str]) -> bool:
    match [*node.items()]:
        case [("Condition", name)]:
            return _holds(conditions[name], conditions, known)
        case [("Fn::Not", [one])]:
            return not _holds(one, conditions, known)
        case [("Fn::And", parts)]:
            return all(_holds(part, conditions, known) for part in parts)
        case [("Fn::Equals", both)]:
            first, second = resolved(both, known, {}, {})
            return bool(first == second)
    raise ValueError(f"an unknown condition: {node}")


def _substituted(text: str, known: Mapping[str, str]) -> str:
    filled = re.sub(r"\$\{([\w.:]+)\}", lambda found: known.get(found[1], found[1]), text)
    return filled.replace("${!", "${")


def defaults() -> dict[str, str]:
    """Return the parameters' defaults as text, as CloudFormation passes them."""
    return {name: str(parameter["Default"]) for name, parameter in template()["Parameters"].items()}


def environment(parameters: dict[str, str]) -> dict[str, str]:
    """Return the function's environment under the given parameters, with made-up values for those that AWS fills in."""
    variables = template()["Resources"]["RelayFunction"]["Properties"]["Environment"]["Variables"]
    named = {name: value["Ref"] if "Ref" in value else str(value) for name, value in variables.items()}
    return {name: parameters.get(value, value) for name, value in named.items()}


def default_settings(**changes: str) -> Settings:
    """Return the function's settings under the template's defaults, with these environment variables changed."""
    return Settings.from_environment({**environment(defaults()), **changes})


ACCOUNT = {
    "AWS::StackName": "a-stack",
    "AWS::Region": "eu-central-1",
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}


def _made(name: str, known: Mapping[str, str]) -> dict[str, Any]:
    """Return what CloudFormation makes of a template: its resources and outputs, resolved, by their ids."""
    source = template(name)
    conditions = source.get("Conditions", {})
    held = {one: _holds(node, conditions, known) for one, node in conditions.items()}
    return {
        one: resolved(node, known, source.get("Mappings", {}), held)
        for one, node in {**source["Resources"], **source["Outputs"]}.items()
        if held.get(node.get("Condition"), True)
    }


def stack(**known: str) -> dict[str, Any]:
    """Return the resources and outputs of `a-stack`; `known` has parameters, and attributes as `Name.Attribute`."""
    given = {**defaults(), **ACCOUNT, **known}
    bus = "" if given["EventBusName"] == "default" else f"{given['EventBusName']}/"
    rule = f"arn:aws:events:eu-central-1:111122223333:rule/{bus}a-stack-ResultRule-1U44TLUZ7OR55"
    return _made("template", {"ResultRule.Arn": rule, **given})


def monitoring(resource_type: str, **parameters: str) -> dict[str, dict[str, Any]]:
    """Return the monitoring resources of one type for `a-stack`, by logical id. By default, all of them exist."""
    given = {"EventRoute": "function", "AlarmTopicArn": "a-topic", "AlarmEmail": "a@example.com", **parameters}
    passed = stack(**given)["MonitoringStack"]["Properties"]["Parameters"]
    made = _made("monitoring", {**ACCOUNT, **passed})
    return {name: one["Properties"] for name, one in made.items() if one.get("Type") == resource_type}


def alarms() -> dict[str, dict[str, Any]]:
    """Return the alarms' properties by their names without the stack's."""
    found = monitoring("AWS::CloudWatch::Alarm").values()
    return {alarm["AlarmName"].removeprefix("a-stack-"): alarm for alarm in found}


def texts(value: str | list[str]) -> list[str]:
    """Return the texts of a policy's element, which may be one text."""
    return [value] if isinstance(value, str) else value


def pasted_policy(role: str) -> list[dict[str, Any]]:
    """Return the statements of the policy of a `deployer` or an `operator`, to paste from the documentation."""
    statements: list[dict[str, Any]] = json.loads((ROOT / "docs" / f"{role}-policy.json").read_text())["Statement"]
    return statements
