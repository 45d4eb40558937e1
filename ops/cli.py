"""`flash-call-relay`: the command line, its common options and its exit statuses."""

import errno
import os
import signal
import sys

import click

from flash_call_relay import __version__
from ops.account import account
from ops.doctor import doctor
from ops.errors import explain
from ops.ledger import forget
from ops.parked import dead, parked
from ops.pause import pause, resume
from ops.send import send
from ops.stack import Stack
from ops.story import story
from ops.watch import watch
from sandbox.prove import prove

PROGRAM, VARIABLE = "flash-call-relay", "FLASH_CALL_RELAY_STACK"
UNUSABLE, INTERRUPTED = 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True})
@click.option("--stack", default=PROGRAM, envvar=VARIABLE, show_envvar=True, help="The relay's CloudFormation stack.")
# boto3 reads AWS_DEFAULT_REGION, and not AWS_REGION.
@click.option("--region", envvar="AWS_REGION", help="The AWS region.  [default: AWS_REGION, or that of the profile]")
@click.option("--profile", help="The AWS profile.  [default: AWS_PROFILE]")
@click.version_option(__version__, message="%(version)s")
@click.pass_context
def relay(context: click.Context, stack: str, region: str | None, profile: str | None) -> None:
    """Operate a deployed Flash Call Relay: check it, send results, list and replay parked results.

    All commands find the queues, the function and the secret in the stack's outputs. The options of this page stand
    before the command. Exit status: 0 if all is well, 1 if something is wrong or was refused, 2 if the command can't
    run, 130 if it was interrupted.
    """
    context.obj = Stack(stack, region=region, profile=profile)


for _command in (doctor, watch, send, account, story, parked, dead, forget, pause, resume, prove):
    relay.add_command(_command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    color = False if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" else None
    try:
        status: object = relay(args=arguments, prog_name=PROGRAM, standalone_mode=False, color=color)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return UNUSABLE
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. Nothing is lost.", err=True)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a traceback would show the text of the exception
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # else Python reports it again when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.echo(explain(error), err=True)
        return UNUSABLE
    return status if isinstance(status, int) else 0
