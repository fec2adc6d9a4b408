"""Options and arguments that many commands share."""

from __future__ import annotations

from typing import Any, Callable, Optional, TypeVar

import click

from modal.cli.command import Argument

F = TypeVar("F", bound=Callable[..., Any])

ENV_HELP = (
    "Environment to interact with. If not specified, Modal will use the default environment of your current "
    "profile, or the `MODAL_ENVIRONMENT` variable. Otherwise, raises an error if the workspace has multiple "
    "environments."
)
MODULE_HELP = "Interpret argument as a Python module path instead of a file/script path"


def argument(name: str, help: str = "", **attrs: Any) -> Callable[[F], F]:
    """A positional argument; `name` is shown as it stands (`FUNC_REF`)."""
    attrs.setdefault("metavar", _metavar(name, attrs))
    return click.argument(name.lower(), cls=Argument, help=help, **attrs)


def _metavar(name: str, attrs: Any) -> str:
    dots = "..." if attrs.get("nargs") == -1 else ""
    required = attrs.get("required", "default" not in attrs)
    return f"{name}{dots}" if required else f"[{name}]{dots}"


env_option = click.option("-e", "--env", metavar="TEXT", default=None, help=ENV_HELP)
json_option = click.option("--json/--no-json", "as_json", default=False, show_default=True)
yes_option = click.option("-y", "--yes", is_flag=True, help="Run without pausing for confirmation.")
module_option = click.option("-m", "use_module", is_flag=True, help=MODULE_HELP)


def choose_environment(env: Optional[str]) -> str:
    """Make `env` the environment of this process, name lookups at global scope included; returns its name or ""."""
    from modal.config import config

    if env:
        config.override_locally("environment", env)
    return str(config.get("environment") or "")


def confirm(question: str, yes: bool) -> None:
    """Ask before something is destroyed. Raises click.Abort on "no" and where nobody can answer."""
    if not yes:
        click.confirm(question, default=False, abort=True)


def needed(value: Optional[str], name: str) -> str:
    """The value of an argument that is shown as optional but is not. Raises click.UsageError."""
    if not value:
        raise click.UsageError(f"Missing argument '{name}'.", click.get_current_context())
    return value
