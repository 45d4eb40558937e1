"""Reads `template.yaml` as data, with CloudFormation's short tags as the functions they stand for."""

from typing import Any

import yaml

from local.stack import ROOT


class _Loader(yaml.SafeLoader):
    pass


def _function(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


def template() -> dict[str, Any]:
    """Return the template."""
    loaded: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), _Loader)
    return loaded


def defaults() -> dict[str, str]:
    """Return the parameters' defaults, as CloudFormation hands them on: as text."""
    return {name: str(parameter["Default"]) for name, parameter in template()["Parameters"].items()}


def environment(parameters: dict[str, str]) -> dict[str, str]:
    """Return the function's environment under the given parameters; what AWS fills in is made up."""
    variables = template()["Resources"]["RelayFunction"]["Properties"]["Environment"]["Variables"]
    named = {name: value["Ref"] if "Ref" in value else str(value) for name, value in variables.items()}
    return {name: parameters.get(value, value) for name, value in named.items()}
