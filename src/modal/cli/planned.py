"""Documented commands that this version does not have yet: they show their help and refuse to run."""

from __future__ import annotations

from typing import Any, Callable, NoReturn

import click

from modal.cli.command import Command

Decorator = Callable[[Callable[..., Any]], Any]


def not_yet(what: str) -> NoReturn:
    """Refuse with the one clear sentence. Raises NotImplementedYetError."""
    from modal.exception import NotImplementedYetError

    raise NotImplementedYetError(f"{what} is not implemented yet in this version of Intermodal.")


def planned(name: str, help: str, *decorators: Decorator) -> Command:
    """A command with its documented options and arguments, in the order in which they are shown."""

    def refuse(**_values: Any) -> None:
        not_yet(f"`{click.get_current_context().command_path}`")

    function: Any = refuse
    for decorator in reversed(decorators):
        function = decorator(function)
    command: Command = click.command(name, cls=Command, help=help)(function)
    return command
