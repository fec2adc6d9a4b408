"""`modal nfs`: network file systems and the files in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional

import click

from modal.cli.command import Group
from modal.cli.options import argument, choose_environment, confirm, env_option, json_option, yes_option

if TYPE_CHECKING:
    from modal._network_file_system import NetworkFileSystem

KIND = "network-file-system"


@click.group("nfs", cls=Group, help="Read and edit `modal.NetworkFileSystem` file systems.")
def nfs() -> None:
    """See `help`."""


@nfs.command("list", help="List the names of all network file systems.")
@env_option
@json_option
def list_file_systems(env: Optional[str], as_json: bool) -> None:
    """See `help`."""
    from modal.cli.transfer import show_named

    show_named(KIND, "Network file systems", choose_environment(env), as_json)


@nfs.command("create", help="Create a named network file system.")
@argument("NAME")
@env_option
def create(name: str, env: Optional[str]) -> None:
    """See `help`."""
    from modal.cli.transfer import create_named

    info = create_named(KIND, name, choose_environment(env))
    click.echo(f"Created network file system '{name}' in environment '{info.environment}'.")
    click.echo(
        f"""
Code example:

@app.function(network_file_systems={{"/my_nfs": modal.NetworkFileSystem.from_name("{name}")}})
def some_func():
    os.listdir("/my_nfs")"""
    )


@nfs.command("ls", help="List files and directories in a network file system.")
@argument("VOLUME_NAME")
@argument("PATH", default="/")
@env_option
def ls(volume_name: str, path: str, env: Optional[str]) -> None:
    """See `help`."""
    from modal._volume_download import list_entries
    from modal.cli.transfer import show_entries

    choose_environment(env)
    entries = list_entries(_found(volume_name), path, False)
    show_entries(f"Directory listing of '{path}' in '{volume_name}'", entries, False)


@nfs.command(
    "put",
    help="""Upload a file or directory to a network file system.

Remote parent directories will be created as needed.

Ending the REMOTE_PATH with a forward slash (/), it's assumed to be a directory and the file
will be uploaded with its current name under that directory.""",
)
@argument("VOLUME_NAME")
@argument("LOCAL_PATH")
@argument("REMOTE_PATH", default="/")
@env_option
def put(volume_name: str, local_path: str, remote_path: str, env: Optional[str]) -> None:
    """See `help`."""
    choose_environment(env)
    found = _found(volume_name)
    local = os.path.abspath(os.path.expanduser(local_path))
    if not os.path.exists(local):
        raise click.ClickException(f"There is no file or directory {local_path}.")
    if remote_path.endswith("/"):
        remote_path += os.path.basename(local)
    if os.path.isdir(local):
        found.add_local_dir(local, remote_path)
    else:
        found.add_local_file(local, remote_path)
    click.echo(f"✓ Uploaded {local_path} to '{remote_path}' in '{volume_name}'", err=True)


@nfs.command(
    "get",
    help="""Download a file from a network file system.

Specifying a glob pattern (using any `*` or `**` patterns) as the `remote_path` will download
all matching files, preserving their directory structure.

For example, to download an entire network file system into `dump_volume`:

```
modal nfs get <volume-name> "**" dump_volume
```

Use "-" as LOCAL_DESTINATION to write file contents to standard output.""",
)
@argument("VOLUME_NAME")
@argument("REMOTE_PATH")
@argument("LOCAL_DESTINATION", default=".")
@click.option("--force/--no-force", default=False, show_default=True)
@env_option
def get(volume_name: str, remote_path: str, local_destination: str, force: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal.cli.transfer import download

    choose_environment(env)
    download(_found(volume_name), remote_path, local_destination, force)


@nfs.command("rm", help="Delete a file or directory from a network file system.")
@argument("VOLUME_NAME")
@argument("REMOTE_PATH")
@click.option("-r", "--recursive", is_flag=True, help="Delete directory recursively")
@env_option
def rm(volume_name: str, remote_path: str, recursive: bool, env: Optional[str]) -> None:
    """See `help`."""
    choose_environment(env)
    _found(volume_name).remove_file(remote_path, recursive=recursive)


@nfs.command("delete", help="Delete a named, persistent modal.NetworkFileSystem.")
@argument("NFS_NAME", "Name of the modal.NetworkFileSystem to be deleted. Case sensitive")
@yes_option
@env_option
def delete(nfs_name: str, yes: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal._network_file_system import NetworkFileSystem

    choose_environment(env)
    _found(nfs_name)
    confirm(f"Delete the network file system {nfs_name!r} and all that is in it?", yes)
    NetworkFileSystem.delete(nfs_name)
    click.echo(f"Deleted the network file system {nfs_name!r}.")


def _found(name: str) -> NetworkFileSystem:
    """The one of this name. Raises NotFoundError."""
    from modal._network_file_system import NetworkFileSystem

    return NetworkFileSystem.from_name(name).hydrate()
