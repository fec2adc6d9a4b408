"""From web functions to what answers requests: ASGI apps, made once for the container's life."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Callable, Optional

from intermodal.runner.loading import Service, load_error
from intermodal.runner.web_lifespan import Lifespan
from modal._protocol.messages.function import FunctionSpec, WebSpec


def web_specs(spec: FunctionSpec) -> dict[str, WebSpec]:
    """Method name ("" for a function's own) to what it is on the web."""
    found = {method.name: method.web for method in spec.methods if method.web is not None}
    if spec.web is not None and not spec.is_class:
        found[""] = spec.web
    return found


class WebApps:
    """All web functions of a container. `call` first; `open` and `close` run in the container's event loop."""

    def __init__(self, service: Service) -> None:
        self.apps: dict[str, Any] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self._service = service
        self._specs = web_specs(service.spec)
        self._returned: dict[str, Any] = {}  # by the functions that give an app
        self._lifespans: list[Lifespan] = []
        self._closers: list[Callable[[], None]] = []

    def call(self) -> None:
        """Call the functions that give an app. No event loop may run: they use `asyncio.run`, as any function may.

        Raises whatever the user's code raises, and ExecutionError.
        """
        for name, web in self._specs.items():
            if web.kind in ("asgi", "wsgi"):
                self._returned[name] = self._service.find(name)()

    async def open(self) -> None:
        """After `call`: make every app, start its lifespan. Raises what the user's code raises, and ExecutionError."""
        for name, web in self._specs.items():
            function = self._service.find(name)
            shown = f"{self._service.spec.name}.{name}" if name else self._service.spec.name
            if web.kind == "server":
                from intermodal.runner.web_server import start_server

                await start_server(function, shown, web.port, web.startup_timeout)
                continue
            app = await self._make(web, name, function, shown)
            self.states[name] = {}
            self.apps[name] = app
            if web.kind == "wsgi":
                continue
            lifespan = Lifespan(app, self.states[name], shown)
            self._lifespans.append(lifespan)
            await lifespan.start()

    async def _make(self, web: WebSpec, name: str, function: Callable[..., Any], shown: str) -> Any:
        if web.kind == "endpoint":
            from intermodal.runner.web_endpoint import endpoint_app

            return endpoint_app(function, web, shown)
        made = self._returned.pop(name)
        if inspect.isawaitable(made):
            made = await made
        if not callable(made):
            raise load_error(
                f"{shown} must return {'an ASGI' if web.kind == 'asgi' else 'a WSGI'} app, but it returned "
                f"{type(made).__name__}"
            )
        if web.kind == "wsgi":
            from intermodal.runner.web_wsgi import WsgiAdapter

            adapter = WsgiAdapter(made, max(1, self._service.spec.concurrent_max))
            self._closers.append(adapter.close)
            return adapter
        return single_callable(made)

    async def close(self) -> None:
        """Shut lifespans down, the last one first. Raises the first failure after all were told."""
        failure: Optional[BaseException] = None
        for lifespan in reversed(self._lifespans):
            try:
                await lifespan.stop()
            except Exception as error:
                failure = failure or error
        for close in self._closers:
            await asyncio.get_running_loop().run_in_executor(None, close)
        if failure is not None:
            raise failure


def single_callable(app: Any) -> Any:
    """ASGI 3 as it is; an app of the older form (`app(scope)` gives a coroutine function) is wrapped."""
    call = app if inspect.isfunction(app) or inspect.ismethod(app) else getattr(app, "__call__", app)  # noqa: B004
    if inspect.isclass(app) or not inspect.iscoroutinefunction(call):
        try:
            needed = [
                parameter
                for parameter in inspect.signature(app).parameters.values()
                if parameter.default is parameter.empty
                and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            ]
        except (TypeError, ValueError):
            return app
        if len(needed) == 1:

            async def adapted(scope: Any, receive: Any, send: Any) -> None:
                await app(scope)(receive, send)

            return adapted
    return app
