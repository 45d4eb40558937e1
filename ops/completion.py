"""`completion`: print the completion script of a shell."""

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

PROGRAM = "flash-call-relay"
VARIABLE = "_FLASH_CALL_RELAY_COMPLETE"  # as click derives it from the program's name
SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL: bash, zsh or fish.

    The start-up file of the shell evaluates it: `eval "$(flash-call-relay completion bash)"` in ~/.bashrc.
    """
    complete = SHELLS[shell](context.find_root().command, {}, PROGRAM, VARIABLE)
    click.echo(complete.source(), nl=False)
