"""`modal queue`: queues and what is in them."""

from __future__ import annotations

import itertools
from typing import Any, Optional

import click

from modal.cli.command import Group
from modal.cli.options import argument, confirm, env_option, yes_option
from modal.cli.stored import Noun, add_commands, name_argument, text_of, unreadable


@click.group("queue", cls=Group, help="Manage `modal.Queue` objects and inspect their contents.")
def queue() -> None:
    """See `help`."""


partition_option = click.option(
    "-p",
    "--partition",
    metavar="TEXT",
    help="Name of the partition to use, otherwise use the default (anonymous) partition.",
)


def _cls() -> Any:
    from modal._queue import Queue

    return Queue


_noun = Noun("Queue", "items", _cls, ["Partitions", "Total size"], lambda info: [info.partitions, info.size])
add_commands(
    queue,
    _noun,
    """Create a named Queue.

Note: This is a no-op when the Queue already exists.""",
)


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
    found = _noun.named(name, env).hydrate()
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
    for item in itertools.islice(_noun.named(name, env)._readable_items(partition, unreadable), n):
        click.echo(text_of(item))


@queue.command("len", help="Print the length of a queue partition or the total length of all partitions.")
@name_argument
@partition_option
@click.option("-t", "--total", is_flag=True, help="Compute the sum of the queue lengths across all partitions")
@env_option
def length(name: str, partition: Optional[str], total: bool, env: Optional[str]) -> None:
    """See `help`."""
    if partition is not None and total:
        raise click.UsageError("Give either --partition or --total.", click.get_current_context())
    click.echo(str(_noun.named(name, env).len(partition=partition, total=total)))
