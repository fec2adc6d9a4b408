"""`modal volume`: documented, not implemented yet."""

from __future__ import annotations

import click

from modal.cli.command import Group
from modal.cli.options import argument, env_option, json_option, yes_option
from modal.cli.planned import planned


@click.group(
    "volume",
    cls=Group,
    help="""Read and edit `modal.Volume` volumes.

Note: users of `modal.NetworkFileSystem` should use the `modal nfs` command instead.""",
)
def volume() -> None:
    """See `help`."""


name = argument("NAME")
volume_name = argument("VOLUME_NAME")
remote_path = argument("REMOTE_PATH")

for command in (
    planned(
        "create",
        "Create a named, persistent modal.Volume.",
        name,
        env_option,
        click.option("--version", type=int, help="VolumeFS version. (Experimental)"),
    ),
    planned(
        "get",
        """Download files from a modal.Volume object.

If a folder is passed for REMOTE_PATH, the contents of the folder will be downloaded
recursively, including all subdirectories.

**Example**

```
modal volume get <volume_name> logs/april-12-1.txt
modal volume get <volume_name> / volume_data_dump
```

Use "-" as LOCAL_DESTINATION to write file contents to standard output.""",
        volume_name,
        remote_path,
        argument("LOCAL_DESTINATION", default="."),
        click.option("--force/--no-force", default=False, show_default=True),
        env_option,
    ),
    planned("list", "List the details of all modal.Volume volumes in an Environment.", env_option, json_option),
    planned(
        "ls",
        "List files and directories in a modal.Volume volume.",
        volume_name,
        argument("PATH", default="/"),
        json_option,
        env_option,
    ),
    planned(
        "put",
        """Upload a file or directory to a modal.Volume.

Remote parent directories will be created as needed.

Ending the REMOTE_PATH with a forward slash (/), it's assumed to be a directory
and the file will be uploaded with its current name under that directory.""",
        volume_name,
        argument("LOCAL_PATH"),
        argument("REMOTE_PATH", default="/"),
        click.option("-f", "--force", is_flag=True, help="Overwrite existing files."),
        env_option,
    ),
    planned(
        "rm",
        "Delete a file or directory from a modal.Volume.",
        volume_name,
        remote_path,
        click.option("-r", "--recursive", is_flag=True, help="Delete directory recursively"),
        env_option,
    ),
    planned(
        "cp",
        "Copy within a modal.Volume. Copy source file to destination file or multiple source files to "
        "destination directory.",
        volume_name,
        argument("PATHS", nargs=-1, required=True),
        env_option,
    ),
    planned(
        "delete",
        "Delete a named, persistent modal.Volume.",
        argument("VOLUME_NAME", "Name of the modal.Volume to be deleted. Case sensitive"),
        yes_option,
        env_option,
    ),
    planned("rename", "Rename a modal.Volume.", argument("OLD_NAME"), argument("NEW_NAME"), yes_option, env_option),
):
    volume.add_command(command)
