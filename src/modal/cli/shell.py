"""`modal shell`: documented, not implemented yet."""

from __future__ import annotations

import click

from modal.cli.options import argument, env_option, module_option
from modal.cli.planned import planned

shell = planned(
    "shell",
    """Run a command or interactive shell inside a Modal container.

**Examples:**

Start an interactive shell inside the default Debian-based image:

```
modal shell
```

Start an interactive shell with the spec for `my_function` in your App
(uses the same image, volumes, mounts, etc.):

```
modal shell hello_world.py::my_function
```

Or, if you're using a modal.Cls, you can refer to a `@modal.method` directly:

```
modal shell hello_world.py::MyClass.my_method
```

Start a `python` shell:

```
modal shell hello_world.py --cmd=python
```

Run a command with your function's spec and pipe the output to a file:

```
modal shell hello_world.py -c 'uv pip list' > env.txt
```""",
    argument(
        "REF",
        "ID of running container, or path to a Python file containing a Modal App. Can also include a function "
        "specifier, like `module.py::func`, if the file defines multiple functions.",
        required=False,
        metavar="REF",
    ),
    click.option(
        "-c",
        "--cmd",
        metavar="TEXT",
        default="/bin/bash",
        show_default=True,
        help="Command to run inside the Modal image.",
    ),
    env_option,
    click.option("--image", metavar="TEXT", help="Container image tag for inside the shell (if not using REF)."),
    click.option("--add-python", metavar="TEXT", help="Add Python to the image (if not using REF)."),
    click.option(
        "--volume",
        metavar="TEXT",
        multiple=True,
        help="Name of a `modal.Volume` to mount inside the shell at `/mnt/{name}` (if not using REF). "
        "Can be used multiple times.",
    ),
    click.option("--cpu", type=int, help="Number of CPUs to allocate to the shell (if not using REF)."),
    click.option("--memory", type=int, help="Memory to allocate for the shell, in MiB (if not using REF)."),
    click.option(
        "--gpu",
        metavar="TEXT",
        help="GPUs to request for the shell, if any. Examples are `any`, `a10g`, `a100:4` (if not using REF).",
    ),
    click.option(
        "--cloud",
        metavar="TEXT",
        help="Cloud provider to run the shell on. Possible values are `aws`, `gcp`, `oci`, `auto` (if not using REF).",
    ),
    click.option(
        "--region",
        metavar="TEXT",
        help="Region(s) to run the container on. Can be a single region or a comma-separated list to choose from "
        "(if not using REF).",
    ),
    click.option("--pty/--no-pty", default=None, help="Run the command using a PTY."),
    module_option,
)
