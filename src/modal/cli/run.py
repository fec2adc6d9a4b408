"""`modal run`: an app for the time of one function or local entrypoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Tuple

import click

from modal.cli.command import Command
from modal.cli.options import argument, choose_environment, env_option, module_option

if TYPE_CHECKING:
    from modal.cli.invocation import Call
    from modal.cli.selection import Target

HELP = """Run a Modal function or local entrypoint.

`FUNC_REF` should be of the format `{file or module}::{function name}`.
Alternatively, you can refer to the function via the app:

`{file or module}::{app variable name}.{function name}`

**Examples:**

To run the hello_world function (or local entrypoint) in my_app.py:

```
modal run my_app.py::hello_world
```

If your module only has a single app and your app has a
single local entrypoint (or single function), you can omit the app and
function parts:

```
modal run my_app.py
```

Instead of pointing to a file, you can also use the Python module path, which
by default will ensure that your remote functions will use the same module
names as they do locally.

```
modal run -m my_project.my_app
```
"""


@click.command(
    "run",
    cls=Command,
    help=HELP,
    no_args_is_help=True,
    context_settings={"allow_interspersed_args": False},
)
@argument("FUNC_REF")
@click.argument("entrypoint_args", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.option(
    "-w", "--write-result", metavar="TEXT", help="Write return value (which must be str or bytes) to this local path."
)
@click.option("-q", "--quiet", is_flag=True, help="Don’t show Modal progress indicators.")
@click.option("-d", "--detach", is_flag=True, help="Don’t stop the app if the local process dies or disconnects.")
@click.option("-i", "--interactive", is_flag=True, help="Run the app in interactive mode.")
@env_option
@module_option
def run(
    func_ref: str,
    entrypoint_args: Tuple[str, ...],
    write_result: Optional[str],
    quiet: bool,
    detach: bool,
    interactive: bool,
    env: Optional[str],
    use_module: bool,
) -> None:
    """See HELP."""
    from modal.cli.invocation import prepare
    from modal.cli.planned import not_yet
    from modal.cli.program import describe, import_program, parse_reference
    from modal.cli.selection import choose

    if interactive:
        not_yet("`modal run --interactive`")
    environment = choose_environment(env)
    reference = parse_reference(func_ref, use_module)
    target = choose(import_program(reference), reference)
    describe(target.app, reference)
    call = prepare(target, entrypoint_args, f"modal run {reference}")
    _check_destination(write_result)
    result = _run(target, call, environment, show_progress=not quiet, detach=detach)
    if write_result is not None:
        from modal.cli import invocation

        invocation.write_result(result, write_result)


def _check_destination(path: Optional[str]) -> None:
    """A result that took hours must not be lost to a mistyped directory."""
    import os

    if path is None:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or os.path.isdir(path):
        raise click.UsageError(f"--write-result: {path!r} cannot be written.", click.get_current_context())


def _run(target: Target, call: Call, environment: str, *, show_progress: bool, detach: bool) -> Any:
    from modal._output import shown_output
    from modal.cli.failures import TERMINATED, ProgramFailed
    from modal.cli.interrupts import Interrupts

    interrupts = Interrupts()
    with shown_output(show_progress, on_broken=interrupts.pipe_broken) as sink:
        sink.on_stopping = interrupts.stopping
        try:
            with target.app.run(detach=detach, environment_name=environment or None):
                try:
                    return call()
                except BaseException as error:
                    sink.stops_because_of(error)
                    if isinstance(error, Exception):
                        raise ProgramFailed from error
                    raise
        except KeyboardInterrupt:
            if interrupts.broken:
                raise BrokenPipeError from None
            if interrupts.terminated:
                raise SystemExit(TERMINATED) from None
            raise
        finally:
            interrupts.restore()
