"""A class's `@enter` and `@exit` hooks, of which any may be a coroutine function, whatever the class's methods are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional

from intermodal.runner.loading import Service

if TYPE_CHECKING:
    import asyncio


class Hooks:
    """Coroutines run in one event loop, so that an exit hook can close what an enter hook has opened."""

    def __init__(self, service: Service, loop: Optional[asyncio.AbstractEventLoop] = None) -> None:
        self._service = service
        self._loop = loop  # None: made for the first hook that needs one

    def enter(self) -> None:
        """In the order of their definition. Whatever a hook raises comes out."""
        for hook in self._service.enter_hooks:
            self._run(hook)

    def exit(self) -> None:
        for hook in self._service.exit_hooks:
            self._run(hook)

    def _run(self, hook: Callable[[], Any]) -> None:
        result = hook()
        if not hasattr(result, "__await__"):
            return
        import asyncio  # here: most containers need none, and it takes a while

        async def wait() -> None:
            await result

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(wait())
