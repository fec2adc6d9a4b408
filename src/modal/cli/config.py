"""`modal config`: settings of the current profile."""

from __future__ import annotations

import click

from modal.cli.command import Group
from modal.cli.options import argument


@click.group(
    "config",
    cls=Group,
    help="""Manage client configuration for the current profile.

Refer to https://modal.com/docs/reference/modal.config for a full explanation
of what these options mean, and how to set them.""",
)
def config() -> None:
    """See `help`."""


@config.command("show", help="Show current configuration values (debugging command).")
@click.option("--redact/--no-redact", default=True, show_default=True, help="Redact the `token_secret` value.")
def show(redact: bool) -> None:
    """One Python dictionary."""
    import pprint

    from modal.config import config as settings

    values = settings.to_dict()
    if redact and values.get("token_secret"):
        values["token_secret"] = "***"  # noqa: S105 - what stands in its place
    click.echo(pprint.pformat(values, sort_dicts=False))


@config.command(
    "set-environment",
    help="""Set the default Modal environment for the active profile

The default environment of a profile is used when no --env flag is passed to `modal run`, `modal deploy` etc.

If no default environment is set, and there exists multiple environments in a workspace, an error will be raised
when running a command that requires an environment.""",
)
@argument("ENVIRONMENT_NAME")
def set_environment(environment_name: str) -> None:
    """The environment must exist."""
    from modal._protocol.messages.secret import EnvironmentList, Environments
    from modal.cli.server import ask
    from modal.config import active_profile, store_profile
    from modal.exception import NotFoundError

    known = [info.name for info in ask(EnvironmentList(), Environments).environments]
    if environment_name not in known:
        raise NotFoundError(f"There is no environment {environment_name!r} (there are: {', '.join(known)}).")
    profile = active_profile()
    store_profile(profile, {"environment": environment_name})
    click.echo(f"Default environment of the profile {profile!r}: {environment_name}")
