"""`flash-call-relay`: the commands, and what they have in common."""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from flash_call_relay import __version__
from ops import discard, doctor, intake, listing, replay, send, story
from ops.places import DEAD, PARKED, Place
from ops.problems import EXPLAINED, Problem, explain
from ops.stack import Stack

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
COMMON = ("--stack", "--region", "--profile")
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, the terminal is closed


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--stack",
    default="flash-call-relay",
    envvar="FLASH_CALL_RELAY_STACK",
    show_default=True,
    show_envvar=True,
    help="The relay's CloudFormation stack.",
)
# boto3 itself reads AWS_DEFAULT_REGION alone.
@click.option("--region", envvar="AWS_REGION", help="The AWS region, if not that of AWS_REGION or the profile.")
@click.option("--profile", help="The AWS profile, if not that of AWS_PROFILE.")
@click.version_option(__version__, message="%(version)s")
@click.pass_context
def relay(context: click.Context, stack: str, region: str | None, profile: str | None) -> None:
    """Run a deployed Flash Call Relay: check it, send results, look at what needs a person, replay it.

    All commands find the queues, the function and the secret by the stack's outputs. Exit status: 0 if all is well, 1
    if something is wrong or was refused, 2 if the command can't be carried out, 130 if it was interrupted.
    """
    if not stack:
        raise Problem("The stack's name is empty: give it with --stack.")
    context.obj = lambda: Stack(stack, region=region, profile=profile)


def _group(place: Place, text: str) -> click.Group:
    commands = [room.command(place) for room in (listing, replay, discard)]
    return click.Group(place.name, help=text, commands=commands)


COMMANDS: tuple[click.Command, ...] = (
    doctor.doctor,
    send.send,
    _group(PARKED, "List, replay or discard results that need a person, each parked with its reason."),
    _group(DEAD, "List, replay or discard what the relay itself failed on: dead letters of every shape."),
    story.story,
    intake.pause,
    intake.resume,
)
for _command in COMMANDS:
    relay.add_command(_command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status."""
    before = {number: signal.getsignal(number) for number in ENDINGS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, _interrupt)
    try:
        return _run(relay, arguments)
    except click.ClickException as error:
        error.show()
        return UNUSABLE
    except Problem as problem:
        return _say(str(problem), UNUSABLE)
    except EXPLAINED as error:
        return _say(explain(error), UNUSABLE)
    except (KeyboardInterrupt, click.Abort):
        return _say("Interrupted. Nothing is lost.", INTERRUPTED)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        head_is_gone = isinstance(error, BrokenPipeError)  # of `| head`
        return FAILED if head_is_gone else _say(f"The output can't be written: {error.strerror}.", UNUSABLE)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    for number in ENDINGS:  # once is enough: from here on we let go of what we hold
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(group: Callable[..., Any], arguments: list[str] | None) -> int:
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    status = group(
        args=_common_first(sys.argv[1:] if arguments is None else arguments),
        prog_name="flash-call-relay",
        standalone_mode=False,
        color=False if plain else None,
    )
    return status if isinstance(status, int) else 0


def _common_first(arguments: Sequence[str]) -> list[str]:
    """Put --stack and its like before the command: most people type them after it."""
    first, rest = [], []
    words = iter(arguments)
    for word in words:
        if word in COMMON:
            first += [word, *itertools.islice(words, 1)]
        elif word.partition("=")[0] in COMMON:
            first.append(word)
        else:
            rest.append(word)
    return first + rest


def _say(sentence: str, status: int) -> int:
    click.echo(sentence, err=True)
    return status
