"""`modal serve`: an app that follows its program's files until Ctrl-C."""

from __future__ import annotations

from typing import Optional

import click

from modal.cli.command import Command
from modal.cli.options import argument, choose_environment, env_option, module_option

HELP = """Run a web endpoint(s) associated with a Modal app and hot-reload code.

**Examples:**

```
modal serve hello_world.py
```
"""


@click.command("serve", cls=Command, help=HELP, no_args_is_help=True)
@argument("APP_REF", "Path to a Python file with an app.")
@click.option("--timeout", type=float, default=None, envvar="MODAL_SERVE_TIMEOUT")
@env_option
@module_option
def serve(app_ref: str, timeout: Optional[float], env: Optional[str], use_module: bool) -> None:
    """See HELP."""
    from modal._output import shown_output
    from modal.cli.failures import TERMINATED
    from modal.cli.interrupts import Interrupts
    from modal.cli.program import parse_reference
    from modal.cli.server import client
    from modal.cli.serving.session import Serving

    _check_library()
    if timeout is not None and not timeout > 0:
        raise click.BadParameter("must be greater than 0 seconds.", param_hint="--timeout")
    environment = choose_environment(env)
    reference = parse_reference(app_ref, use_module)
    interrupts = Interrupts()
    with shown_output(on_broken=interrupts.pipe_broken) as sink:
        sink.on_stopping = interrupts.stopping
        try:
            code = Serving(reference, environment, client(), sink, timeout).run()
        except KeyboardInterrupt:
            if interrupts.broken:
                raise BrokenPipeError from None
            code = TERMINATED if interrupts.terminated else 0  # Ctrl-C is how serving ends
        finally:
            interrupts.restore()
    raise SystemExit(code)


def _check_library() -> None:
    """Raises click.ClickException where the library that watches files is missing."""
    try:
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise click.ClickException(
            f"`modal serve` watches files with the package watchfiles, which cannot be used here ({error}): "
            "`pip install watchfiles`."
        ) from None
