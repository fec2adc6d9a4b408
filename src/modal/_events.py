"""What the SDK tells about its work while it goes on: images that build, objects that appear, logs that come.

The SDK calls the methods of one sink and knows nothing of terminals. By default the sink ignores
everything; `enable_output()` and the command line install one that draws. Calls come from
several threads (images build at the same time), so a sink that keeps state must lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modal._protocol.messages.call import CallStats
    from modal._protocol.messages.log import LogEntry


class Sink:
    """Receives events. Every method may be overridden; here they do nothing."""

    # -- apps
    def app_created(self, app_id: str, description: str, url: str, detached: bool) -> None:
        """An ephemeral app exists: what is shown as "Initialized. View run at URL"."""

    def app_published(self, app_id: str, url: str, seconds: float) -> None:
        """All objects of an ephemeral app are there and calls may begin ("Created objects.")."""

    def app_deployed(self, app_id: str, name: str, url: str, version: int, seconds: float) -> None:
        """A deployment is complete."""

    def app_running(self, app_id: str) -> None:
        """The body of `app.run()` begins."""

    def app_stopping(self, app_id: str) -> None:
        """The body of `app.run()` ended, or was interrupted; its containers are about to stop."""

    def app_stopped(self, app_id: str, url: str, reason: str) -> None:
        """Nothing of the app runs any more. `reason`: "" when it was asked for."""

    def app_detached(self, app_id: str, url: str) -> None:
        """The app goes on without this client."""

    # -- objects
    def object_creating(self, key: str, text: str) -> None:
        """Work on an object began: "Creating mount /root/x.py". `key` names the object until it is created."""

    def object_created(self, key: str, text: str, object_id: str = "", url: str = "") -> None:
        """The object is there: "Created function square.". `url`: of a web endpoint."""

    # -- images
    def image_building(self, key: str, description: str) -> None:
        """The build of an image begins (a cached image goes straight to `image_built`). `key` names the build."""

    def image_step(self, key: str, step: int, text: str, image_id: str) -> None:
        """A step begins; `text` is its line: "=> Step 1: pip install numpy"."""

    def image_log(self, key: str, text: str, progress: bool = False) -> None:
        """Output of a step, as it came. With `progress` it replaces the progress text before it."""

    def image_built(self, key: str, image_id: str, cached: bool, seconds: float) -> None:
        """The image is ready."""

    def image_failed(self, key: str, reason: str) -> None:
        """The build failed; the exception with the same text follows."""

    # -- while it runs
    def logs(self, app_id: str, entries: list[LogEntry]) -> None:
        """What containers printed, in order."""

    def stats(self, stats: CallStats) -> None:
        """How many inputs wait and run."""

    def map_progress(self, key: str, name: str, done: int, total: int) -> None:
        """A `.map()` got results. `total`: inputs submitted so far; `done == total` may still grow."""

    def notice(self, text: str) -> None:
        """A sentence for the user that is neither log nor error."""


_sink: Sink = Sink()


def sink() -> Sink:
    """Where events go now."""
    return _sink


def install(new: Sink) -> Sink:
    """Let events go to `new` from now on; returns what was there before, to be put back."""
    global _sink
    before, _sink = _sink, new
    return before


__all__ = ["Sink", "install", "sink"]
