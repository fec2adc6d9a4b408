"""The ASGI lifespan protocol: an app is told when its container begins and ends to serve."""

from __future__ import annotations

import asyncio
from typing import Any, Optional

from intermodal.runner.loading import load_error

STOP_SECONDS = 20.0  # that an app may take to shut down


class Lifespan:
    """One app's lifespan, which is a task for the container's whole life."""

    def __init__(self, app: Any, state: dict[str, Any], shown: str) -> None:
        self._app = app
        self._state = state
        self._shown = shown
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: Optional[asyncio.Task[None]] = None
        self._started: Optional[asyncio.Future[None]] = None
        self._stopped: Optional[asyncio.Future[None]] = None
        self._supported = False

    async def start(self) -> None:
        """Return when the app is up; at once where it knows no lifespan. Raises ExecutionError with what it said."""
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = loop.create_task(self._run())
        await self._started

    async def _run(self) -> None:
        assert self._started is not None
        assert self._stopped is not None
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._events.get, self._send)
        except BaseException as error:
            # Before it has said anything, an exception means: it does not know lifespans.
            if self._started.done() and not self._stopped.done() and self._supported:
                self._stopped.set_exception(error)
                return
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        finally:
            for waiting in (self._started, self._stopped):
                if not waiting.done():
                    waiting.set_result(None)

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._started is not None
        assert self._stopped is not None
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._supported = True
            if not self._started.done():
                self._started.set_result(None)
        elif kind == "lifespan.startup.failed":
            if not self._started.done():
                said = message.get("message") or "without a reason"
                self._started.set_exception(load_error(f"{self._shown}: the app's startup failed: {said}"))
        elif kind == "lifespan.shutdown.complete":
            if not self._stopped.done():
                self._stopped.set_result(None)
        elif kind == "lifespan.shutdown.failed":
            if not self._stopped.done():
                said = message.get("message") or "without a reason"
                self._stopped.set_exception(RuntimeError(f"{self._shown}: the app's shutdown failed: {said}"))

    async def stop(self) -> None:
        """Tell the app to shut down and wait for it. Raises what it raised, or RuntimeError when it takes too long."""
        if self._task is None or self._stopped is None or not self._supported:
            if self._task is not None:
                self._task.cancel()
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        try:
            await asyncio.wait_for(self._stopped, STOP_SECONDS)
        except TimeoutError:
            raise RuntimeError(f"{self._shown}: the app did not shut down within {STOP_SECONDS:g} seconds") from None
        finally:
            self._task.cancel()
