"""Two streams and a live region below them, written to by many threads without a torn line.

All output goes through one lock. What stands on a line without an end belongs to an owner: text
of another owner begins on a line of its own. The live region (spinner, progress) is erased before
each write and drawn again after it; it exists on a terminal only.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Callable, Hashable, List, Optional, TextIO

from modal._output.text import cut, encodable

OUT, ERR = 1, 2
TICK = 0.1  # seconds between two pictures of a spinner
DRAW_PAUSE = 0.005  # seconds: the region is not drawn more often while text pours out

Region = Callable[[], List[str]]


def capable(stream: Any) -> bool:
    """Whether `stream` is a terminal on which lines can be erased."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM", "") != "dumb"
    except (AttributeError, ValueError):
        return False


def coloured(stream: Any) -> bool:
    """Whether colours are wanted on `stream`."""
    if os.environ.get("NO_COLOR"):
        return False
    return capable(stream) or os.environ.get("FORCE_COLOR", "") not in ("", "0")


class _Device:
    """Where streams lead; two streams that lead to the same file or terminal share one."""

    def __init__(self) -> None:
        self.owner: Optional[Hashable] = None  # of the line that has no end yet
        self.broken = False


class Screen:
    """Call `close` at the end. `on_broken` is called once when nobody reads any more (`| head`)."""

    def __init__(
        self,
        out: Optional[TextIO] = None,
        err: Optional[TextIO] = None,
        live: Optional[bool] = None,
        size: Optional[Callable[[], os.terminal_size]] = None,
        on_broken: Optional[Callable[[], None]] = None,
    ) -> None:
        self.out: Any = sys.stdout if out is None else out
        self.err: Any = sys.stderr if err is None else err
        self.live = capable(self.out) if live is None else live
        self.colour = coloured(self.out)
        self.lock = threading.RLock()
        self._size = size or self._terminal_size
        self._on_broken = on_broken
        same = _same_file(self.out, self.err)
        out_device = _Device()
        self._devices = {OUT: out_device, ERR: out_device if same else _Device()}
        self._region: Optional[Region] = None
        self._drawn = False
        self._drawn_at = 0.0
        self._ticks: List[Callable[[float], None]] = []
        self._paused = 0
        self._wake = threading.Event()
        self._closed = False
        self._ticker: Optional[threading.Thread] = None

    # -- writing
    def write(self, stream: int, text: str, owner: Hashable = None, flush: bool = True) -> None:
        """Append text. An unfinished last line stays open for `owner`; anybody else begins a new one."""
        if not text:
            return
        with self.lock:
            device = self._devices[stream]
            if device.broken:
                return
            if device.owner is not None and device.owner != owner:
                text = "\n" + text
            over_region = self._region is not None and device is self._devices[OUT]
            device.owner = None if text.endswith("\n") else "?" if owner is None else owner
            if self._devices[ERR] is self._devices[OUT]:
                if self.live:
                    stream = OUT  # one terminal, one write: nothing flickers
                elif stream == ERR:
                    self._put(OUT, "", True)
            if over_region and stream == OUT:
                self._put(OUT, self._erasing() + text + self._drawing(time.monotonic(), True), True)
            else:
                self._put(stream, text, flush or self.live or stream == ERR)

    def flush(self, stream: int) -> None:
        """Hand on what is buffered."""
        with self.lock:
            self._put(stream, "", True)

    def line(self, text: str, stream: int = OUT) -> None:
        """A line of our own."""
        self.write(stream, text + "\n")

    def _put(self, stream: int, text: str, flush: bool) -> None:
        file = self.out if stream == OUT else self.err
        device = self._devices[stream]
        if device.broken:
            return
        try:
            if text:
                try:
                    file.write(text)
                except UnicodeEncodeError:
                    file.write(encodable(text, getattr(file, "encoding", None)))
            if flush:
                file.flush()
        except (BrokenPipeError, ConnectionResetError, ValueError):
            self._broke(device, file)

    def _broke(self, device: _Device, file: Any) -> None:
        device.broken = True
        try:
            descriptor = file.fileno()
            if descriptor in (1, 2):  # what is still in the buffer must not fail again at exit
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)
        except (AttributeError, OSError, ValueError):
            pass
        if self._on_broken is not None:
            callback, self._on_broken = self._on_broken, None
            callback()

    # -- the region
    def show(self, region: Optional[Region]) -> None:
        """Draw what `region()` returns below the text from now on; None takes it away."""
        if not self.live:
            return
        with self.lock:
            self._region = region
            self._refresh()
        if region is not None:
            self._start_ticker()

    def refresh(self) -> None:
        """Draw the region again, for something in it has changed."""
        if self.live:
            with self.lock:
                if time.monotonic() - self._drawn_at >= DRAW_PAUSE:
                    self._refresh()

    def pause(self) -> None:
        """No region until `resume`: a prompt uses the terminal, and the line on which it stands is not ours."""
        with self.lock:
            self._paused += 1
            self._refresh()
            self._devices[OUT].owner = "prompt"

    def resume(self) -> None:
        """The prompt has been answered: the cursor is at the start of a line."""
        with self.lock:
            self._paused -= 1
            self._devices[OUT].owner = None

    def _refresh(self) -> None:
        text = self._erasing() + self._drawing(time.monotonic(), False)
        if text:
            self._put(OUT, text, True)

    def _erasing(self) -> str:
        """The cursor rests at the region's start, so whatever else wrote to the terminal is not erased with it."""
        if not self._drawn:
            return ""
        self._drawn = False
        return "\r\x1b[J"

    def _drawing(self, now: float, throttled: bool) -> str:
        """The region as text. Throttled, it stays away for a moment where much is written."""
        if self._region is None or self._closed or self._paused or self._devices[OUT].owner is not None:
            return ""
        if throttled and now - self._drawn_at < DRAW_PAUSE:
            return ""
        size = self._size()
        lines = [cut(line.replace("\n", " "), max(1, size.columns - 1)) for line in self._region()]
        lines = lines[: max(1, size.lines - 1)]
        self._drawn = bool(lines)
        self._drawn_at = now
        back = "\r" + (f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else "")
        return encodable("\n".join(lines), getattr(self.out, "encoding", None)) + back if lines else ""

    def _terminal_size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self.out.fileno())
        except (AttributeError, OSError, ValueError):
            return os.terminal_size((80, 24))
        return size if size.columns > 0 and size.lines > 0 else os.terminal_size((80, 24))

    # -- time
    def every_tick(self, callback: Callable[[float], None]) -> None:
        """Call `callback(now)` ten times a second, under the lock, from now until the end."""
        self._ticks.append(callback)
        self._start_ticker()

    def _start_ticker(self) -> None:
        if self._ticker is None and not self._closed:
            self._ticker = threading.Thread(target=self._tick, name="modal-screen", daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        while not self._wake.wait(TICK):
            with self.lock:
                now = time.monotonic()
                for callback in self._ticks:
                    callback(now)
                if self.live and (self._region is not None or self._drawn):
                    self._refresh()

    def close(self) -> None:
        """Take the region away and end an unfinished line of a container."""
        with self.lock:
            if self._closed:
                return
            self._region = None
            if self.live:
                self._refresh()
            self._closed = True
            self._put(OUT, "", True)
            self._put(ERR, "", True)
        self._wake.set()
        if self._ticker is not None and self._ticker is not threading.current_thread():
            self._ticker.join(1.0)


def _same_file(one: Any, other: Any) -> bool:
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (AttributeError, OSError, ValueError):
        return one is other
