"""The root of the command line, and what becomes of whatever a command raises."""

from __future__ import annotations

from typing import List

import click

from modal.cli.command import Group

COMMANDS = {
    "run": ("modal.cli.run:run", "Run a Modal function or local entrypoint."),
    "deploy": ("modal.cli.deploy:deploy", "Deploy a Modal application."),
    "serve": ("modal.cli.serve:serve", "Run a web endpoint(s) associated with a Modal app and hot-reload code."),
    "shell": ("modal.cli.shell:shell", "Run a command or interactive shell inside a Modal container."),
    "app": ("modal.cli.app:app", "Manage deployed and running apps."),
    "container": ("modal.cli.container:container", "Manage and connect to running containers."),
    "launch": ("modal.cli.launch:launch", "Open a serverless app instance on Modal."),
    "secret": ("modal.cli.secret:secret", "Manage secrets."),
    "volume": ("modal.cli.volume:volume", "Read and edit `modal.Volume` volumes."),
    "nfs": ("modal.cli.nfs:nfs", "Read and edit `modal.NetworkFileSystem` file systems."),
    "dict": ("modal.cli.dict:dict_", "Manage `modal.Dict` objects and inspect their contents."),
    "queue": ("modal.cli.queue:queue", "Manage `modal.Queue` objects and inspect their contents."),
    "environment": ("modal.cli.environment:environment", "Create and interact with Environments"),
    "profile": ("modal.cli.profile:profile", "Switch between Modal profiles."),
    "config": ("modal.cli.config:config", "Manage client configuration for the current profile."),
    "token": ("modal.cli.token:token", "Manage tokens."),
    "setup": ("modal.cli.setup:setup", "Bootstrap Modal’s configuration."),
}

HELP = """\
Run Python functions in containers, on machines that you own.

`modal run my_app.py` runs an app once; `modal deploy my_app.py` keeps it. Without a server of your own, a local
one is started in the background; `intermodal status` shows it.
"""


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import modal

    click.echo(f"modal client version: {modal.__version__}")
    ctx.exit()


@click.group("modal", cls=Group, lazy=COMMANDS, help=HELP)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def root() -> None:
    """See HELP."""


def run_command_line(args: List[str]) -> int:
    """Run one command; returns the exit status."""
    from modal.cli.failures import report

    try:
        with root.make_context("modal", args) as context:
            root.invoke(context)
    except BaseException as error:  # whatever it is, the user sees a sentence and the shell a status
        return report(error)
    return 0
