"""`template.yaml` and `monitoring.yaml` as data, with CloudFormation's short tags as functions."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    assert isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


@cache
def template(name: str = "template") -> dict[str, Any]:
    """Return the template of this name; its nested one is `monitoring`."""
    loaded: dict[str, Any] = yaml.load((ROOT / f"{name}.yaml").read_text(), _Loader)
    return loaded


@dataclass(frozen=True)
class _Stack:
    """A template, and the values of its parameters, and of resources by `Name` or `Name.Attribute`."""

    source: Mapping[str, Any]
    known: Mapping[str, str]

    def made(self, node: Any) -> Any:  # noqa: C901, PLR0911 - a table
        """Return what CloudFormation makes of a part of the template. A name without a value stays itself."""
        if isinstance(node, list):
            return [one for one in map(self.made, node) if one != "AWS::NoValue"]
        if not isinstance(node, dict):
            return node
        match [*node.items()]:
            case [("Ref" | "Fn::GetAtt", str(name))]:
                return self.known.get(name, name)
            case [("Condition", str(name))]:
                return self.made(self.source["Conditions"][name])
            case [("Fn::Not", [one])]:
                return not self.made(one)
            case [("Fn::And", parts)]:
                return all(map(self.made, parts))
            case [("Fn::Equals", [one, other])]:
                return self.made(one) == self.made(other)
            case [("Fn::If", [name, then, otherwise])]:
                return self.made(then if self.made({"Condition": name}) else otherwise)
            case [("Fn::FindInMap", [name, key, value])]:
                return self.source["Mappings"][name][self.made(key)][value]
            case [("Fn::Split", [separator, text])]:
                return self.made(text).split(separator)
            case [("Fn::Select", [index, items])]:
                return self.made(items)[index]
            case [("Fn::Sub", given)]:
                text, own = (given, {}) if isinstance(given, str) else given
                values = {**self.known, **self.made(own)}
                filled = re.sub(r"\$\{([\w.:]+)\}", lambda found: str(values.get(found[1], found[1])), text)
                return filled.replace("${!", "${")
        values = {key: self.made(value) for key, value in node.items()}
        return {key: value for key, value in values.items() if value != "AWS::NoValue"}

    def resources_and_outputs(self) -> dict[str, Any]:
        """Return the resources and outputs whose condition holds, by their ids."""
        return {
            name: self.made({key: value for key, value in node.items() if key != "Condition"})
            for name, node in {**self.source["Resources"], **self.source["Outputs"]}.items()
            if "Condition" not in node or self.made({"Condition": node["Condition"]})
        }


ACCOUNT = {
    "AWS::StackName": "a-stack",
    "AWS::Region": "eu-central-1",
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}


def environment(**parameters: str) -> dict[str, str]:
    """Return the function's environment under the given parameters; a resource has its own name as its value."""
    variables: dict[str, str] = stack(**parameters)["RelayFunction"]["Properties"]["Environment"]["Variables"]
    return variables


def default_settings(**changes: str) -> Settings:
    """Return the function's settings under the template's defaults, with these environment variables changed."""
    return Settings.from_environment({**environment(), **changes})


def stack(**known: str) -> dict[str, Any]:
    """Return the resources and outputs of `a-stack`; `known` has parameters, and attributes as `Name.Attribute`."""
    defaults = {name: str(parameter["Default"]) for name, parameter in template()["Parameters"].items()}
    given = {**defaults, **ACCOUNT, **known}
    bus = "" if given["EventBusName"] == "default" else f"{given['EventBusName']}/"
    rule = f"arn:aws:events:eu-central-1:111122223333:rule/{bus}a-stack-ResultRule-1U44TLUZ7OR55"
    return _Stack(template(), {"ResultRule.Arn": rule, **given}).resources_and_outputs()


def monitoring(resource_type: str, **parameters: str) -> dict[str, dict[str, Any]]:
    """Return the monitoring resources of one type for `a-stack`, by logical id. By default, all of them exist."""
    given = {"EventRoute": "function", "AlarmTopicArn": "a-topic", "AlarmEmail": "a@example.com", **parameters}
    passed = stack(**given)["MonitoringStack"]["Properties"]["Parameters"]
    made = _Stack(template("monitoring"), {**ACCOUNT, **passed}).resources_and_outputs()
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
