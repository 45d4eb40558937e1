"""`pause` and `resume`: stop the relay from taking results in, and start it again; whatever comes meanwhile waits."""

import time
from collections.abc import Callable

import click

from ops import show
from ops.problems import Problem
from ops.stack import Stack

TARGET = "Relay"  # the rule's, in template.yaml
PATIENCE_S = 120
GLANCE_S = 0.5


@click.command()
@click.pass_obj
def pause(make_stack: Callable[[], Stack]) -> None:
    """Stop relaying. Results wait on the result queue, none is received, so none is used up.

    The event source mapping is disabled. Where the rule sends events straight to the function, it sends them to the
    result queue meanwhile: a rule that is disabled would drop them.
    """
    stack = make_stack()
    if _retarget(stack, stack.output("ResultQueueArn")):
        click.echo("The rule sends events to the result queue now.")
    _switch(stack, enabled=False)
    depth = stack.depth("ResultQueueUrl")
    horizon_s = int(stack.environment["RETRY_HORIZON_SECONDS"])
    click.echo(
        f"{stack.name} is paused; {show.count(depth.total, 'result')} waiting. The queue keeps each for "
        f"{show.span(depth.retention_s)}. Those older than {show.span(horizon_s)} by then are tried once after "
        "`resume`, and parked if that fails."
    )


@click.command()
@click.pass_obj
def resume(make_stack: Callable[[], Stack]) -> None:
    """Relay again what has waited, and what comes."""
    stack = make_stack()
    _switch(stack, enabled=True)
    if _retarget(stack, stack.output("FunctionArn")):
        click.echo("The rule sends events to the function again.")
    click.echo(f"{stack.name} is relaying.")


def _switch(stack: Stack, *, enabled: bool) -> None:
    client, wanted = stack.client("lambda"), "Enabled" if enabled else "Disabled"
    mapping = stack.output("EventSourceMappingId")
    deadline = time.monotonic() + PATIENCE_S
    asked = False
    while (state := client.get_event_source_mapping(UUID=mapping)["State"]) != wanted:
        if not asked:
            try:
                client.update_event_source_mapping(UUID=mapping, Enabled=enabled)
                asked = True
            except (client.exceptions.ResourceInUseException, client.exceptions.ResourceConflictException):
                pass  # it is on its way to another state
        if time.monotonic() > deadline:
            raise Problem(
                f"The event source mapping is {state}, not {wanted}, after {PATIENCE_S} s: repeat the command."
            )
        time.sleep(GLANCE_S)


def _retarget(stack: Stack, arn: str) -> bool:
    """Point the rule of a stack with `EventRoute: function` there; return whether it had to be."""
    if stack.parameters.get("EventRoute") != "function":
        return False
    events, rule = stack.client("events"), stack.rule
    targets = events.list_targets_by_rule(**rule)["Targets"]
    target = next((target for target in targets if target["Id"] == TARGET), None)
    if target is None:
        raise Problem(f"The rule {rule['Rule']} has no target {TARGET!r}: was it changed by hand? Deploy again.")
    if target["Arn"] == arn:
        return False
    reply = events.put_targets(**rule, Targets=[{**target, "Arn": arn}])
    if reply["FailedEntryCount"]:
        raise Problem(f"EventBridge refuses the target {arn}: {reply['FailedEntries'][0].get('ErrorMessage')}")
    return True
