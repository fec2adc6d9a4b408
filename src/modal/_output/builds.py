"""Image builds on the screen: their steps, their output, and what they do now."""

from __future__ import annotations

from typing import Dict, List

from modal._output.screen import Screen
from modal._output.text import last_state, only_colours, style, without_escapes


class _Build:
    """One image that is being built."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.image_id = ""
        self.step = ""
        self.progress = ""
        self.rest = ""  # the beginning of a line
        self.announced = False


class Builds:
    """Shows any number of builds at once. Where two run, their lines say which one they are of."""

    def __init__(self, screen: Screen, shown: bool) -> None:
        self._screen = screen
        self._shown = shown
        self._builds: Dict[str, _Build] = {}

    def begin(self, key: str, description: str) -> None:
        """A build begins, or waits for its turn."""
        with self._screen.lock:
            self._builds[key] = _Build(description)
        self._screen.refresh()

    def step(self, key: str, number: int, text: str, image_id: str) -> None:
        """A step begins."""
        with self._screen.lock:
            build = self._get(key)
            self._finish_line(key, build)
            build.image_id = image_id or build.image_id
            self._announce(build)
            build.progress = ""
            line = text if text.startswith("=>") else f"=> Step {number}: {text}"
            build.step = line
            self._line(key, build, style(line, "bold") if self._screen.colour else line)

    def log(self, key: str, text: str, progress: bool) -> None:
        """Output of a step; `progress` replaces what the last one said."""
        with self._screen.lock:
            build = self._get(key)
            if progress:
                build.progress = without_escapes(last_state(text.rstrip("\n")))
                self._screen.refresh()
                return
            self._announce(build)
            build.progress = ""
            text = build.rest + text.replace("\r\n", "\n")
            end = text.rfind("\n") + 1
            build.rest = text[end:]
            for line in text[:end].split("\n")[:-1]:
                self._line(key, build, only_colours(last_state(line)))

    def end(self, key: str, image_id: str, cached: bool, seconds: float) -> None:
        """The image is there."""
        with self._screen.lock:
            build = self._builds.pop(key, None)
            if build is None or cached:
                self._screen.refresh()
                return
            self._finish_line(key, build)
            if self._shown:
                self._screen.line(f"Built image {image_id} in {seconds:.2f}s\n")

    def fail(self, key: str, reason: str) -> None:
        """The build failed; the error itself is shown by whoever catches it."""
        with self._screen.lock:
            build = self._builds.pop(key, None)
            if build is not None:
                self._finish_line(key, build)

    def region(self, spinner: str) -> List[str]:
        """One line a build, and what its step says of its progress."""
        lines = []
        for build in self._builds.values():
            what = f"Building image {build.image_id or build.description}".rstrip()
            lines.append(f"{spinner} {what}{f'  {build.step}' if build.step else '...'}")
            if build.progress:
                lines.append(f"  {build.progress}")
        return lines

    def _get(self, key: str) -> _Build:
        return self._builds.setdefault(key, _Build(""))

    def _announce(self, build: _Build) -> None:
        if not build.announced:
            build.announced = True
            if self._shown:
                self._screen.line(f"Building image {build.image_id or build.description}".rstrip())

    def _finish_line(self, key: str, build: _Build) -> None:
        if build.rest:
            line, build.rest = build.rest, ""
            self._line(key, build, only_colours(last_state(line)))

    def _line(self, key: str, build: _Build, text: str) -> None:
        if not self._shown:
            return
        prefix = ""
        if len(self._builds) > 1:
            prefix = f"{(build.image_id or build.description or key)[:11]} │ "
            prefix = style(prefix, "dim") if self._screen.colour else prefix
        self._screen.line(prefix + text)
