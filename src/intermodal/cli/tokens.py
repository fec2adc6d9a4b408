"""`intermodal token`: who may connect from elsewhere."""

from __future__ import annotations

import json

import click

from intermodal.cli import tables
from intermodal.cli.asking import ask
from modal._protocol.messages.secret import Token, TokenCreate, TokenList, TokenRevoke, TokensKnown
from modal._protocol.messages.wire import Done


@click.group()
def token() -> None:
    """Tokens for clients elsewhere. (On this machine none is needed.)"""


@token.command("new")
@click.option("--note", default="", help="What it is for; shown by `list` and in histories of deployments.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def new(note: str, as_json: bool) -> None:
    """Make a token. Its secret is shown this once."""
    made = ask(TokenCreate(note), Token)
    if as_json:
        click.echo(json.dumps({"token_id": made.token_id, "token_secret": made.token_secret}))
        return
    click.echo(f"MODAL_TOKEN_ID={made.token_id}\nMODAL_TOKEN_SECRET={made.token_secret}")
    click.echo("The secret is not shown again.", err=True)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool) -> None:
    """List tokens."""
    tables.tokens(ask(TokenList(), TokensKnown).tokens, as_json)


@token.command("revoke")
@click.argument("token_id")
def revoke(token_id: str) -> None:
    """Make a token worthless for new connections."""
    ask(TokenRevoke(token_id), Done)
    click.echo(f"Revoked {token_id}.")
