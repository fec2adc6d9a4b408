"""`modal token`: credentials for a server that asks for them."""

from __future__ import annotations

import sys
from typing import Optional

import click

from modal.cli.command import Group

PROFILE_HELP = (
    "Modal profile to set credentials for. If unspecified (and MODAL_PROFILE environment variable is not set), uses "
    "the workspace name associated with the credentials."
)


@click.group("token", cls=Group, help="Manage tokens.")
def token() -> None:
    """See `help`."""


profile_option = click.option("--profile", metavar="TEXT", default=None, help=PROFILE_HELP)
activate_option = click.option(
    "--activate/--no-activate",
    default=True,
    show_default=True,
    help="Activate the profile containing this token after creation.",
)
verify_option = click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Make a test request to verify the new credentials."
)


@token.command(
    "set",
    help="Set account credentials for connecting to Modal. If not provided with the command, you will be prompted "
    "to enter your credentials.",
)
@click.option("--token-id", metavar="TEXT", default=None, help="Account token ID.")
@click.option("--token-secret", metavar="TEXT", default=None, help="Account token secret.")
@profile_option
@activate_option
@verify_option
def set_token(
    token_id: Optional[str], token_secret: Optional[str], profile: Optional[str], activate: bool, verify: bool
) -> None:
    """`-` for the id or the secret: it is read from stdin, without being shown."""
    store_token(
        _entered(token_id, "Token ID"),
        _entered(token_secret, "Token secret"),
        profile,
        activate=activate,
        verify=verify,
    )


@token.command("new", help="Create a new token by using an authenticated web session.")
@profile_option
@activate_option
@verify_option
@click.option("--source", metavar="TEXT", default=None)
def new(profile: Optional[str], activate: bool, verify: bool, source: Optional[str]) -> None:
    """On a machine of one's own, the server itself makes the token."""
    create_token(profile, activate=activate, verify=verify)


def create_token(profile: Optional[str], *, activate: bool, verify: bool) -> None:
    """Make a token where the server wants one; say so where it does not."""
    from modal._protocol.messages.secret import Token, TokenCreate
    from modal.cli.server import ask, client

    url = client().server_url
    if url.startswith("unix:"):
        click.echo(f"No token is needed: the server of this machine ({url}) knows its owner by the socket.")
        click.echo("For a server elsewhere, its operator makes a token with `intermodal token new`; then run")
        click.echo("  modal token set --token-id ... --token-secret ...")
        return
    made = ask(TokenCreate("modal token new"), Token)
    store_token(made.token_id, made.token_secret, profile, activate=activate, verify=verify)


def store_token(token_id: str, token_secret: str, profile: Optional[str], *, activate: bool, verify: bool) -> None:
    """Write the token to the profile. Raises modal.exception's errors when the server refuses it."""
    import os

    from modal.config import config_path, store_profile

    workspace = ""
    if verify:
        workspace = _verified(token_id, token_secret)
    name = profile or os.environ.get("MODAL_PROFILE") or workspace or "default"
    store_profile(name, {"token_id": token_id, "token_secret": token_secret}, activate=activate)
    click.echo(f"Token written to {config_path()} in profile {name!r}{', which is now active' if activate else ''}.")


def _verified(token_id: str, token_secret: str) -> str:
    """The token's workspace, as the server says."""
    from modal import _sync
    from modal._client import Client

    candidate = Client.from_credentials(token_id, token_secret)
    try:
        click.echo(f"Verifying token against {candidate.server_url}")
        workspace: str = _sync.run(candidate.welcome()).workspace
    finally:
        candidate.close()
    click.echo("Token verified successfully!")
    return workspace


def _entered(value: Optional[str], what: str) -> str:
    if value is None or (value == "-" and sys.stdin.isatty()):
        return str(click.prompt(what, hide_input="secret" in what.lower() or value == "-"))
    if value == "-":
        line = sys.stdin.readline().strip()
        if not line:
            raise click.UsageError(f"{what}: stdin held nothing.", click.get_current_context())
        return line
    return value
