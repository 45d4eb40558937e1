"""What the tests ask of `template.yaml`."""

from typing import Any

from local.template import resolved, template

__all__ = ["alarms", "defaults", "environment", "template"]


def defaults() -> dict[str, str]:
    """Return the parameters' defaults, as CloudFormation hands them on: as text."""
    return {name: str(parameter["Default"]) for name, parameter in template()["Parameters"].items()}


def environment(parameters: dict[str, str]) -> dict[str, str]:
    """Return the function's environment under the given parameters; what AWS fills in is made up."""
    variables = template()["Resources"]["RelayFunction"]["Properties"]["Environment"]["Variables"]
    named = {name: value["Ref"] if "Ref" in value else str(value) for name, value in variables.items()}
    return {name: parameters.get(value, value) for name, value in named.items()}


def alarms() -> dict[str, dict[str, Any]]:
    """Return the alarms' properties, resolved, by their names without the stack's."""
    loaded = template()
    known = defaults() | {"AWS::StackName": "a-stack", "AWS::Region": "eu-central-1"}
    found = [one["Properties"] for one in loaded["Resources"].values() if one["Type"] == "AWS::CloudWatch::Alarm"]
    properties = [resolved(one, known, loaded["Mappings"]) for one in found]
    return {one["AlarmName"].removeprefix("a-stack-"): one for one in properties}
