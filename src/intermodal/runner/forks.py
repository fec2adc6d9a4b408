"""Children that user code forks: they have the runner's memory and connections, but nothing to say in its name.

What a child of `os.fork` returns or raises is nobody's result: it ends there, as the program that it is. (Those of
`multiprocessing` never come back into the runner at all.) Nothing here costs an input anything.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

from intermodal.runner import ending
from intermodal.runner.invoker import Invoker

_runner = os.getpid()


def is_child() -> bool:
    """Whether this process was forked by user code."""
    return os.getpid() != _runner


def watch(invoker: Invoker) -> None:
    """From now on, children end where they would send an output."""

    def forked() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # no container ends with this process
        for name in ("succeed", "exhaust", "yield_item", "refuse"):
            setattr(invoker, name, lambda *_args: end(None))
        setattr(invoker, "fail", lambda _item, error, _started: end(error))  # noqa: B010 - of this instance alone

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forked)


def end(error: Any) -> NoReturn:
    """End this child as Python ends a program: with a traceback and 1, or as SystemExit says."""
    code = 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            code = error.code or 0
        else:
            print(error.code, file=sys.stderr)  # noqa: T201
            code = 1
    elif error is not None:
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
        code = 1
    ending.end_at_once(code & 0xFF)
