"""`modal volume`: volumes and the files in them."""

from __future__ import annotations

import os
from typing import Any, Optional, Tuple

import click

from modal.cli.command import Group
from modal.cli.files import Noun, add_commands, list_files, upload_places
from modal.cli.options import argument, choose_environment, confirm, env_option, json_option, yes_option


def _class() -> Any:
    from modal._volume import Volume

    return Volume


NOUN = Noun("volume", "modal.Volume", "VOLUME_NAME", "volumes", "/my_vol", _class)


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

    NOUN.create(name, choose_environment(env), _check_version(version))


@volume.command("list", help="List the details of all modal.Volume volumes in an Environment.")
@env_option
@json_option
def list_volumes(env: Optional[str], as_json: bool) -> None:
    """See `help`."""
    NOUN.show_all(choose_environment(env), as_json)


@volume.command("ls", help="List files and directories in a modal.Volume volume.")
@argument("VOLUME_NAME")
@argument("PATH", default="/")
@json_option
@env_option
def ls(volume_name: str, path: str, as_json: bool, env: Optional[str]) -> None:
    """See `help`."""
    choose_environment(env)
    list_files(NOUN, volume_name, path, as_json)


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
    from modal.cli.transfer import progress_bar, say_uploaded, visible

    choose_environment(env)
    found: Any = NOUN.found(volume_name)
    local, remote_path = upload_places(local_path, remote_path)
    with progress_bar(f"Uploading {visible(local_path)}") as progress, found.batch_upload(force) as batch:
        batch._progress = progress
        if os.path.isdir(local):
            batch.put_directory(local, remote_path)
        else:
            batch.put_file(local, remote_path)
    say_uploaded(local_path, remote_path, volume_name, batch.totals(), batch.left_out())


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
    found: Any = NOUN.found(volume_name)
    found.copy_files(list(paths[:-1]), paths[-1])


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


add_commands(
    volume,
    NOUN,
    """Download files from a modal.Volume object.

If a folder is passed for REMOTE_PATH, the contents of the folder will be downloaded
recursively, including all subdirectories.

**Example**

```
modal volume get <volume_name> logs/april-12-1.txt
modal volume get <volume_name> / volume_data_dump
```

Use "-" as LOCAL_DESTINATION to write file contents to standard output.""",
    "Delete a file or directory from a modal.Volume.",
)
