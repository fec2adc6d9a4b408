"""`modal secret`: named sets of environment variables."""

from __future__ import annotations

import sys
from typing import Dict, Optional, Tuple

import click

from modal.cli.command import Group
from modal.cli.options import argument, choose_environment, confirm, env_option, json_option, yes_option


@click.group("secret", cls=Group, help="Manage secrets.")
def secret() -> None:
    """See `help`."""


@secret.command("list", help="List your published secrets.")
@env_option
@json_option
def list_secrets(env: Optional[str], as_json: bool) -> None:
    """Names and times; never values."""
    from modal._protocol.messages.secret import SecretList, SecretsKnown
    from modal.cli.server import ask
    from modal.cli.tables import moment, show_table

    environment = choose_environment(env)
    found = ask(SecretList(environment), SecretsKnown).secrets
    rows = [[info.name, moment(info.created_at), moment(info.last_used_at) or None] for info in found]
    title = "Secrets" + (f" in environment: {environment}" if environment else "")
    show_table(title, ["Name", "Created at", "Last used at"], rows, as_json)


@secret.command("create", help="Create a new secret.")
@argument("SECRET_NAME")
@argument(
    "KEYVALUES",
    "Space-separated KEY=VALUE items. `KEY=-` reads the value from stdin.",
    nargs=-1,
    required=False,
    metavar="KEYVALUES...",
)
@env_option
@click.option("--from-dotenv", metavar="PATH", help="Read KEY=VALUE lines from a .env file (`-`: from stdin).")
@click.option("--from-json", metavar="PATH", help="Read a JSON object of strings from a file (`-`: from stdin).")
@click.option("--force", is_flag=True, help="Overwrite the secret if it already exists.")
def create(
    secret_name: str,
    keyvalues: Tuple[str, ...],
    env: Optional[str],
    from_dotenv: Optional[str],
    from_json: Optional[str],
    force: bool,
) -> None:
    """Values on the command line are seen by whoever lists processes; files and stdin are not."""
    from modal._object import check_object_name
    from modal._protocol.messages.secret import ObjectId, SecretCreate
    from modal._variables import check_variables
    from modal.cli.server import ask

    check_object_name(secret_name, "Secret")
    if [from_dotenv, from_json, *(item.partition("=")[2] for item in keyvalues)].count("-") > 1:
        raise click.UsageError("Only one thing can be read from stdin (`-`).", click.get_current_context())
    values: Dict[str, str] = {}
    if from_dotenv is not None:
        values.update(_read_dotenv(_read(from_dotenv)))
    if from_json is not None:
        values.update(_read_json(_read(from_json), from_json))
    values.update(_read_items(keyvalues))
    if not values:
        raise click.UsageError(
            "Missing argument 'KEYVALUES...': give KEY=VALUE items, --from-dotenv or --from-json.",
            click.get_current_context(),
        )
    check_variables(values, f"The secret {secret_name!r}")
    environment = choose_environment(env)
    ask(SecretCreate(values, secret_name, environment, overwrite=force), ObjectId)
    example = f'@app.function(secrets=[modal.Secret.from_name("{secret_name}")])'
    click.echo(f"Created a secret {secret_name!r} with the keys {', '.join(map(repr, values))}. Use it in an app:\n")
    click.echo(f"{example}\ndef some_function():\n    os.getenv({next(iter(values))!r})")


@secret.command("delete", help="Delete a named secret.")
@argument("SECRET_NAME", "Name of the modal.Secret to be deleted. Case sensitive")
@yes_option
@env_option
def delete(secret_name: str, yes: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal._protocol.messages.secret import SecretDelete
    from modal._protocol.messages.wire import Done
    from modal.cli.server import ask

    environment = choose_environment(env)
    confirm(f"Delete the secret {secret_name!r}? Apps that use it will fail to start.", yes)
    ask(SecretDelete(secret_name, environment), Done)
    click.echo(f"Deleted the secret {secret_name!r}.")


def _read_items(items: Tuple[str, ...]) -> Dict[str, str]:
    values: Dict[str, str] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise click.UsageError(f"{item!r} is no KEY=VALUE item.", click.get_current_context())
        if key in values:
            raise click.UsageError(f"The key {key!r} is given twice.", click.get_current_context())
        if value == "-":
            value = _read_hidden(key)
        values[key] = value
    return values


def _read_hidden(key: str) -> str:
    """A value from stdin: typed without being shown, or all that is piped in, without its last line's end."""
    stdin = sys.stdin
    if stdin.isatty():
        return str(click.prompt(f"Value of {key}", hide_input=True))
    value = stdin.read()
    if not value:
        raise click.UsageError(
            f"Nothing came on stdin for {key}. Write `{key}=` for an empty value.", click.get_current_context()
        )
    return value[:-1] if value.endswith("\n") else value


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path!r} cannot be read: {error}.", click.get_current_context()) from None


def _read_json(text: str, path: str) -> Dict[str, str]:
    import json

    try:
        values = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{path!r} is no JSON: {error}.", click.get_current_context()) from None
    if not isinstance(values, dict):
        raise click.UsageError(
            f"{path!r} must hold a JSON object whose values are strings.", click.get_current_context()
        )
    wrong = [key for key, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise click.UsageError(
            f"{path!r}: the value of {wrong[0]!r} is no string. Write it in quotes.", click.get_current_context()
        )
    return values


def _read_dotenv(text: str) -> Dict[str, str]:
    from modal.cli.dotenv import parse

    try:
        return parse(text)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
