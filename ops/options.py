"""Options that several commands share, and the question before a change."""

import sys

import click

from ops.errors import CommandError

STATUS = click.Choice(["Success", "Failed"])

dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


def confirmed(question: str, *, dry_run: bool, yes: bool) -> bool:
    """Return whether to make a change; ask unless --dry-run or --yes is given."""
    if dry_run:
        click.echo("Dry run: nothing was done.")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise CommandError("No terminal to ask on: add --yes, or --dry-run to see what the command would do.")
    return click.confirm(question)
