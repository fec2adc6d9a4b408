"""`modal dict`: documented, not implemented yet."""

from __future__ import annotations

import click

from modal.cli.command import Group
from modal.cli.options import argument, env_option, json_option, yes_option
from modal.cli.planned import planned


@click.group("dict", cls=Group, help="Manage `modal.Dict` objects and inspect their contents.")
def dict_() -> None:
    """See `help`."""


name = argument("NAME")

for command in (
    planned(
        "create",
        """Create a named Dict object.

Note: This is a no-op when the Dict already exists.""",
        name,
        env_option,
    ),
    planned("list", "List all named Dicts.", json_option, env_option),
    planned("clear", "Clear the contents of a named Dict by deleting all of its data.", name, yes_option, env_option),
    planned("delete", "Delete a named Dict and all of its data.", name, yes_option, env_option),
    planned(
        "get",
        """Print the value for a specific key.

Note: When using the CLI, keys are always interpreted as having a string type.""",
        name,
        argument("KEY"),
        env_option,
    ),
    planned(
        "items",
        """Print the contents of a Dict.

Note: By default, this command truncates the contents. Use the `N` argument to control the
amount of data shown or the `--all` option to retrieve the entire Dict, which may be slow.""",
        name,
        argument("N", "Limit the number of entries shown", type=int, default=20),
        click.option("-a", "--all", is_flag=True, help="Ignore N and print all entries in the Dict (may be slow)"),
        click.option("-r", "--repr", is_flag=True, help="Display items using `repr()` to see more details"),
        json_option,
        env_option,
    ),
):
    dict_.add_command(command)
