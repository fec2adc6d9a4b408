"""The web side of a container, as its executor sees it: apps, lifespans and the link to the gateway together."""

from __future__ import annotations

from typing import Callable, Optional

from intermodal.runner.control import Control
from intermodal.runner.loading import Service
from intermodal.runner.web import WebServer
from intermodal.runner.web_apps import WebApps


class WebSide:
    """`open` and `close` run in the event loop that serves."""

    def __init__(self, service: Service, control: Control) -> None:
        self._apps = WebApps(service)
        self._control = control
        self._server: Optional[WebServer] = None

    @property
    def busy(self) -> bool:
        """Whether requests are under way."""
        return self._server is not None and self._server.busy

    def call(self) -> None:
        """Before `open`, while no event loop runs. Raises whatever user code raises, and ExecutionError."""
        self._apps.call()

    async def open(self, set_input: Callable[[str], object], on_idle: Callable[[], None]) -> None:
        """Make the apps, start them, and be there for the gateway. Raises what user code raises, and ExecutionError.

        `set_input(input id)` is called in each request's own context; `on_idle` when the last request ended.
        """
        await self._apps.open()
        if not self._apps.apps:
            return  # servers alone: the gateway connects to their ports
        spec = self._control.spec
        self._server = WebServer(self._control.path, spec.container_id, self._apps.apps, self._apps.states)
        self._server.set_input = set_input
        self._server.on_idle = on_idle
        await self._server.open()

    async def close(self) -> None:
        """No more requests; apps shut down."""
        if self._server is not None:
            await self._server.close()
        await self._apps.close()
