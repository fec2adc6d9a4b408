"""`intermodal proxy-token`: who may call web functions with `requires_proxy_auth=True`."""

from __future__ import annotations

import json

import click

from intermodal.cli import tables
from intermodal.cli.asking import ask_workspace
from modal._protocol.messages.proxy import (
    ProxyToken,
    ProxyTokenCreate,
    ProxyTokenList,
    ProxyTokenRevoke,
    ProxyTokensKnown,
)
from modal._protocol.messages.wire import Done


@click.group("proxy-token")
def proxy_token() -> None:
    """Proxy auth tokens: what callers of web functions with requires_proxy_auth=True show.

    A token is good for all such functions of the workspace. Any member may manage them: with MODAL_SERVER_URL and
    a token of their own from elsewhere, without on the server's machine.
    """


@proxy_token.command("new")
@click.option("--note", default="", help="What it is for; shown by `list`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def new(note: str, as_json: bool) -> None:
    """Make a token. Its secret is shown this once."""
    made = ask_workspace(ProxyTokenCreate(note), ProxyToken)
    if as_json:
        click.echo(json.dumps({"token_id": made.token_id, "token_secret": made.token_secret}))
        return
    click.echo(f"TOKEN_ID={made.token_id}\nTOKEN_SECRET={made.token_secret}")
    click.echo(
        'The secret is not shown again. Use: curl -H "Modal-Key: $TOKEN_ID" -H "Modal-Secret: ..." URL', err=True
    )


@proxy_token.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool) -> None:
    """List tokens."""
    tables.proxy_tokens(ask_workspace(ProxyTokenList(), ProxyTokensKnown).tokens, as_json)


@proxy_token.command("revoke")
@click.argument("token_id")
def revoke(token_id: str) -> None:
    """Make a token worthless, at once."""
    ask_workspace(ProxyTokenRevoke(token_id), Done)
    click.echo(f"Revoked {token_id}.")
