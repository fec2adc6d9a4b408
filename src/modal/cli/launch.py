"""`modal launch`: documented, not implemented yet."""

from __future__ import annotations

import click

from modal.cli.command import Group
from modal.cli.planned import Decorator, planned


@click.group(
    "launch",
    cls=Group,
    help="""Open a serverless app instance on Modal.

This command is in preview and may change in the future.""",
)
def launch() -> None:
    """See `help`."""


def _option(name: str, default: object = None) -> Decorator:
    return click.option(name, type=type(default) if default is not None else str, default=default, show_default=True)


size = (_option("--cpu", 8), _option("--memory", 32768), _option("--gpu"))
storage = (
    _option("--mount"),
    _option("--volume"),
    click.option("--detach/--no-detach", default=False, show_default=True),
)

launch.add_command(
    planned(
        "jupyter",
        "Start Jupyter Lab on Modal.",
        *size,
        _option("--timeout", 3600),
        _option("--image", "ubuntu:22.04"),
        _option("--add-python", "3.11"),
        *storage,
    )
)
launch.add_command(
    planned(
        "vscode",
        "Start Visual Studio Code on Modal.",
        *size,
        _option("--image", "debian:12"),
        _option("--timeout", 3600),
        *storage,
    )
)
