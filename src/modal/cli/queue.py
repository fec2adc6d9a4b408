"""`modal queue`: queues and what is in them."""

from __future__ import annotations

import itertools
from typing import Any, Optional

import click

from modal.cli.command import Group
from modal.cli.options import argument, choose_environment, confirm, env_option, json_option, yes_option


@click.group("queue", cls=Group, help="Manage `modal.Queue` objects and inspect their contents.")
def queue() -> None:
    """See `help`."""


name_argument = argument("NAME")
partition_option = click.option(
    "-p",
    "--partition",
    metavar="TEXT",
    help="Name of the partition to use, otherwise use the default (anonymous) partition.",
)


def _named(name: str, env: Optional[str], create: bool = False) -> Any:
    from modal._queue import Queue

    return Queue.from_name(name, environment_name=choose_environment(env) or None, create_if_missing=create)


@queue.command(
    "create",
    help="""Create a named Queue.

Note: This is a no-op when the Queue already exists.""",
)
@name_argument
@env_option
def create(name: str, env: Optional[str]) -> None:
    """See `help`."""
    _named(name, env, create=True).hydrate()
    click.echo(f"The Queue {name!r} is ready.")


@queue.command("delete", help="Delete a named Queue and all of its data.")
@name_argument
@yes_option
@env_option
def delete(name: str, yes: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal._queue import Queue

    _named(name, env).hydrate()
    confirm(f"Delete the Queue {name!r} with all its items? This cannot be undone.", yes)
    Queue.delete(name)
    click.echo(f"Deleted the Queue {name!r}.")


@queue.command("list", help="List all named Queues.")
@json_option
@env_option
def list_queues(as_json: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal.cli.stored import listed
    from modal.cli.tables import moment, show_table

    environment = choose_environment(env)
    rows = [[info.name, moment(info.created_at), info.partitions, info.size] for info in listed("queue", environment)]
    title = "Queues" + (f" in environment: {environment}" if environment else "")
    show_table(title, ["Name", "Created at", "Partitions", "Total size"], rows, as_json)


@queue.command("clear", help="Clear the contents of a queue by removing all of its data.")
@name_argument
@partition_option
@click.option("-a", "--all", "all_", is_flag=True, help="Clear the contents of all partitions.")
@yes_option
@env_option
def clear(name: str, partition: Optional[str], all_: bool, yes: bool, env: Optional[str]) -> None:
    """See `help`."""
    if partition is not None and all_:
        raise click.UsageError("Give either --partition or --all.", click.get_current_context())
    found = _named(name, env).hydrate()
    what = "all partitions" if all_ else "the default partition" if partition is None else f"partition {partition!r}"
    confirm(f"Delete all items in {what} of the Queue {name!r}? This cannot be undone.", yes)
    found.clear(partition=partition, all=all_)
    click.echo(f"Cleared {what} of the Queue {name!r}.")


@queue.command("peek", help="Print the next N items in the queue or queue partition (without removal).")
@name_argument
@argument("N", type=click.IntRange(min=1), default=1)
@partition_option
@env_option
def peek(name: str, n: int, partition: Optional[str], env: Optional[str]) -> None:
    """See `help`."""
    for item in itertools.islice(_named(name, env).iterate(partition=partition), n):
        click.echo(str(item))


@queue.command("len", help="Print the length of a queue partition or the total length of all partitions.")
@name_argument
@partition_option
@click.option("-t", "--total", is_flag=True, help="Compute the sum of the queue lengths across all partitions")
@env_option
def length(name: str, partition: Optional[str], total: bool, env: Optional[str]) -> None:
    """See `help`."""
    if partition is not None and total:
        raise click.UsageError("Give either --partition or --total.", click.get_current_context())
    click.echo(str(_named(name, env).len(partition=partition, total=total)))
