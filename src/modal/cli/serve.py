"""`modal serve`: documented, not implemented yet."""

from __future__ import annotations

import click

from modal.cli.options import argument, env_option, module_option
from modal.cli.planned import planned

serve = planned(
    "serve",
    """Run a web endpoint(s) associated with a Modal app and hot-reload code.

**Examples:**

```
modal serve hello_world.py
```""",
    argument("APP_REF", "Path to a Python file with an app."),
    click.option("--timeout", type=float),
    env_option,
    module_option,
)
