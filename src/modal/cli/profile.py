"""`modal profile`: sections of the settings file."""

from __future__ import annotations

import click

from modal.cli.command import Group
from modal.cli.options import argument, json_option


@click.group("profile", cls=Group, help="Switch between Modal profiles.")
def profile() -> None:
    """See `help`."""


@profile.command("activate", help="Change the active Modal profile.")
@argument("PROFILE", "Modal profile to activate.")
def activate(profile: str) -> None:
    """See `help`."""
    from modal.config import config_set_active_profile

    config_set_active_profile(profile)
    click.echo(f"Active profile: {profile}")


@profile.command("current", help="Print the currently active Modal profile.")
def current() -> None:
    """See `help`."""
    from modal.config import active_profile

    click.echo(active_profile())


@profile.command("list", help="Show all Modal profiles and highlight the active one.")
@json_option
def list_profiles(as_json: bool) -> None:
    """Without asking any server: what the file holds."""
    from modal.cli.tables import show_json, show_table
    from modal.config import active_profile, config_profiles
    from modal.exception import InvalidError

    try:
        active = active_profile()
    except InvalidError:
        active = ""  # several profiles and none chosen: the list is what helps to choose
    names = config_profiles() or ["default"]
    if as_json:
        show_json([{"name": name, "active": name == active} for name in names])
        return
    show_table("", ["", "Profile"], [["•" if name == active else " ", name] for name in names], False)
