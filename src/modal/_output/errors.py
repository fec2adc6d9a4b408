"""Exceptions on the screen: the user's frames first, local and remote; ours only with MODAL_TRACEBACK=1."""

from __future__ import annotations

import os
import sys
from typing import Any, List, Optional

from modal._output.screen import coloured
from modal._output.text import cells, encodable, style

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the package `modal`
FROZEN = ("<frozen ", "<string>")
BOX_WIDTH = 100  # columns, at most


def all_frames_wanted() -> bool:
    """MODAL_TRACEBACK=1, or `traceback` in the profile."""
    from modal.config import config

    try:
        return bool(config.get("traceback"))
    except Exception:  # a broken settings file must not hide the error that is being shown
        return os.environ.get("MODAL_TRACEBACK", "") not in ("", "0")


def traceback_text(error: BaseException, everything: bool = False) -> str:
    """The traceback as Python prints it, without frames that are not the user's (unless `everything`)."""
    import traceback

    details = traceback.TracebackException.from_exception(error, compact=True)
    _arrange(details, error, everything, set())
    return "".join(details.format(chain=True))


def _arrange(details: Any, error: Optional[BaseException], everything: bool, seen: set[int]) -> None:
    """Filter the frames of an error and of all that led to it, and add the remote ones."""
    if details is None or id(details) in seen:
        return
    seen.add(id(details))
    import traceback

    frames = list(details.stack)
    if not everything:
        frames = users_frames(frames)
    for file, line, function, source in remote_frames(error) if error is not None else []:
        frames.append(traceback.FrameSummary(file, line, function, lookup_line=False, line=source))
    details.stack = traceback.StackSummary.from_list(frames)
    _arrange(details.__cause__, getattr(error, "__cause__", None), everything, seen)
    _arrange(details.__context__, getattr(error, "__context__", None), everything, seen)
    for inner, inner_error in zip(getattr(details, "exceptions", None) or (), getattr(error, "exceptions", ())):
        _arrange(inner, inner_error, everything, seen)


def users_frames(frames: List[Any]) -> List[Any]:
    """Without our own frames, and without those of Python's machinery that lead to the user's first one."""
    kept = [frame for frame in frames if not _is_ours(frame.filename)]
    first = next((number for number, frame in enumerate(kept) if not _is_machinery(frame.filename)), len(kept))
    return kept[first:]


def _is_ours(path: str) -> bool:
    return path.startswith(HERE + os.sep)


def _is_machinery(path: str) -> bool:
    if path.startswith(FROZEN):
        return True
    library = os.path.dirname(os.__file__)
    inside = tuple(os.path.join(library, name) for name in ("asyncio", "importlib", "contextlib.py"))
    return path.startswith(inside) or f"{os.sep}click{os.sep}" in path


def remote_frames(error: BaseException) -> List[Any]:
    """[file, line, function, source line] of each frame in the container, outermost first; [] where there is none."""
    from modal import _traceback

    found = getattr(_traceback, "remote_frames", None)
    return list(found(error)) if found is not None else []


def error_text(message: str, title: str = "Error", stream: Any = None) -> str:
    """One line in a pipe, a box on a terminal."""
    file = sys.stderr if stream is None else stream
    message = message.strip() or "no details"
    if not coloured(file) or not _is_terminal(file):
        return f"{title}: {message}\n"
    try:
        width = min(BOX_WIDTH, os.get_terminal_size(file.fileno()).columns)
    except (OSError, AttributeError, ValueError):
        width = 80
    inner = max(20, width - 4)
    lines = [piece for line in message.splitlines() for piece in _wrapped(line, inner)]
    edge = style("│", "red")
    top = style(f"╭─ {title} " + "─" * max(0, inner - cells(title) - 1) + "╮", "red")
    body = [f"{edge} {line}{' ' * max(0, inner - cells(line))} {edge}" for line in lines]
    text = "\n".join([top, *body, style("╰" + "─" * (inner + 2) + "╯", "red")]) + "\n"
    return encodable(text, getattr(file, "encoding", None))


def _is_terminal(file: Any) -> bool:
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):
        return False


def _wrapped(line: str, width: int) -> List[str]:
    import textwrap

    return textwrap.wrap(line, width, break_long_words=True, replace_whitespace=False, drop_whitespace=True) or [""]
