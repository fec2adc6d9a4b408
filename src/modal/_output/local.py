"""The program's own prints, while a screen is shown: they pass through it, so that no line is torn."""

from __future__ import annotations

import io
import sys
from typing import Any, Callable, Iterable, List

from modal._output.screen import ERR, OUT, Screen


class LocalStream(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr`. Whole lines go on at once, a part of a line when it is flushed."""

    def __init__(self, screen: Screen, stream: int, real: Any) -> None:
        self._screen = screen
        self._stream = stream
        self._real = real
        self._parts: List[str] = []

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._screen.lock:
            end = max(text.rfind("\n"), text.rfind("\r")) + 1
            if not end:
                self._parts.append(text)
                return len(text)
            self._parts.append(text[:end])
            whole, self._parts = "".join(self._parts), [text[end:]] if end < len(text) else []
            self._screen.write(self._stream, whole, owner=self, flush=self._stream == ERR)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._screen.lock:
            whole, self._parts = "".join(self._parts), []
            if whole:
                self._screen.write(self._stream, whole, owner=self)
            elif not self._real.closed:
                self._screen.flush(self._stream)

    @property
    def buffer(self) -> Any:
        self.flush()
        return self._real.buffer

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        return self._real.encoding

    @property
    def errors(self) -> Any:  # type: ignore[override]
        return self._real.errors

    def fileno(self) -> int:
        descriptor: int = self._real.fileno()
        return descriptor

    def isatty(self) -> bool:
        return bool(self._real.isatty())

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """The real stream is not ours to close."""

    def __del__(self) -> None:
        """Nothing to close."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class LocalOutput:
    """Lets the program's prints (and prompts) pass through `screen` until `restore`."""

    def __init__(self, screen: Screen) -> None:
        import builtins

        self._screen = screen
        self._before = (sys.stdout, sys.stderr)
        self._streams = (LocalStream(screen, OUT, sys.stdout), LocalStream(screen, ERR, sys.stderr))
        sys.stdout, sys.stderr = self._streams
        self._input = builtins.input
        self._prompting: Callable[..., str] = self._prompt
        if screen.live:  # the line editor writes to the terminal by itself
            builtins.input = self._prompting

    def _prompt(self, prompt: object = "", /) -> str:
        sys.stdout.flush()
        self._screen.pause()
        try:
            return self._input(prompt)
        finally:
            self._screen.resume()

    def restore(self) -> None:
        """What was there before is there again, unless the program has put something of its own there."""
        import builtins

        for stream in self._streams:
            stream.flush()
        if sys.stdout is self._streams[0]:
            sys.stdout = self._before[0]
        if sys.stderr is self._streams[1]:
            sys.stderr = self._before[1]
        if builtins.input is self._prompting:
            builtins.input = self._input
