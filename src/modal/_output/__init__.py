"""Output of the SDK and the command line on a terminal, in a pipe, in a file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Callable, Generator, Optional

if TYPE_CHECKING:
    from modal._output.sink import TerminalSink


@contextlib.contextmanager
def enable_output(show_progress: bool = True) -> Generator[None, None, None]:
    """Context manager that enable output when using the Python SDK.

    This will print to stdout and stderr things such as

    1. Logs from running functions
    2. Status of creating objects
    3. Map progress

    Example:

    ```python
    app = modal.App()
    with modal.enable_output():
        with app.run():
            ...
    ```
    """
    with shown_output(show_progress):
        yield


@contextlib.contextmanager
def shown_output(
    show_progress: bool = True, on_broken: Optional[Callable[[], None]] = None
) -> Generator[TerminalSink, None, None]:
    """As `enable_output`, for the command line: yields the sink. `on_broken`: nobody reads stdout any more."""
    from modal import _events
    from modal._output.local import LocalOutput
    from modal._output.screen import Screen, capable
    from modal._output.sink import TerminalSink

    current = _events.sink()
    if isinstance(current, TerminalSink):  # nested: one screen is enough
        yield current
        return
    import sys

    screen = Screen(live=capable(sys.stdout), on_broken=on_broken)
    sink = TerminalSink(screen, show_progress)
    local = LocalOutput(screen)
    before = _events.install(sink)
    try:
        yield sink
    finally:
        _events.install(before)
        sink.log_lines.finish()
        local.restore()
        screen.close()
