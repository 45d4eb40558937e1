"""`pause` and `resume`: stop the relay from receiving results, and start it again."""

import time

import click
from botocore.exceptions import ClientError

from flash_call_relay.text import error_code
from ops.errors import CommandError
from ops.output import count, duration
from ops.queues import RESULTS
from ops.stack import Stack

BUSY = {"ResourceInUseException", "ResourceConflictException"}  # another change of the mapping is in progress
PATIENCE_S = 120
POLL_S = 0.5


@click.command()
@click.pass_obj
def pause(stack: Stack) -> None:
    """Stop relaying. Results wait on the result queue, and SQS counts no receives.

    The command disables the event source mapping. If the rule sends events straight to the function, the command
    points it at the result queue: a disabled rule would drop the events.
    """
    if _retarget(stack, stack.output("ResultQueueArn")):
        click.echo("The rule sends events to the result queue now.")
    _switch_mapping(stack, enabled=False)
    depth = RESULTS.of(stack).depth()
    horizon_s = int(stack.parameters["RetryHorizonSeconds"])
    click.echo(
        f"{stack.name} is paused; {count(depth.total, 'result')} waiting. The queue keeps each result for "
        f"{duration(depth.retention_s)}. After `resume`, a result older than {duration(horizon_s)} gets one attempt, "
        "and is parked if that fails."
    )


@click.command()
@click.pass_obj
def resume(stack: Stack) -> None:
    """Start relaying again, with the results that have waited."""
    _switch_mapping(stack, enabled=True)
    if _retarget(stack, stack.output("FunctionArn")):
        click.echo("The rule sends events to the function again.")
    click.echo(f"{stack.name} is relaying.")


def _switch_mapping(stack: Stack, *, enabled: bool) -> None:
    client, wanted = stack.client("lambda"), "Enabled" if enabled else "Disabled"
    mapping, deadline = stack.output("EventSourceMappingId"), time.monotonic() + PATIENCE_S
    while (state := client.get_event_source_mapping(UUID=mapping)["State"]) != wanted:
        try:
            client.update_event_source_mapping(UUID=mapping, Enabled=enabled)
        except ClientError as error:
            if error_code(error) not in BUSY:
                raise
        if time.monotonic() > deadline:
            raise CommandError(f"After {PATIENCE_S} s the event source mapping is {state}: repeat the command.")
        time.sleep(POLL_S)


def _retarget(stack: Stack, arn: str) -> bool:
    """Point the rule of a stack with `EventRoute: function` at an ARN; return whether that changed it."""
    if stack.parameters.get("EventRoute") != "function":
        return False
    events, rule = stack.client("events"), stack.rule
    targets = events.list_targets_by_rule(**rule)["Targets"]
    if len(targets) != 1:
        raise CommandError(f"The rule {rule['Rule']} has {count(len(targets), 'target')} and not one: run `doctor`.")
    if targets[0]["Arn"] == arn:
        return False
    if events.put_targets(**rule, Targets=[{**targets[0], "Arn": arn}])["FailedEntryCount"]:
        raise CommandError(f"EventBridge refused the target {arn}: run `doctor`.")
    return True
