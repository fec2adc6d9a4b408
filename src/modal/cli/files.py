"""What the commands `modal volume` and `modal nfs` have in common."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Tuple

import click

from modal.cli.options import argument, choose_environment, confirm, env_option, yes_option

if TYPE_CHECKING:
    from modal._volume import _Stored

TYPES = {1: "file", 2: "dir", 3: "link", 4: "fifo", 5: "socket"}


class Noun(NamedTuple):
    """One of the two kinds."""

    name: str  # in sentences
    title: str  # its class, in help texts
    argument: str  # what `delete` calls its name
    option: str  # of `@app.function`, which mounts it
    path: str  # where the example mounts it
    load: Callable[[], Any]  # its class

    def create(self, name: str, environment: str, format: int = 0) -> None:
        """Make one, and show how it is used. Raises click.ClickException where the name is taken."""
        from modal._object import check_object_name
        from modal._protocol.messages.volume import VolumeGet, Volumes
        from modal.cli.server import ask

        cls = self.load()
        check_object_name(name, cls.__name__)
        info = ask(VolumeGet(name, environment, cls._wire_kind(), True, format=format), Volumes).volumes[0]
        if not info.created:
            raise click.ClickException(f"There is a {self.name} {name!r} in {info.environment!r} already.")
        click.echo(
            f"""\
Created {self.name} '{name}' in environment '{info.environment}'.

Code example:

@app.function({self.option}={{"{self.path}": {self.title}.from_name("{name}")}})
def some_func():
    os.listdir("{self.path}")"""
        )

    def show_all(self, environment: str, as_json: bool) -> None:
        """A table of those that have names."""
        from modal._protocol.messages.volume import VolumeList, Volumes
        from modal.cli.server import ask
        from modal.cli.tables import moment, show_table

        found = ask(VolumeList(environment, self.load()._wire_kind()), Volumes).volumes
        title = f"{self.name.capitalize()}s" + (f" in environment '{environment}'" if environment else "")
        show_table(title, ["Name", "Created at"], [[one.name, moment(one.created_at)] for one in found], as_json)

    def found(self, name: str) -> _Stored:
        """The one of this name. Raises NotFoundError."""
        stored: _Stored = self.load().from_name(name).hydrate()
        return stored


def add_commands(group: click.Group, noun: Noun, get_help: str, rm_help: str) -> None:
    """`get`, `rm` and `delete`."""

    @group.command("get", help=get_help)
    @argument("VOLUME_NAME")
    @argument("REMOTE_PATH")
    @argument("LOCAL_DESTINATION", default=".")
    @click.option("--force/--no-force", default=False, show_default=True)
    @env_option
    def get(volume_name: str, remote_path: str, local_destination: str, force: bool, env: Optional[str]) -> None:
        """See `help`."""
        from modal.cli.transfer import download

        choose_environment(env)
        download(noun.found(volume_name), remote_path, local_destination, force)

    @group.command("rm", help=rm_help)
    @argument("VOLUME_NAME")
    @argument("REMOTE_PATH")
    @click.option("-r", "--recursive", is_flag=True, help="Delete directory recursively")
    @env_option
    def rm(volume_name: str, remote_path: str, recursive: bool, env: Optional[str]) -> None:
        """See `help`."""
        choose_environment(env)
        found: Any = noun.found(volume_name)
        found.remove_file(remote_path, recursive=recursive)

    @group.command("delete", help=f"Delete a named, persistent {noun.title}.")
    @argument(noun.argument, f"Name of the {noun.title} to be deleted. Case sensitive")
    @yes_option
    @env_option
    def delete(yes: bool, env: Optional[str], **names: str) -> None:
        """See `help`."""
        (name,) = names.values()
        choose_environment(env)
        noun.found(name)
        confirm(f"Delete the {noun.name} {name!r} and all that is in it?", yes)
        noun.load().delete(name)
        click.echo(f"Deleted the {noun.name} {name!r}.")


def list_files(noun: Noun, name: str, path: str, as_json: bool) -> None:
    """A table of what is in a directory; names alone where no terminal reads them."""
    from modal._volume_download import list_entries
    from modal.cli.tables import moment, show_table
    from modal.cli.transfer import size_of, visible

    entries = list_entries(noun.found(name), path, False)
    if not as_json and not sys.stdout.isatty():
        for entry in entries:
            click.echo(os.fsencode(entry.path))  # which may be no UTF-8
        return
    shown = str if as_json else visible
    rows = [[shown(e.path), TYPES.get(e.kind, "?"), moment(e.mtime / 1e9), size_of(e.size)] for e in entries]
    title = f"Directory listing of '{visible(path)}' in '{name}'"
    show_table(title, ["Filename", "Type", "Created/Modified", "Size"], rows, as_json)


def upload_places(local_path: str, remote_path: str) -> Tuple[str, str]:
    """Where a file or directory is, and where it goes: below a remote path that ends with "/", under its own name."""
    local = os.path.abspath(os.path.expanduser(local_path))
    if not local_path or not os.path.exists(local):
        raise click.ClickException(f"There is no file or directory {local_path or repr('')}.")
    return local, remote_path + os.path.basename(local) if remote_path.endswith("/") else remote_path
