"""A start that takes too long: what the caller is told, and where the user's code was."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, Iterator, Optional

from modal._protocol import errors
from modal._protocol.errors import Code
from modal._protocol.messages.call import CallFailure

LIBRARY = os.path.dirname(os.__file__)
NOT_THE_USERS = (str(Path(__file__).parents[1]), str(Path(errors.__file__).parents[1]), "<frozen ")


def too_long(name: str, seconds: float) -> CallFailure:
    """The failure of a function that was not ready in time, with what its main thread is at."""
    place = _place()
    at = next((frame for frame in reversed(place) if _is_users(frame.filename)), None)
    where = f", in {at.name} ({os.path.basename(at.filename)}:{at.lineno})" if at is not None else ""
    return CallFailure(
        Code.TIMEOUT,
        "modal.exception.FunctionTimeoutError",
        f"the container of {name} was not ready within {seconds:g} seconds: imports or @enter hooks still run{where}",
        traceback="".join(["Traceback (most recent call last):\n", *place.format()]) if place else "",
        hint="Raise timeout= of the function, or do less before the container is ready",
    )


def _place() -> traceback.StackSummary:
    """Where the main thread is, outermost first, without what is not the user's at its beginning."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    found = traceback.StackSummary.extract(_frames(frame))
    while found and not _is_users(found[0].filename):
        del found[0]
    return found


def _is_users(file: str) -> bool:
    """Whether it is the user's code, or of a package that this uses."""
    return not file.startswith(NOT_THE_USERS) and (not file.startswith(LIBRARY) or "site-packages" in file)


def _frames(frame: Optional[FrameType]) -> Iterator[Any]:
    """Pairs of frame and line; where an event loop waits, those of the coroutine that it was given."""
    stack = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    for one in reversed(stack):
        if one.f_code.co_name == "run_until_complete":
            task: Any = one.f_locals.get("future")
            awaited = list(_awaited(task.get_coro())) if hasattr(task, "get_coro") else []
            if awaited:
                yield from awaited
                return
        yield one, one.f_lineno


def _awaited(coroutine: Any) -> Iterator[Any]:
    while getattr(coroutine, "cr_frame", None) is not None:
        yield coroutine.cr_frame, coroutine.cr_frame.f_lineno
        coroutine = coroutine.cr_await
