"""The last that a container's main process does: what the user's code left to be done, and then the end."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn


def end(code: int) -> NoReturn:
    """End the process as Python ends a program, with one difference: nothing that was left running is waited for."""
    _run_exit_functions()
    flush_streams()
    os._exit(code)


def end_at_once(code: int) -> NoReturn:
    """End a process for which nobody has registered anything, or only its parent."""
    flush_streams()
    os._exit(code)


def _run_exit_functions() -> None:
    """What was registered with `atexit`: by the user's code, by `logging` (its buffered handlers), by libraries."""
    processes = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    try:
        if processes is not None and util is not None and any(not one.daemon for one in processes.active_children()):
            atexit.unregister(util._exit_function)  # it waits for them, and they end with the container
        atexit._run_exitfuncs()
    except BaseException as error:
        show(error)


def show(error: BaseException) -> None:
    """Print what the user's code raised, to nobody in particular, without the platform's frames."""
    from modal import _traceback

    print(_traceback.text_of(error), file=sys.stderr, end="")  # noqa: T201


def tell_of_threads() -> None:
    """Threads that the user's code has left, beside those of idle pools: nobody waits for them."""
    pools = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", ())
    main = threading.main_thread()
    left = [one.name for one in threading.enumerate() if one is not main and not one.daemon and one not in pools]
    if left:
        text = (
            f"Warning: {len(left)} thread(s) still run at the end of the container and end with it: {', '.join(left)}"
        )
        print(text, file=sys.stderr)  # noqa: T201


def flush_streams() -> None:
    """What was printed goes out, if the user's code has left a way for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the user's code closed or replaced it
