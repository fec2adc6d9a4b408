"""`modal nfs`: network file systems and the files in them."""

from __future__ import annotations

import os
from typing import Any, Optional

import click

from modal.cli.command import Group
from modal.cli.files import Noun, add_commands, list_files, upload_places
from modal.cli.options import argument, choose_environment, env_option, json_option


def _class() -> Any:
    from modal._network_file_system import NetworkFileSystem

    return NetworkFileSystem


NOUN = Noun("network file system", "modal.NetworkFileSystem", "NFS_NAME", "network_file_systems", "/my_nfs", _class)


@click.group("nfs", cls=Group, help="Read and edit `modal.NetworkFileSystem` file systems.")
def nfs() -> None:
    """See `help`."""


@nfs.command("list", help="List the names of all network file systems.")
@env_option
@json_option
def list_file_systems(env: Optional[str], as_json: bool) -> None:
    """See `help`."""
    NOUN.show_all(choose_environment(env), as_json)


@nfs.command("create", help="Create a named network file system.")
@argument("NAME")
@env_option
def create(name: str, env: Optional[str]) -> None:
    """See `help`."""
    NOUN.create(name, choose_environment(env))


@nfs.command("ls", help="List files and directories in a network file system.")
@argument("VOLUME_NAME")
@argument("PATH", default="/")
@env_option
def ls(volume_name: str, path: str, env: Optional[str]) -> None:
    """See `help`."""
    choose_environment(env)
    list_files(NOUN, volume_name, path, False)


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
    from modal import _sync
    from modal._upload_sources import Sources, remote_place
    from modal.cli.transfer import progress_bar, say_uploaded, visible

    choose_environment(env)
    found: Any = NOUN.found(volume_name)
    local, remote_path = upload_places(local_path, remote_path)
    sources = Sources()
    if os.path.isdir(local):
        sources.add_directory(local, remote_place(remote_path))
    else:
        sources.add_file(local, remote_place(remote_path))
    with progress_bar(f"Uploading {visible(local_path)}") as progress:
        _sync.run(found._upload(sources, progress))
    say_uploaded(local_path, remote_path, volume_name, sources.totals(), sources.left_out)


add_commands(
    nfs,
    NOUN,
    """Download a file from a network file system.

Specifying a glob pattern (using any `*` or `**` patterns) as the `remote_path` will download
all matching files, preserving their directory structure.

For example, to download an entire network file system into `dump_volume`:

```
modal nfs get <volume-name> "**" dump_volume
```

Use "-" as LOCAL_DESTINATION to write file contents to standard output.""",
    "Delete a file or directory from a network file system.",
)
