"""What a person sees of a run: the tree of objects, builds, logs, a line with running and pending inputs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Set

from modal._events import Sink
from modal._output.builds import Builds
from modal._output.logs import LogLines
from modal._output.screen import ERR, Screen
from modal._output.text import style

if TYPE_CHECKING:
    from modal._protocol.messages.call import CallStats
    from modal._protocol.messages.log import LogEntry

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SHOWN_OBJECTS = 12  # in the live region, at most
SHOWN_FUNCTIONS = 4
KEPT_MAPS = 32  # finished ones are forgotten beyond that
WAITS_TOLD_AFTER = 5.0  # seconds that inputs must have waited for the same
WAITS_TOLD = 20  # such lines of one command, at most
BAR = 20  # columns of a progress bar


class _Object:
    """An app's function, mount, image … in the tree."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.url = ""
        self.done = False


class _Map:
    """The progress of one `.map()`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = 0
        self.total = 0
        self.at = 0.0


class TerminalSink(Sink):
    """Draws on `screen`. Without `progress` only logs are shown."""

    def __init__(self, screen: Screen, progress: bool = True) -> None:
        self.screen = screen
        self.progress = progress
        self.log_lines = LogLines(screen)
        self.app_id = ""  # of the newest app
        self.interrupted = ""  # by what, where a signal is the reason
        self.failed = ""  # why the app stops, where an exception is the reason
        self.on_stopping: Optional[Callable[[str], None]] = None  # told the app's id when it is about to stop
        self._phase = ""
        self._objects: Dict[str, _Object] = {}
        self._builds = Builds(screen, progress)
        self._functions: Dict[str, List[int]] = {}
        self._waiting_for = ""
        self._waits_since = 0.0
        self._told_waits: Optional[Set[str]] = None  # without a live region: those that have been told
        self._maps: Dict[str, _Map] = {}
        if screen.live:
            screen.show(self.region if progress else self.log_lines.transient)

    # -- apps
    def app_created(self, app_id: str, description: str, url: str, detached: bool) -> None:
        self.app_id = app_id
        self._phase = "creating"
        self._say(f"{self._tick()} Initialized." + (f" View app page at {self._link(url)}." if url else ""))

    def app_published(self, app_id: str, url: str, seconds: float) -> None:
        self._finish_objects()

    def app_deployed(self, app_id: str, name: str, url: str, version: int, seconds: float) -> None:
        self.app_id = app_id
        self._finish_objects()
        self._say(f"{self._tick()} App deployed! 🎉")
        if url:
            self._say(f"\nView Deployment: {self._link(url)}")

    def app_running(self, app_id: str) -> None:
        self._phase = "running"

    def app_stopping(self, app_id: str) -> None:
        self._phase = "stopping"
        self.stops_because_of(sys.exc_info()[1])
        if self.on_stopping is not None:
            self.on_stopping(app_id)
        if self.interrupted:
            self._always(f"Stopping app - {self.interrupted}")
        elif self.failed:
            self._say(f"Stopping app - {self.failed}")
        self.screen.refresh()

    def stops_because_of(self, error: Optional[BaseException]) -> None:
        """An app that stops while an exception is on its way says so."""
        if isinstance(error, KeyboardInterrupt):
            self.interrupted = str(error) or "interrupted by Ctrl-C. Press Ctrl-C again to end it at once."
        elif isinstance(error, Exception) and not self.failed:
            self.failed = f"{type(error).__name__} was raised."

    def app_stopped(self, app_id: str, url: str, reason: str) -> None:
        self._phase = ""
        self._functions.clear()
        self._maps.clear()
        self.log_lines.finish()
        page = f" View app page at {self._link(url)}" if url else ""
        if reason:
            self._always(f"{self._cross()} App stopped: {reason}")
        elif self.interrupted:
            self._always(f"{self._tick()} App stopped.")
        elif self.failed:
            self._say(f"{self._cross()} App stopped after an error.{page}")
        else:
            self._say(f"{self._tick()} App completed.{page}")

    def app_detached(self, app_id: str, url: str) -> None:
        self._phase = ""
        self._functions.clear()
        self.log_lines.finish()
        text = f"{self._tick()} The app {app_id} goes on without this command."
        self._say(f"{text} Its logs: `modal app logs {app_id}`; to stop it: `modal app stop {app_id}`.")

    # -- objects
    def object_creating(self, key: str, text: str) -> None:
        with self.screen.lock:
            self._begin_objects()
            self._objects[key] = _Object(text)
        self.screen.refresh()

    def object_created(self, key: str, text: str, object_id: str = "", url: str = "") -> None:
        with self.screen.lock:
            self._begin_objects()
            item = self._objects.setdefault(key, _Object(text))
            item.text, item.url, item.done = text, url, True
        self.screen.refresh()

    def _begin_objects(self) -> None:
        if self._phase != "running":
            self._phase = "creating"

    def _finish_objects(self) -> None:
        with self.screen.lock:
            items = [item for item in self._objects.values() if item.done]
            self._objects.clear()
            self._phase = ""
            lines = [f"{self._tick()} Created objects.", *self._tree(items, "🔨")]
            self._say("\n".join(lines))

    def _tree(self, items: List[_Object], sign: str) -> List[str]:
        lines = []
        for number, item in enumerate(items):
            branch = "└──" if number == len(items) - 1 else "├──"
            mark = "🔨" if item.done else style(sign, "cyan") if self.screen.colour else sign
            text = item.text if not item.url else f"{item.text.rstrip('.')} => {self._link(item.url)}"
            lines.append(f"{self._dim(branch)} {mark} {text}")
        return lines

    # -- images
    def image_building(self, key: str, description: str) -> None:
        self._builds.begin(key, description)

    def image_step(self, key: str, step: int, text: str, image_id: str) -> None:
        self._builds.step(key, step, text, image_id)

    def image_log(self, key: str, text: str, progress: bool = False) -> None:
        self._builds.log(key, text, progress)

    def image_built(self, key: str, image_id: str, cached: bool, seconds: float) -> None:
        self._builds.end(key, image_id, cached, seconds)

    def image_failed(self, key: str, reason: str) -> None:
        self._builds.fail(key, reason)

    # -- while it runs
    def logs(self, app_id: str, entries: List[LogEntry]) -> None:
        self.log_lines.feed(entries)

    def stats(self, stats: CallStats) -> None:
        with self.screen.lock:
            self._functions = stats.functions
            if stats.notice != self._waiting_for:
                self._waiting_for, self._waits_since = stats.notice, time.monotonic()
            if stats.notice and self._told_waits is None and self.progress and not self.screen.live:
                self._told_waits = set()
                self.screen.every_tick(self.tell_waits)

    def tell_waits(self, now: float) -> None:
        """Where nothing is live: a line about what inputs have waited for, once that has lasted for a while."""
        told = self._told_waits
        if told is None or now - self._waits_since < WAITS_TOLD_AFTER:
            return
        for text in self._waiting_for.split("; "):
            if " waits for " in text and text not in told and len(told) < WAITS_TOLD:
                told.add(text)
                self.screen.line(text, ERR)

    def map_progress(self, key: str, name: str, done: int, total: int) -> None:
        with self.screen.lock:
            if key not in self._maps and len(self._maps) >= KEPT_MAPS:
                self._maps = {k: m for k, m in self._maps.items() if m.done < m.total}
            entry = self._maps.setdefault(key, _Map(name))
            entry.done, entry.total, entry.at = done, total, time.monotonic()

    def notice(self, text: str) -> None:
        if self.progress:
            self.screen.line(text, ERR)

    # -- the live region
    def region(self) -> List[str]:
        """The lines below the text, as they are now."""
        now = time.monotonic()
        frame = FRAMES[int(now * 10) % len(FRAMES)]
        spinner = style(frame, "cyan") if self.screen.colour else frame
        lines = list(self.log_lines.transient())
        lines += self._builds.region(spinner)
        if self._phase == "creating":
            lines += self._creating(spinner)
        elif self._phase == "running":
            lines += self._running(spinner, now)
        elif self._phase == "stopping":
            lines.append(f"{spinner} Stopping app...")
        return lines

    def _creating(self, spinner: str) -> List[str]:
        items = list(self._objects.values())
        hidden = len(items) - SHOWN_OBJECTS
        if hidden > 0:
            items = [item for item in items if not item.done][-SHOWN_OBJECTS:]
        return [f"{spinner} Creating objects...", *self._tree(items, "⋯")]

    def _running(self, spinner: str, now: float) -> List[str]:
        active = {name: counts for name, counts in self._functions.items() if counts[0] or counts[1]}
        maps = {m.name: m for m in self._maps.values() if m.done < m.total or now - m.at < 0.5}
        names = list(dict.fromkeys([*maps, *active]))
        lines = [self._function_line(spinner, name, active.get(name), maps.get(name)) for name in names]
        del lines[SHOWN_FUNCTIONS:]
        if len(names) > SHOWN_FUNCTIONS:
            lines.append(self._dim(f"  … and {len(names) - SHOWN_FUNCTIONS} more functions"))
        if self._waiting_for and any(counts[0] for counts in active.values()):
            lines.append(self._dim(f"  {self._waiting_for}"))
        return lines

    def _function_line(self, spinner: str, name: str, counts: Optional[List[int]], progress: Optional[_Map]) -> str:
        parts = []
        if progress is not None and progress.total:
            full = min(BAR, BAR * progress.done // progress.total)
            bar = "━" * full + self._dim("─" * (BAR - full))
            parts.append(f"{bar} {progress.done}/{progress.total}")
        if counts is not None:
            pending, running, _finished, containers = counts
            parts.append(f"{running} running, {pending} pending")
            parts.append(f"{containers} container{'' if containers == 1 else 's'}")
        return f"{spinner} {name}  {' · '.join(parts)}"

    # -- pieces
    def _say(self, text: str) -> None:
        if self.progress:
            self.screen.line(text)

    def _always(self, text: str) -> None:
        self.screen.line(text, ERR if not self.progress else 1)

    def _tick(self) -> str:
        return style("✓", "green") if self.screen.colour else "✓"

    def _cross(self) -> str:
        return style("✗", "red") if self.screen.colour else "✗"

    def _dim(self, text: str) -> str:
        return style(text, "dim") if self.screen.colour else text

    def _link(self, url: str) -> str:
        return style(url, "magenta") if self.screen.colour else url
