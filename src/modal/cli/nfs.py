"""`modal nfs`: documented, not implemented yet."""

from __future__ import annotations

import click

from modal.cli.command import Group
from modal.cli.options import argument, env_option, json_option, yes_option
from modal.cli.planned import planned


@click.group("nfs", cls=Group, help="Read and edit `modal.NetworkFileSystem` file systems.")
def nfs() -> None:
    """See `help`."""


volume_name = argument("VOLUME_NAME")
remote_path = argument("REMOTE_PATH")

for command in (
    planned("list", "List the names of all network file systems.", env_option, json_option),
    planned("create", "Create a named network file system.", argument("NAME"), env_option),
    planned(
        "ls",
        "List files and directories in a network file system.",
        volume_name,
        argument("PATH", default="/"),
        env_option,
    ),
    planned(
        "put",
        """Upload a file or directory to a network file system.

Remote parent directories will be created as needed.

Ending the REMOTE_PATH with a forward slash (/), it's assumed to be a directory and the file
will be uploaded with its current name under that directory.""",
        volume_name,
        argument("LOCAL_PATH"),
        argument("REMOTE_PATH", default="/"),
        env_option,
    ),
    planned(
        "get",
        """Download a file from a network file system.

Specifying a glob pattern (using any `*` or `**` patterns) as the `remote_path` will download
all matching files, preserving their directory structure.

For example, to download an entire network file system into `dump_volume`:

```
modal nfs get <volume-name> "**" dump_volume
```

Use "-" as LOCAL_DESTINATION to write file contents to standard output.""",
        volume_name,
        remote_path,
        argument("LOCAL_DESTINATION", default="."),
        click.option("--force/--no-force", default=False, show_default=True),
        env_option,
    ),
    planned(
        "rm",
        "Delete a file or directory from a network file system.",
        volume_name,
        remote_path,
        click.option("-r", "--recursive", is_flag=True, help="Delete directory recursively"),
        env_option,
    ),
    planned(
        "delete",
        "Delete a named, persistent modal.NetworkFileSystem.",
        argument("NFS_NAME", "Name of the modal.NetworkFileSystem to be deleted. Case sensitive"),
        yes_option,
        env_option,
    ),
):
    nfs.add_command(command)
