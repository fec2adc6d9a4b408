"""Sentences about what went wrong: one line in a pipe, a box on a terminal."""

from __future__ import annotations

import os
import sys
from typing import Any, List

from modal._output.screen import coloured
from modal._output.text import cells, encodable, style

BOX_WIDTH = 100  # columns, at most


def error_text(message: str, title: str = "Error", stream: Any = None) -> str:
    """`message` as it is written to `stream` (stderr)."""
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
