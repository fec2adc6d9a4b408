"""`modal dict`: dicts and what is in them."""

from __future__ import annotations

import itertools
from typing import Any, Optional

import click

from modal.cli.command import Group
from modal.cli.options import argument, confirm, env_option, json_option, yes_option
from modal.cli.stored import Noun, add_commands, name_argument, shown, text_of, unreadable


@click.group("dict", cls=Group, help="Manage `modal.Dict` objects and inspect their contents.")
def dict_() -> None:
    """See `help`."""


def _cls() -> Any:
    from modal._dict import Dict

    return Dict


_noun = Noun("Dict", "entries", _cls, ["Entries"], lambda info: [info.size])
add_commands(
    dict_,
    _noun,
    """Create a named Dict object.

Note: This is a no-op when the Dict already exists.""",
)


@dict_.command("clear", help="Clear the contents of a named Dict by deleting all of its data.")
@name_argument
@yes_option
@env_option
def clear(name: str, yes: bool, env: Optional[str]) -> None:
    """See `help`."""
    found = _noun.named(name, env).hydrate()
    confirm(f"Delete all entries of the Dict {name!r}? This cannot be undone.", yes)
    found.clear()
    click.echo(f"Cleared the Dict {name!r}.")


@dict_.command(
    "get",
    help="""Print the value for a specific key.

Note: When using the CLI, keys are always interpreted as having a string type.""",
)
@name_argument
@argument("KEY")
@env_option
def get(name: str, key: str, env: Optional[str]) -> None:
    """See `help`."""
    try:
        value = _noun.named(name, env)[key]
    except KeyError:
        raise click.ClickException(f"There is no key {key!r} in the Dict {name!r}.") from None
    click.echo(text_of(value))


@dict_.command(
    "items",
    help="""Print the contents of a Dict.

Note: By default, this command truncates the contents. Use the `N` argument to control the
amount of data shown or the `--all` option to retrieve the entire Dict, which may be slow.""",
)
@name_argument
@argument("N", "Limit the number of entries shown", type=click.IntRange(min=0), default=20)
@click.option("-a", "--all", "show_all", is_flag=True, help="Ignore N and print all entries in the Dict (may be slow)")
@click.option("-r", "--repr", "use_repr", is_flag=True, help="Display items using `repr()` to see more details")
@json_option
@env_option
def items(name: str, n: int, show_all: bool, use_repr: bool, as_json: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal.cli.tables import show_table

    found = iter(_noun.named(name, env)._readable_items(unreadable))
    entries = list(found if show_all else itertools.islice(found, n))
    more = not show_all and next(found, None) is not None
    rows = [[shown(key, use_repr, as_json), shown(value, use_repr, as_json)] for key, value in entries]
    if more and not as_json:
        rows.append(["...", "..."])
    show_table("", ["Key", "Value"], rows, as_json)
