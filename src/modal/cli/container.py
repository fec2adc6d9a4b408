"""`modal container`: containers that run now."""

from __future__ import annotations

from typing import Optional

import click

from modal.cli.command import Group
from modal.cli.options import argument, choose_environment, env_option, json_option
from modal.cli.planned import planned

container_id_argument = argument("CONTAINER_ID", "Container ID")


@click.group("container", cls=Group, help="Manage and connect to running containers.")
def container() -> None:
    """See `help`."""


@container.command("list", help="List all containers that are currently running.")
@env_option
@json_option
def list_containers(env: Optional[str], as_json: bool) -> None:
    """See `help`."""
    from modal import Client, _sync
    from modal._protocol.messages.container import ContainerList, Containers
    from modal.cli.server import ask
    from modal.cli.tables import moment, show_table

    environment = choose_environment(env)
    found = ask(ContainerList(environment), Containers).containers
    rows = [[info.container_id, info.app_id, info.app_name, moment(info.started_at)] for info in found]
    shown = environment or _sync.run(Client.current().welcome()).environment
    show_table(
        f"Active Containers in environment: {shown}",
        ["Container ID", "App ID", "App Name", "Start Time"],
        rows,
        as_json,
    )


@container.command("logs", help="Show logs for a specific container, streaming while active.")
@container_id_argument
def logs(container_id: str) -> None:
    """See `help`."""
    from modal._protocol.messages.app import AppInfo, AppState
    from modal._protocol.messages.container import ContainerList, ContainerLocate, Containers
    from modal.cli.follow import follow_logs
    from modal.cli.server import ask

    info = ask(ContainerLocate(container_id), AppInfo)
    running = info.state != AppState.STOPPED and any(
        found.container_id == container_id for found in ask(ContainerList(app_id=info.app_id), Containers).containers
    )
    follow_logs(info.app_id, container_id=container_id, active=running)


container.add_command(
    planned(
        "exec",
        "Execute a command in a container.",
        container_id_argument,
        argument(
            "COMMAND",
            "A command to run inside the container. To pass command-line flags or options, add `--` before the start "
            "of your commands. For example: `modal container exec <id> -- /bin/bash -c 'echo hi'`",
            nargs=-1,
            required=True,
        ),
        click.option("--pty/--no-pty", default=None, help="Run the command using a PTY."),
    )
)


@container.command(
    "stop",
    help="""Stop a currently-running container and reassign its in-progress inputs.

This will send the container a SIGINT signal that Modal will handle.""",
)
@container_id_argument
def stop(container_id: str) -> None:
    """See `help`."""
    from modal._protocol.messages.container import ContainerStop
    from modal._protocol.messages.wire import Done
    from modal.cli.server import ask

    ask(ContainerStop(container_id), Done)
    click.echo(f"Container {container_id} is being stopped; its inputs go to other containers.")
