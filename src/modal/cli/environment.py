"""`modal environment`: sub-divisions of the workspace."""

from __future__ import annotations

from typing import Optional

import click

from modal.cli.command import Group
from modal.cli.options import argument, confirm, json_option


@click.group(
    "environment",
    cls=Group,
    help="""Create and interact with Environments

Environments are sub-divisons of workspaces, allowing you to deploy the same app
in different namespaces. Each environment has their own set of Secrets and any
lookups performed from an app in an environment will by default look for entities
in the same environment.

Typical use cases for environments include having one for development and one for
production, to prevent overwriting production apps when developing new features
while still being able to deploy changes to a live environment.""",
)
def environment() -> None:
    """See `help`."""


@environment.command("list", help="List all environments in the current workspace")
@json_option
def list_environments(as_json: bool) -> None:
    """See `help`."""
    from modal._protocol.messages.secret import EnvironmentList, Environments
    from modal.cli.server import ask
    from modal.cli.tables import show_table
    from modal.config import config

    chosen = config.get("environment")
    rows = []
    for info in ask(EnvironmentList(), Environments).environments:
        active = info.name == chosen if chosen else info.default
        rows.append([info.name, info.web_suffix, active if as_json else "✓" if active else ""])
    show_table("Environments", ["name", "web suffix", "active"], rows, as_json)


@environment.command("create", help="Create a new environment in the current workspace")
@argument("NAME", "Name of the new environment. Must be unique. Case sensitive")
def create(name: str) -> None:
    """See `help`."""
    from modal._protocol.messages.secret import EnvironmentCreate
    from modal._protocol.messages.wire import Done
    from modal.cli.server import ask

    ask(EnvironmentCreate(name), Done)
    click.echo(f"Environment created: {name}")


@environment.command(
    "delete",
    help="""Delete an environment in the current workspace

Deletes all apps in the selected environment and deletes the environment irrevocably.""",
)
@argument("NAME", "Name of the environment to be deleted. Case sensitive")
@click.option(
    "--confirm/--no-confirm",
    "confirmed",
    default=False,
    show_default=True,
    help="Set this flag to delete without prompting for confirmation",
)
def delete(name: str, confirmed: bool) -> None:
    """See `help`."""
    from modal._protocol.messages.secret import EnvironmentDelete
    from modal._protocol.messages.wire import Done
    from modal.cli.server import ask

    confirm(f"Delete the environment {name!r} with all apps and objects in it? This cannot be undone.", confirmed)
    ask(EnvironmentDelete(name), Done)
    click.echo(f"Environment deleted: {name}")


@environment.command("update", help="Update the name or web suffix of an environment")
@argument("CURRENT_NAME")
@click.option("--set-name", metavar="TEXT", help="New name of the environment")
@click.option("--set-web-suffix", metavar="TEXT", help="New web suffix of environment (empty string is no suffix)")
def update(current_name: str, set_name: Optional[str], set_web_suffix: Optional[str]) -> None:
    """See `help`."""
    from modal._protocol.messages.secret import EnvironmentUpdate
    from modal._protocol.messages.wire import Done
    from modal.cli.server import ask

    if set_name is None and set_web_suffix is None:
        raise click.UsageError("Nothing to change: give --set-name or --set-web-suffix.", click.get_current_context())
    if set_name == "":
        raise click.UsageError(
            "An environment needs a name: --set-name must not be empty.", click.get_current_context()
        )
    ask(EnvironmentUpdate(current_name, set_name or "", set_web_suffix or "", set_web_suffix is not None), Done)
    click.echo(f"Environment updated: {set_name or current_name}")
