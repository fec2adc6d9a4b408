"""`modal setup`: the first thing that a new user runs."""

from __future__ import annotations

from typing import Optional

import click

from modal.cli.command import Command


@click.command("setup", cls=Command, help="Bootstrap Modal’s configuration.")
@click.option("--profile", metavar="TEXT", default=None)
def setup(profile: Optional[str]) -> None:
    """Check that a server answers (where none is configured, one is started here), and say what to do next."""
    from modal import _sync
    from modal.cli.server import client
    from modal.cli.token import create_token

    current = client()
    welcome = _sync.run(current.welcome())
    click.echo(f"Connected to {current.server_url} (Intermodal {welcome.software or 'of an unknown version'}).")
    if welcome.dashboard_url:
        click.echo(f"Dashboard: {welcome.dashboard_url}")
    create_token(profile, activate=True, verify=True)
    click.echo("Ready. Try: modal run your_program.py")
