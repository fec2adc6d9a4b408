"""`modal queue`: documented, not implemented yet."""

from __future__ import annotations

import click

from modal.cli.command import Group
from modal.cli.options import argument, env_option, json_option, yes_option
from modal.cli.planned import planned


@click.group("queue", cls=Group, help="Manage `modal.Queue` objects and inspect their contents.")
def queue() -> None:
    """See `help`."""


name = argument("NAME")
partition_option = click.option(
    "-p",
    "--partition",
    metavar="TEXT",
    help="Name of the partition to use, otherwise use the default (anonymous) partition.",
)

for command in (
    planned(
        "create",
        """Create a named Queue.

Note: This is a no-op when the Queue already exists.""",
        name,
        env_option,
    ),
    planned("delete", "Delete a named Queue and all of its data.", name, yes_option, env_option),
    planned("list", "List all named Queues.", json_option, env_option),
    planned(
        "clear",
        "Clear the contents of a queue by removing all of its data.",
        name,
        partition_option,
        click.option("-a", "--all", is_flag=True, help="Clear the contents of all partitions."),
        yes_option,
        env_option,
    ),
    planned(
        "peek",
        "Print the next N items in the queue or queue partition (without removal).",
        name,
        argument("N", type=int, default=1),
        partition_option,
        env_option,
    ),
    planned(
        "len",
        "Print the length of a queue partition or the total length of all partitions.",
        name,
        partition_option,
        click.option("-t", "--total", is_flag=True, help="Compute the sum of the queue lengths across all partitions"),
        env_option,
    ),
):
    queue.add_command(command)
