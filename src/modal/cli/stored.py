"""What `modal dict` and `modal queue` share."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Callable, List, NamedTuple, Optional

import click

from modal.cli.options import argument, choose_environment, confirm, env_option, json_option, yes_option

if TYPE_CHECKING:
    from modal._protocol.messages.object import ObjectInfo

name_argument = argument("NAME")


class Unreadable(NamedTuple):
    """Stands for a key, value or item that cannot be loaded on this machine."""

    reason: str


def unreadable(error: Exception) -> Unreadable:
    """Of a DeserializationError."""
    return Unreadable(str(error).partition(". ")[0])


class Noun(NamedTuple):
    """`cls` imports the class; `row` shows one of them in a list, after its name and time, under `columns`."""

    title: str
    contents: str
    cls: Callable[[], Any]
    columns: List[str]
    row: Callable[[ObjectInfo], List[Any]]

    def named(self, name: str, env: Optional[str], create: bool = False) -> Any:
        """The object of this name in the environment that was chosen."""
        environment = choose_environment(env) or None
        return self.cls().from_name(name, environment_name=environment, create_if_missing=create)


def add_commands(group: click.Group, noun: Noun, create_help: str) -> None:
    """`create`, `list` and `delete`."""
    title, contents = noun.title, noun.contents

    @group.command("create", help=create_help)
    @name_argument
    @env_option
    def create(name: str, env: Optional[str]) -> None:
        noun.named(name, env, create=True).hydrate()
        click.echo(f"The {title} {name!r} is ready.")

    @group.command("list", help=f"List all named {title}s.")
    @json_option
    @env_option
    def list_(as_json: bool, env: Optional[str]) -> None:
        from modal.cli.tables import moment, show_table

        environment = choose_environment(env)
        rows = [[info.name, moment(info.created_at), *noun.row(info)] for info in listed(title.lower(), environment)]
        heading = f"{title}s" + (f" in environment: {environment}" if environment else "")
        show_table(heading, ["Name", "Created at", *noun.columns], rows, as_json)

    @group.command("delete", help=f"Delete a named {title} and all of its data.")
    @name_argument
    @yes_option
    @env_option
    def delete(name: str, yes: bool, env: Optional[str]) -> None:
        noun.named(name, env).hydrate()
        confirm(f"Delete the {title} {name!r} with all its {contents}? This cannot be undone.", yes)
        noun.cls().delete(name)
        click.echo(f"Deleted the {title} {name!r}.")


def listed(kind: str, environment: str) -> List[ObjectInfo]:
    """The named dicts or queues of an environment."""
    from modal._protocol.messages.object import ObjectList, ObjectsKnown
    from modal.cli.server import ask

    return ask(ObjectList(kind, environment), ObjectsKnown).objects


def shown(value: Any, use_repr: bool, as_json: bool) -> Any:
    """A key, value or item as a command prints it; in JSON what JSON has stays what it is."""
    if as_json and not use_repr and not isinstance(value, Unreadable):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return text_of(value)
        return value
    return text_of(value, use_repr)


def text_of(value: Any, use_repr: bool = False) -> str:
    """As `str` (or `repr`) has it; a stand-in for what cannot be read here, or where its class fails to say."""
    if isinstance(value, Unreadable):
        return f"<{value.reason}>"
    try:
        text = repr(value) if use_repr else str(value)
    except Exception as error:
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
