"""Tracebacks: what happened in a container shown below what happened here, and our own frames taken out.

A remote exception gets a real traceback, made of the remote frames, before it is raised here. So Python
itself, debuggers, loggers and the command line show one stack: the caller's frames, then the container's.
Frames of the platform are left out unless MODAL_TRACEBACK=1 asks for them.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any, Dict, List, Optional

Frame = List[Any]  # file, line, function, source line, whether it is one of the platform's

MAX_FRAMES = 100  # of one exception that travel
HEAD_FRAMES = 30  # of them from the outer end
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS = (os.path.join(_ROOT, "modal", ""), os.path.join(_ROOT, "intermodal", ""))
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__))
_IMPORTING = ("<frozen importlib", "<frozen runpy", os.path.join(_LIBRARY, "importlib", ""))
_MACHINERY = (  # of Python: hidden where it only leads to the user's first frame, or from one of ours to the next
    os.path.join(_LIBRARY, "asyncio", ""),
    os.path.join(_LIBRARY, "concurrent", ""),
    os.path.join(_LIBRARY, "threading.py"),
    os.path.join(_LIBRARY, "contextlib.py"),
)
_MARK = "__modal_remote__"


def is_ours(path: str) -> bool:
    """Whether a file belongs to the platform or to the way in which it imports the user's module."""
    return path.startswith(_OURS) or path.startswith(_IMPORTING)


def show_all() -> bool:
    """Whether the user asked for every frame."""
    if "MODAL_TRACEBACK" in os.environ:
        return os.environ["MODAL_TRACEBACK"].strip().lower() not in ("", "0", "false", "no", "off")
    config = sys.modules.get("modal.config")
    if config is None:
        return False
    try:
        return bool(config.config.get("traceback"))
    except Exception:  # a broken settings file must not hide the error that is being shown
        return False


# -- in the container -----------------------------------------------------------------------------


def frames_of(error: BaseException) -> List[Frame]:
    """The frames of an exception's traceback, outermost first, at most `MAX_FRAMES`. Never raises."""
    import linecache

    entries = []
    entry = error.__traceback__
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    if len(entries) > MAX_FRAMES:
        entries = entries[:HEAD_FRAMES] + entries[HEAD_FRAMES - MAX_FRAMES :]
    frames: List[Frame] = []
    leading = True  # to the user's first frame, or from one of ours
    for entry in entries:
        scope = entry.tb_frame.f_globals
        if _MARK in scope:  # of a container that this one called
            frames.append([*scope[_MARK]])
            leading = False
            continue
        code = entry.tb_frame.f_code
        ours = is_ours(code.co_filename) or (leading and code.co_filename.startswith(_MACHINERY))
        leading = ours
        try:
            source = linecache.getline(code.co_filename, entry.tb_lineno, scope).strip()
        except Exception:  # a loader of the user's that cannot give its source
            source = ""
        frames.append([code.co_filename, entry.tb_lineno or 0, code.co_name, source, ours])
    return frames


def text_of(error: BaseException, *, everything: bool = False) -> str:
    """The traceback as Python prints it, with what led to it, without the platform's frames."""
    import traceback

    details = traceback.TracebackException(type(error), error, error.__traceback__, lookup_lines=False)
    _show_only(details, error, everything, set())
    return "".join(details.format())


def _show_only(details: Any, error: Optional[BaseException], everything: bool, seen: set[int]) -> None:
    import traceback

    if details is None or error is None or id(details) in seen:
        return
    seen.add(id(details))
    kept = [frame for frame in frames_of(error) if everything or not frame[4]]
    details.stack = traceback.StackSummary.from_list(
        [
            traceback.FrameSummary(file, line, name, lookup_line=False, line=source)
            for file, line, name, source, _ in kept
        ]
    )
    _show_only(details.__cause__, error.__cause__, everything, seen)
    _show_only(details.__context__, error.__context__, everything, seen)
    for inner, inner_error in zip(getattr(details, "exceptions", None) or (), getattr(error, "exceptions", ())):
        _show_only(inner, inner_error, everything, seen)


# -- at the caller --------------------------------------------------------------------------------


def attach(error: BaseException, frames: List[Frame]) -> None:
    """Give an exception that came from a container the traceback that it had there."""
    shown = frames if show_all() else [frame for frame in frames if not (len(frame) > 4 and frame[4])]
    chain: Optional[TracebackType] = None
    for frame in reversed(shown):
        made = _Remote(frame)
        chain = TracebackType(chain, made.frame, 0, made.line)
    error.__traceback__ = chain


def is_remote(error: BaseException) -> bool:
    """Whether the exception was raised in a container."""
    entry = error.__traceback__
    while entry is not None:
        if _MARK in entry.tb_frame.f_globals:
            return True
        entry = entry.tb_next
    return False


_capture = compile("_seen(_frame(1))", "<remote>", "exec")
# Python 3.11's table of places for this code: its first line throughout, no columns, so nothing is underlined.
_LINES_ONLY = b"".join(
    bytes((0x80 | 13 << 3 | min(8, len(_capture.co_code) // 2 - at) - 1, 0))
    for at in range(0, len(_capture.co_code) // 2, 8)
)


class _Remote:
    """A frame object that says it is at a place of the user's code in a container."""

    def __init__(self, frame: Frame) -> None:
        file, line, name, source = str(frame[0]), int(frame[1]), str(frame[2]), str(frame[3])
        self.line = line
        names: Dict[str, Any] = {"co_filename": file, "co_name": name, "co_firstlineno": max(line, 1)}
        if sys.version_info >= (3, 11):
            names["co_qualname"] = name
            names["co_linetable"] = _LINES_ONLY
        seen: List[Any] = []
        scope = {
            "__name__": name,
            "_seen": seen.append,
            "_frame": _frame_below,
            _MARK: [file, line, name, source, False],
        }
        exec(_capture.replace(**names), scope)  # noqa: S102 - runs the line above, under another name
        self.frame = seen[0]
        for used in ("_seen", "_frame", "__builtins__"):
            scope.pop(used, None)
        if source and not os.path.exists(file):
            _remember_source(file, line, source)


def _frame_below(depth: int) -> Any:
    return sys._getframe(depth)


def _remember_source(file: str, line: int, source: str) -> None:
    """Let `linecache` know a line of a file that only the container has."""
    import linecache

    known: Any = linecache.cache.get(file)
    lines = known[2] if known is not None and len(known) == 4 and known[1] is None else []
    if len(lines) < line:
        lines = lines + ["\n"] * (line - len(lines))
    lines[line - 1] = source + "\n"
    linecache.cache[file] = (len(lines), None, lines, file)


def trim(error: BaseException) -> None:
    """Take our own frames out of the traceback of an error that the user caused, remote or not.

    What is neither remote nor one of `modal.exception` may be a defect of ours: it keeps every frame.
    """
    exception = sys.modules.get("modal.exception")
    known = exception is not None and isinstance(error, exception.Error)
    if not (known or is_remote(error)) or show_all():
        return
    kept = []
    entry = error.__traceback__
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(_OURS):
            kept.append(entry)
        entry = entry.tb_next
    chain: Optional[TracebackType] = None
    for entry in reversed(kept):
        chain = TracebackType(chain, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    error.__traceback__ = chain
