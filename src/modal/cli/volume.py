"""`modal volume`: volumes and the files in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional, Tuple

import click

from modal.cli.command import Group
from modal.cli.options import argument, choose_environment, confirm, env_option, json_option, yes_option

if TYPE_CHECKING:
    from modal._volume import Volume


@click.group(
    "volume",
    cls=Group,
    help="""Read and edit `modal.Volume` volumes.

Note: users of `modal.NetworkFileSystem` should use the `modal nfs` command instead.""",
)
def volume() -> None:
    """See `help`."""


@volume.command("create", help="Create a named, persistent modal.Volume.")
@argument("NAME")
@env_option
@click.option("--version", type=int, help="VolumeFS version. (Experimental)")
def create(name: str, env: Optional[str], version: Optional[int]) -> None:
    """See `help`."""
    from modal._volume import _check_version
    from modal.cli.transfer import create_named

    info = create_named("volume", name, choose_environment(env), _check_version(version))
    click.echo(f"Created volume '{name}' in environment '{info.environment}'.")
    click.echo(
        f"""
Code example:

@app.function(volumes={{"/my_vol": modal.Volume.from_name("{name}")}})
def some_func():
    os.listdir("/my_vol")"""
    )


@volume.command(
    "get",
    help="""Download files from a modal.Volume object.

If a folder is passed for REMOTE_PATH, the contents of the folder will be downloaded
recursively, including all subdirectories.

**Example**

```
modal volume get <volume_name> logs/april-12-1.txt
modal volume get <volume_name> / volume_data_dump
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


@volume.command("list", help="List the details of all modal.Volume volumes in an Environment.")
@env_option
@json_option
def list_volumes(env: Optional[str], as_json: bool) -> None:
    """See `help`."""
    from modal.cli.transfer import show_named

    show_named("volume", "Volumes", choose_environment(env), as_json)


@volume.command("ls", help="List files and directories in a modal.Volume volume.")
@argument("VOLUME_NAME")
@argument("PATH", default="/")
@json_option
@env_option
def ls(volume_name: str, path: str, as_json: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal._volume_download import list_entries
    from modal.cli.transfer import show_entries

    choose_environment(env)
    entries = list_entries(_found(volume_name), path, False)
    show_entries(f"Directory listing of '{path}' in '{volume_name}'", entries, as_json)


@volume.command(
    "put",
    help="""Upload a file or directory to a modal.Volume.

Remote parent directories will be created as needed.

Ending the REMOTE_PATH with a forward slash (/), it's assumed to be a directory
and the file will be uploaded with its current name under that directory.""",
)
@argument("VOLUME_NAME")
@argument("LOCAL_PATH")
@argument("REMOTE_PATH", default="/")
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@env_option
def put(volume_name: str, local_path: str, remote_path: str, force: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal.cli.transfer import progress_bar, size_of

    choose_environment(env)
    found = _found(volume_name)
    local = os.path.abspath(os.path.expanduser(local_path))
    if not os.path.exists(local):
        raise click.ClickException(f"There is no file or directory {local_path}.")
    if remote_path.endswith("/"):
        remote_path += os.path.basename(local)
    with progress_bar(f"Uploading {local_path}") as progress, found.batch_upload(force) as batch:
        batch._progress = progress
        if os.path.isdir(local):
            batch.put_directory(local, remote_path)
        else:
            batch.put_file(local, remote_path)
    count, size = batch.totals()
    click.echo(
        f"✓ Uploaded {local_path} to '{remote_path}' in '{volume_name}' "
        f"({count} {'file' if count == 1 else 'files'}, {size_of(size)})",
        err=True,
    )


@volume.command("rm", help="Delete a file or directory from a modal.Volume.")
@argument("VOLUME_NAME")
@argument("REMOTE_PATH")
@click.option("-r", "--recursive", is_flag=True, help="Delete directory recursively")
@env_option
def rm(volume_name: str, remote_path: str, recursive: bool, env: Optional[str]) -> None:
    """See `help`."""
    choose_environment(env)
    _found(volume_name).remove_file(remote_path, recursive=recursive)


@volume.command(
    "cp",
    help="Copy within a modal.Volume. Copy source file to destination file or multiple source files to "
    "destination directory.",
)
@argument("VOLUME_NAME")
@argument("PATHS", nargs=-1, required=True)
@env_option
def cp(volume_name: str, paths: Tuple[str, ...], env: Optional[str]) -> None:
    """See `help`."""
    if len(paths) < 2:
        raise click.UsageError("At least a source and a destination are needed.", click.get_current_context())
    choose_environment(env)
    _found(volume_name).copy_files(list(paths[:-1]), paths[-1])


@volume.command("delete", help="Delete a named, persistent modal.Volume.")
@argument("VOLUME_NAME", "Name of the modal.Volume to be deleted. Case sensitive")
@yes_option
@env_option
def delete(volume_name: str, yes: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal._volume import Volume

    choose_environment(env)
    _found(volume_name)
    confirm(f"Delete the volume {volume_name!r} and all that is in it?", yes)
    Volume.delete(volume_name)
    click.echo(f"Deleted the volume {volume_name!r}.")


@volume.command("rename", help="Rename a modal.Volume.")
@argument("OLD_NAME")
@argument("NEW_NAME")
@yes_option
@env_option
def rename(old_name: str, new_name: str, yes: bool, env: Optional[str]) -> None:
    """See `help`."""
    from modal._volume import Volume

    choose_environment(env)
    confirm(f"Rename the volume {old_name!r} to {new_name!r}? Apps that use the old name will not find it.", yes)
    Volume.rename(old_name, new_name)
    click.echo(f"Renamed the volume {old_name!r} to {new_name!r}.")


def _found(name: str) -> Volume:
    """The volume of this name. Raises NotFoundError."""
    from modal._volume import Volume

    return Volume.from_name(name).hydrate()
