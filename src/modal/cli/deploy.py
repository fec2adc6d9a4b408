"""`modal deploy`: an app that stays."""

from __future__ import annotations

from typing import Optional

import click

from modal.cli.command import Command
from modal.cli.options import argument, choose_environment, env_option, module_option

HELP = """Deploy a Modal application.

**Usage:**

```
modal deploy my_script.py
modal deploy -m my_package.my_mod
```
"""


@click.command("deploy", cls=Command, help=HELP, no_args_is_help=True)
@argument("APP_REF", "Path to a Python file with an app to deploy")
@click.option("--name", metavar="TEXT", default=None, help="Name of the deployment.")
@env_option
@click.option(
    "--stream-logs/--no-stream-logs",
    default=False,
    show_default=True,
    help="Stream logs from the app upon deployment.",
)
@click.option("--tag", metavar="TEXT", default=None, help="Tag the deployment with a version.")
@module_option
def deploy(
    app_ref: str, name: Optional[str], env: Optional[str], stream_logs: bool, tag: Optional[str], use_module: bool
) -> None:
    """See HELP."""
    from modal._output import shown_output
    from modal.cli.program import import_program, parse_reference
    from modal.cli.selection import choose_app

    environment = choose_environment(env)
    reference = parse_reference(app_ref, use_module)
    app = choose_app(import_program(reference), reference)
    if not (name or app.name):
        raise click.UsageError(
            'A deployment needs a name: `modal deploy --name my-app ...`, or modal.App("my-app") in the program.',
            click.get_current_context(),
        )
    with shown_output() as sink:
        sink.app_created("", name or app.name, "", False)
        app.deploy(name=name, environment_name=environment or None, tag=tag or "")
    if stream_logs:
        from modal.cli.follow import follow_logs

        follow_logs(app.app_id)
