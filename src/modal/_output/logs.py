"""Container logs on their way to a screen: whole lines, in order, none torn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Dict, Iterable, List, Tuple

from modal._output.screen import ERR, OUT, Screen
from modal._output.text import last_state, only_colours, safe_end, style, without_escapes

if TYPE_CHECKING:
    from modal._protocol.messages.log import LogEntry

HOLD = 0.2  # seconds that the beginning of a line waits for its end, where there is no live region for it
LONGEST = 1 << 18  # characters of one line that are held back
SHOWN_PARTIALS = 3  # unfinished lines in the live region, at most
SYSTEM = 3  # log.Stream.SYSTEM

_Key = Tuple[str, int]  # container, stream


class _Partial:
    """The beginning of a line."""

    def __init__(self, since: float) -> None:
        self.parts: List[str] = []
        self.size = 0
        self.since = since
        self.time = 0.0  # of its first entry

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.size += len(text)

    def text(self) -> str:
        return "".join(self.parts)


class LogLines:
    """Puts the entries of many containers together to lines and writes them to `screen`."""

    def __init__(self, screen: Screen, timestamps: bool = False) -> None:
        self._screen = screen
        self._timestamps = timestamps
        self._partials: Dict[_Key, _Partial] = {}
        self._begun: Dict[_Key, bool] = {}  # lines of which a part stands on the screen already
        self._ticking = False

    def feed(self, entries: Iterable[LogEntry]) -> None:
        """Write what the entries complete; keep the rest until it is complete, or has waited long enough."""
        with self._screen.lock:
            now = time.monotonic()
            run: List[str] = []
            run_stream = OUT
            for entry in entries:
                stream = OUT if entry.stream == OUT else ERR
                key = (entry.container_id, entry.stream)
                whole = self._complete(key, entry, now)
                if not whole:
                    continue
                if key in self._begun:  # continues a line that is open on the screen
                    self._flush_run(run, run_stream)
                    self._begun.pop(key)
                    self._screen.write(stream, whole, owner=key)
                    continue
                if stream != run_stream:
                    self._flush_run(run, run_stream)
                    run_stream = stream
                run.append(whole)
            self._flush_run(run, run_stream)
            if self._partials and not self._ticking:
                self._ticking = True
                self._screen.every_tick(self._expire)

    def _flush_run(self, run: List[str], stream: int) -> None:
        if run:
            self._screen.write(stream, "".join(run), owner=self)
            run.clear()

    def _complete(self, key: _Key, entry: LogEntry, now: float) -> str:
        """The whole lines that the entry brings, as they are to be shown."""
        text = entry.text
        partial = self._partials.get(key)
        if self._screen.live:
            text = text.replace("\r\n", "\n")
        end = text.rfind("\n") + 1
        first_time = partial.time if partial is not None else entry.time
        whole = ""
        if end:
            whole = (partial.text() if partial is not None else "") + text[:end]
            self._partials.pop(key, None)
            partial = None
        if end < len(text):
            if partial is None:
                partial = self._partials[key] = _Partial(now)
                partial.time = entry.time
            partial.add(text[end:])
            if partial.size > LONGEST:
                self._show_part(key, partial)
        return self._dress(whole, key, first_time) if whole else ""

    def _dress(self, text: str, key: _Key, seconds: float) -> str:
        """The lines as they are shown: progress bars in their last state, no cursor movements, a time in front."""
        screen = self._screen
        if screen.live and ("\r" in text or "\x1b" in text):
            text = only_colours("".join(map(last_state, _lines(text))))
        if self._timestamps:
            stamp = _stamp(seconds)
            text = "".join(f"{stamp} {line}" for line in _lines(text))
        if key[1] == SYSTEM and screen.colour:
            text = "".join(style(line.rstrip("\n"), "yellow") + "\n" for line in _lines(text))
        return text

    def _expire(self, now: float) -> None:
        if self._screen.live:
            return
        for key, partial in list(self._partials.items()):
            if now - partial.since >= HOLD:
                self._show_part(key, partial)

    def _show_part(self, key: _Key, partial: _Partial, final: bool = False) -> None:
        """Write the beginning of a line whose end is not in sight; never half an escape sequence."""
        text = partial.text()
        end = len(text) if final else safe_end(text)
        if not end:
            return
        rest = text[end:]
        shown = text[:end]
        if self._screen.live:
            shown = last_state(shown)
        if self._timestamps and key not in self._begun:
            shown = f"{_stamp(partial.time)} {shown}"
        self._screen.write(OUT if key[1] == OUT else ERR, shown, owner=key)
        self._begun[key] = True
        del self._partials[key]
        if rest:
            kept = self._partials[key] = _Partial(partial.since)
            kept.time = partial.time
            kept.add(rest)

    def transient(self) -> List[str]:
        """Lines that have no end yet, for the live region: prompts and progress bars."""
        shown = [
            without_escapes(last_state(partial.text()[-4096:]))
            for partial in list(self._partials.values())[:SHOWN_PARTIALS]
        ]
        return [line.replace("\t", "    ") for line in shown if line]

    def finish(self) -> None:
        """No more entries come: show what has no end."""
        with self._screen.lock:
            for key, partial in list(self._partials.items()):
                self._show_part(key, partial, final=True)
            self._partials.clear()
            self._begun.clear()


def _lines(text: str) -> List[str]:
    """Lines with their ends; only "\\n" ends a line."""
    return [part + "\n" for part in text[:-1].split("\n")] if text.endswith("\n") else text.split("\n")


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(seconds))
