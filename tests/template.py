"""What the tests ask of `template.yaml`."""

from local.template import template

__all__ = ["defaults", "environment", "template"]


def defaults() -> dict[str, str]:
    """Return the parameters' defaults, as CloudFormation hands them on: as text."""
    return {name: str(parameter["Default"]) for name, parameter in template()["Parameters"].items()}


def environment(parameters: dict[str, str]) -> dict[str, str]:
    """Return the function's environment under the given parameters; what AWS fills in is made up."""
    variables = template()["Resources"]["RelayFunction"]["Properties"]["Environment"]["Variables"]
    named = {name: value["Ref"] if "Ref" in value else str(value) for name, value in variables.items()}
    return {name: parameters.get(value, value) for name, value in named.items()}
