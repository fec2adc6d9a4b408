"""Which web function answers for which host name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from intermodal.server.gateway import names
from intermodal.server.gateway.settings import WebSettings
from intermodal.server.store.apps import AppRow
from intermodal.server.store.functions import FunctionRow
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppState
from modal._protocol.messages.function import FunctionHandle, FunctionSpec, WebSpec

PATH_FORM = "/_web/"


class Route(NamedTuple):
    """One web function at one name."""

    name: str  # subdomain, or custom domain
    app_id: str
    function_id: str
    method: str  # of a class, else ""
    web: WebSpec
    ephemeral: bool
    parameters: tuple[tuple[str, str, bool, Any], ...]  # of its class: name, type, whether it has a default, that


class Routes:
    """A newer ephemeral app takes a name from an older one, which has it again when the newer one stops."""

    def __init__(self, settings: WebSettings, workspace: str, suffix_of: Callable[[str], str]) -> None:
        """`suffix_of(environment id)` is its web suffix."""
        self.port = 0  # where the gateway listens; 0: nowhere
        self._settings = settings
        self._workspace = workspace
        self._suffix_of = suffix_of
        self._apps: dict[str, list[Route]] = {}  # in the order of their publication
        self._by_name: dict[str, list[Route]] = {}  # the last one answers
        self._by_domain: dict[str, list[Route]] = {}
        self._wildcards = 0

    # -- what there is
    def check(self, app: AppRow, specs: Iterable[FunctionSpec]) -> None:
        """Fault(conflict) where two functions, or another deployed app, want the same name."""
        seen: dict[str, str] = {}
        for spec in specs:
            for _method, shown, web in names.web_functions(spec):
                for name in (self._name(app, shown, web), *web.custom_domains):
                    other = seen.setdefault(name, shown)
                    if other != shown:
                        raise Fault(
                            Code.CONFLICT,
                            f"{other} and {shown} would both be served at {name}: give one of them another label",
                        )
                    self._check_deployed(app, shown, name)

    def _check_deployed(self, app: AppRow, shown: str, name: str) -> None:
        if app.state != AppState.DEPLOYED:
            return
        for route in (*self._by_name.get(name, ()), *self._by_domain.get(name, ())):
            if not route.ephemeral and route.app_id != app.app_id:
                raise Fault(
                    Code.CONFLICT,
                    f"{shown} would be served at {name}, where another deployed app ({route.app_id}) answers: "
                    "choose another label, or stop that app",
                )

    def publish(self, app: AppRow, rows: Iterable[FunctionRow]) -> None:
        """These are the app's functions from now on."""
        self.forget(app.app_id)
        routes = [route for row in rows if not row.base_id for route in self._routes(app, row)]
        self._apps[app.app_id] = routes
        for route in routes:
            self._by_name.setdefault(route.name, []).append(route)
            for domain in route.web.custom_domains:
                self._by_domain.setdefault(domain, []).append(route._replace(name=domain))
        self._count_wildcards()

    def forget(self, app_id: str) -> None:
        """The app is served no longer."""
        for route in self._apps.pop(app_id, ()):
            for table, key in ((self._by_name, route.name), *((self._by_domain, d) for d in route.web.custom_domains)):
                kept = [other for other in table.get(key, ()) if other.app_id != app_id]
                if kept:
                    table[key] = kept
                else:
                    table.pop(key, None)
        self._count_wildcards()

    def _count_wildcards(self) -> None:
        self._wildcards = sum(domain.startswith("*.") for domain in self._by_domain)

    def _routes(self, app: AppRow, row: FunctionRow) -> Iterable[Route]:
        parameters = tuple((one[0], one[1], bool(one[2]), one[3]) for one in row.spec.class_parameters)
        for method, shown, web in names.web_functions(row.spec):
            yield Route(
                self._name(app, shown, web), app.app_id, row.function_id, method, web,
                app.state != AppState.DEPLOYED, parameters,
            )  # fmt: skip

    def _name(self, app: AppRow, shown: str, web: WebSpec) -> str:
        source = names.source(self._workspace, self._suffix_of(app.environment_id))
        label = names.label(app.name or app.description, shown, web)
        return names.subdomain(source, label, app.state != AppState.DEPLOYED)

    # -- questions
    def find(self, host: str) -> Route | None:
        """By a request's host name, in lower case and without a port."""
        name, _dot, domain = host.partition(".")
        found = self._by_name.get(name) if domain == self._settings.domain else None
        if found:
            return found[-1]
        found = self._by_domain.get(host) or self._wildcard(host)
        if not found:
            return None
        # A custom domain has no `-dev`: what is tried out does not take it from what is deployed.
        return next((route for route in found if not route.ephemeral), found[-1])

    def served(self, host: str) -> str:
        """By which name a host is served: itself, a custom `*.` domain, "" where it leads nowhere."""
        name, _dot, domain = host.partition(".")
        if (domain == self._settings.domain and name in self._by_name) or host in self._by_domain:
            return host
        found = self._wildcard(host)
        return found[-1].name if found else ""

    def _wildcard(self, host: str) -> list[Route] | None:
        """Of `*.` domains that the host lies below, the longest."""
        if not self._wildcards:
            return None
        _name, dot, above = host.partition(".")
        while dot:
            found = self._by_domain.get(f"*.{above}")
            if found:
                return found
            _name, dot, above = above.partition(".")
        return None

    def named(self, subdomain: str) -> Route | None:
        """By the name in the path form."""
        found = self._by_name.get(subdomain)
        return found[-1] if found else None

    def address(self, handle: FunctionHandle, row: FunctionRow, app: AppRow) -> FunctionHandle:
        """Tell a client where the function is served."""
        if not (self.port or self._settings.public_port):
            return handle
        for method, shown, web in names.web_functions(row.spec):
            url = self._url(self._name(app, shown, web))
            if method:
                handle.method_web_urls[method] = url
            else:
                handle.web_url = url
        return handle

    def _url(self, name: str) -> str:
        settings = self._settings
        port = settings.public_port or self.port
        shown = "" if port == {"http": 80, "https": 443}[settings.scheme] else f":{port}"
        return f"{settings.scheme}://{name}.{settings.domain}{shown}"
