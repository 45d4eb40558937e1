"""`pause` and `resume`: stop the relay from receiving results, and start it again."""

import time
from contextlib import suppress

import click

from ops.errors import CommandError
from ops.output import count, duration
from ops.queues import RESULTS
from ops.stack import Stack

PATIENCE_S, POLL_S = 120, 0.5


@click.command()
@click.pass_obj
def pause(stack: Stack) -> None:
    """Stop relaying. Results wait on the result queue, and SQS counts no receives.

    The command disables the event source mapping. If the rule sends events straight to the function, the command
    points it at the result queue: a disabled rule would drop the events.
    """
    if _retarget(stack, "FunctionArn", "ResultQueueArn"):
        click.echo("The rule sends events to the result queue now.")
    _switch_mapping(stack, enabled=False)
    depth = RESULTS.of(stack).depth()
    waiting, kept = count(depth.total, "result"), duration(depth.retention_s)
    click.echo(f"{stack.name} is paused; {waiting} waiting. The queue keeps each result for {kept}.")


@click.command()
@click.pass_obj
def resume(stack: Stack) -> None:
    """Start relaying again, with the results that have waited."""
    _switch_mapping(stack, enabled=True)
    if _retarget(stack, "ResultQueueArn", "FunctionArn"):
        click.echo("The rule sends events to the function again.")
    click.echo(f"{stack.name} is relaying.")


def _switch_mapping(stack: Stack, *, enabled: bool) -> None:
    client, wanted = stack.client("lambda"), "Enabled" if enabled else "Disabled"
    mapping, deadline = stack.output("EventSourceMappingId"), time.monotonic() + PATIENCE_S
    while (state := client.get_event_source_mapping(UUID=mapping)["State"]) != wanted:
        with suppress(client.exceptions.ResourceInUseException, client.exceptions.ResourceConflictException):
            client.update_event_source_mapping(UUID=mapping, Enabled=enabled)  # else another change is in progress
        if time.monotonic() > deadline:
            raise CommandError(f"After {PATIENCE_S} s the event source mapping is {state}: repeat the command.")
        time.sleep(POLL_S)


def _retarget(stack: Stack, old: str, new: str) -> bool:
    """Point the rule from one output's ARN to another's, if `EventRoute` is `function`; return whether it changed."""
    if stack.parameters.get("EventRoute") != "function":
        return False
    events, old, new = stack.client("events"), stack.output(old), stack.output(new)
    targets = {one["Arn"]: one for one in events.list_targets_by_rule(**stack.rule)["Targets"]}
    if new in targets:
        return False
    if old not in targets:
        raise CommandError(f"The rule {stack.rule['Rule']} sends events to neither queue nor function: run `doctor`.")
    if events.put_targets(**stack.rule, Targets=[{**targets[old], "Arn": new}])["FailedEntryCount"]:
        raise CommandError(f"EventBridge refused the target {new}: run `doctor`.")
    return True
