"""`template.yaml` and `monitoring.yaml` as data, with CloudFormation's short tags as functions."""

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


def resolved(node: Any, known: Mapping[str, str], mappings: Mapping[str, Any]) -> Any:  # noqa: PLR0911 - a table
    """Return a part of the template with `Ref`, `GetAtt`, `Sub` and `FindInMap` resolved.

    `known` holds the values of resources, attributes and parameters by `Name` or `Name.Attribute`. A name without a
    value resolves to itself.
    """
    if isinstance(node, list):
        return [resolved(item, known, mappings) for item in node]
    if not isinstance(node, dict):
        return node
    match [*node.items()]:
        case [("Ref" | "Fn::GetAtt", str(name))]:
            return known.get(name, name)
        case [("Fn::FindInMap", [name, key, value])]:
            return mappings[name][key][value]
        case [("Fn::Sub", str(text))]:
            return _substituted(text, known)
        case [("Fn::Sub", [text, own])]:
            return _substituted(text, {**known, **{k: str(v) for k, v in resolved(own, known, mappings).items()}})
    return {key: resolved(value, known, mappings) for key, value in node.items()}


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


def monitoring(resource_type: str) -> dict[str, dict[str, Any]]:
    """Return the resolved properties of the monitoring resources of one type for `a-stack`, by logical id."""
    known = defaults() | {"AWS::StackName": "a-stack", "AWS::Region": "eu-central-1"}
    passed = resolved(template()["Resources"]["MonitoringStack"]["Properties"]["Parameters"], known, {})
    given = {name: value for name, value in passed.items() if value}
    nested = template("monitoring")
    return {
        name: resolved(resource["Properties"], {"AWS::Region": "eu-central-1"} | given, nested["Mappings"])
        for name, resource in nested["Resources"].items()
        if resource["Type"] == resource_type
    }


def alarms() -> dict[str, dict[str, Any]]:
    """Return the alarms' properties by their names without the stack's."""
    found = monitoring("AWS::CloudWatch::Alarm").values()
    return {alarm["AlarmName"].removeprefix("a-stack-"): alarm for alarm in found}
