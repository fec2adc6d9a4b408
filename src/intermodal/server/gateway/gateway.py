"""The gateway: admits requests, makes them inputs, and brings them to the containers that the scheduler chose."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn, cast
from urllib.parse import parse_qs

from intermodal.home import Home
from intermodal.server.calls import PENDING_LIMIT, Calls
from intermodal.server.dispatch import Container, Dispatch, Function
from intermodal.server.gateway.client import Client, Connection
from intermodal.server.gateway.container_ports import ContainerPorts
from intermodal.server.gateway.exchange import Exchange
from intermodal.server.gateway.http import HttpConnection
from intermodal.server.gateway.limits import RateLimit
from intermodal.server.gateway.links import HandoverSocket, RunnerLink
from intermodal.server.gateway.parameters import Parameters
from intermodal.server.gateway.ports import Ports, wants_upgrade
from intermodal.server.gateway.request import Refusal, Request
from intermodal.server.gateway.results import Result, Results, call_in
from intermodal.server.gateway.routes import PATH_FORM, Route, Routes
from intermodal.server.gateway.settings import WebSettings
from intermodal.server.gateway.websocket import check_handshake
from modal._protocol.errors import Fault
from modal._protocol.messages.call import new_call_id
from modal._protocol.messages.web import LOCAL, WebHandover

if TYPE_CHECKING:
    from modal._protocol.messages.function import FunctionBind, FunctionHandle

log = logging.getLogger("intermodal.gateway")

FRAMES = b"/_frames"
DOMAIN_QUESTION = b"/_domain"
CHALLENGE = b"/.well-known/acme-challenge/"
LOOK_SECONDS = 0.5  # between looks at what has a time limit
LINK_SECONDS = 10.0  # that a container's connection may be away before its requests fail
UNAUTHORIZED = "This endpoint needs the headers Modal-Key and Modal-Secret of a valid proxy auth token."
_CHALLENGE = ((b"proxy-authenticate", b"Basic"),)


class Gateway:
    """`await open()` when the server listens; `close()` before its connections end."""

    def __init__(
        self,
        home: Home,
        settings: WebSettings,
        routes: Routes,
        calls: Calls,
        bind: Callable[[FunctionBind], Awaitable[FunctionHandle]],
        proxy_refusal: Callable[[Iterable[tuple[bytes, bytes]]], int],
    ) -> None:
        """`proxy_refusal(headers)` is the status for a request without a valid proxy auth token, else 0."""
        self.settings = settings
        self.routes = routes
        self.connections: set[Connection] = set()
        self.frames: Callable[[], asyncio.Protocol] | None = None  # for a connection that is to carry frames
        self.ports = ContainerPorts(calls.dispatch)
        self.challenges: Mapping[bytes, bytes] = {}  # of an ACME authority that are to be answered: token, proof
        self.take_local: Callable[[int, socket.socket], None] = lambda _port, sock: sock.close()  # see LocalPorts
        self._home = home
        self._proxy_refusal = proxy_refusal
        self._calls = calls
        self._dispatch: Dispatch = calls.dispatch
        self._parameters = Parameters(bind)
        self._exchanges: set[Exchange] = set()
        self._links: dict[str, RunnerLink] = {}  # container id -> its connection
        self._waiting: dict[str, list[Exchange]] = {}  # container id -> requests before it has one
        self._servers = Ports(self.ports)
        self._results = Results(home.web_results, settings.redirect_after)
        self._rate = RateLimit(settings.rate, settings.burst)
        self._handover: HandoverSocket | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life
    def open(self) -> None:
        """Containers can be reached from now on."""
        self._handover = HandoverSocket(self._home.handover, self._take_handover)
        self._results.open()
        self._look()

    def close(self) -> None:
        """No more requests; those at work are ended."""
        if self._looking is not None:
            self._looking.cancel()
        if self._handover is not None:
            self._handover.close()
        for connection in list(self.connections):
            connection.shut()
        for link in list(self._links.values()):
            link.close()
        self._servers.close()
        self._results.close()
        for task in self._tasks:
            task.cancel()

    def protocol(self) -> asyncio.Protocol:
        """For a new connection that speaks HTTP, of either version."""
        return HttpConnection(self, self._http2)

    def protocol_within(self) -> asyncio.Protocol:
        """The same for a connection from a container: it carries no frames, and no proxy is behind it."""
        return HttpConnection(self, lambda: self._http2(within=True), within=True)

    def _http2(self, within: bool = False) -> asyncio.Protocol:
        from intermodal.server.gateway.http2 import Http2Connection  # many servers never need it

        return Http2Connection(self, within)

    # -- a request comes in
    def admit(self, connection: Client, request: Request) -> None:
        """Route it and make it an input. Raises Refusal."""
        if request.upgrade.startswith(b"intermodal/") and request.path == FRAMES and self.frames is not None:
            if isinstance(connection, HttpConnection) and not connection.within:
                connection.be_frames(self.frames())
                return
        if self.challenges and request.path.startswith(CHALLENGE):
            proof = self.challenges.get(request.path[len(CHALLENGE) :])
            if proof is not None:  # others may be an app's own
                raise Refusal(200, "", body=proof)
        self._note_client(connection, request)
        route = self._route(request)
        if request.content_length > self.settings.body_limit:
            raise Refusal(413, self.too_large(), close=True)
        self._authorize(request, route)
        call_id = call_in(request.query)
        if call_id:
            self._results.fetch(connection, request, call_id, route.app_id)
            return
        wait = self._rate.take()
        if wait:
            text = f"More than {self.settings.rate:g} requests a second come to this workspace: try again later."
            raise Refusal(429, text, headers=((b"retry-after", b"%d" % max(1, round(wait))),))
        if route.parameters:
            self._admit_later(connection, request, route)
            return
        self._begin(connection, request, route)

    def _begin(self, connection: Client, request: Request, route: Route) -> None:
        function = self._function(route)
        is_websocket = request.is_websocket and route.web.kind != "server"
        if is_websocket:
            check_handshake(request)
        exchange = Exchange(self, route, function.spec, request, connection)
        connection.exchange = exchange
        connection.expect_body(request)
        exchange.begin(new_call_id())
        self._calls.calls[exchange.call.id] = exchange.call
        self._exchanges.add(exchange)
        if is_websocket:
            connection.be_websocket(exchange)
        elif route.web.kind == "server" and wants_upgrade(request):
            connection.hold_raw(request)
        self._dispatch.accept(function, [exchange.held])

    def _function(self, route: Route) -> Function:
        try:
            function = self._dispatch.function(route.function_id)
        except Fault:
            raise Refusal(404, "The app behind this address was stopped.") from None
        if self._calls.pending(function) >= PENDING_LIMIT:
            raise Refusal(
                503, f"{PENDING_LIMIT} requests wait for this function already.", headers=((b"retry-after", b"1"),)
            )
        return function

    def _admit_later(self, connection: Client, request: Request, route: Route) -> None:
        """What the store must be asked for first."""
        if wants_upgrade(request):
            connection.hold_raw(request)
        request.dispatched = False  # its body waits with it

        async def admit() -> None:
            try:
                try:
                    ready = await self._parameters.choose(route, request.query)
                finally:
                    request.dispatched = True
                if connection.is_open:
                    self._begin(connection, request, ready)
            except Refusal as refusal:
                connection.turn_away(refusal)
            except Exception:
                log.exception("a request could not be admitted")
                connection.turn_away(Refusal(500, "The gateway failed; its log says why."))

        task = asyncio.get_running_loop().create_task(admit())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _authorize(self, request: Request, route: Route) -> None:
        if route.web.requires_proxy_auth:
            status = self._proxy_refusal(request.headers())
            if status:
                raise Refusal(status, UNAUTHORIZED, headers=_CHALLENGE if status == 407 else ())

    def _note_client(self, connection: Client, request: Request) -> None:
        request.client, request.client_port = connection.peer
        request.scheme = "https" if connection.secure else "http"
        if self.settings.trusted and not connection.within and self._is_trusted(request.client):
            headers = dict(request.headers())
            forwarded = [part.strip() for part in headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")]
            for address in reversed([part for part in forwarded if part]):
                request.client, request.client_port = address.strip("[]"), 0
                if not self._is_trusted(request.client):
                    break
            if headers.get(b"x-forwarded-proto", b"").lower() in (b"http", b"https"):
                request.scheme = headers[b"x-forwarded-proto"].lower().decode()

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.settings.trusted)

    def _route(self, request: Request) -> Route:
        host = request.host.decode("latin-1").lower()
        name, colon, port = host.rpartition(":")
        host = (name if colon and port.isdigit() else host).rstrip(".")
        found = self.routes.find(host)
        if found is not None:  # the whole of its origin is the app's: no other app answers there
            return found
        if request.path.startswith(b"/_web/"):
            return self._path_form(request)
        if request.path == DOMAIN_QUESTION:
            self._answer_domain(request)
        raise Refusal(404, "No app is served at this address.")

    def _path_form(self, request: Request) -> Route:
        name, slash, _rest = request.path[len(PATH_FORM) :].partition(b"/")
        route = self.routes.named(name.decode("latin-1"))
        if route is None:
            raise Refusal(404, "No app is served at this address.")
        request.root_path = PATH_FORM + name.decode("latin-1")
        if not slash:
            request.path += b"/"
        return route

    def _answer_domain(self, request: Request) -> NoReturn:
        """For a proxy in front that is about to obtain a certificate: whether a name leads anywhere."""
        asked = parse_qs(request.query.decode("latin-1")).get("domain", [""])[0].lower().rstrip(".")
        if asked and (asked == self.settings.domain or self.routes.find(asked) is not None):
            raise Refusal(200, "This name is in use.")
        raise Refusal(404, "This name leads nowhere.")

    def too_large(self) -> str:
        """What to say of a body over the limit."""
        return f"A request's body may have {self.settings.body_limit >> 20} MiB."

    # -- between scheduler and containers
    def carry(self, exchange: Exchange, container: Container) -> None:
        """The scheduler has chosen a container."""
        link = self._links.get(container.id)
        if exchange.route.web.kind == "server":
            self._servers.begin(exchange, container)
        elif link is not None:
            link.begin(exchange)
        else:
            self._waiting.setdefault(container.id, []).append(exchange)

    def completed(self, exchange: Exchange, seconds: float | None) -> None:
        """An input is over in its container."""
        self.forget(exchange)
        self._dispatch.completed(exchange.held, seconds)

    def forget(self, exchange: Exchange) -> None:
        """Nothing more is to be done for it."""
        self._exchanges.discard(exchange)
        self._calls.calls.pop(exchange.call.id, None)

    def withdraw(self, exchange: Exchange) -> None:
        """Its client left before it reached a container."""
        self.forget(exchange)
        exchange.input_over = True
        exchange.held.over = True
        self._dispatch.scheduler.withdraw(exchange.call.function_id, {exchange.held})

    def _take_handover(self, message: WebHandover, sock: socket.socket) -> None:
        if message.ticket.startswith(LOCAL):
            self.take_local(int(message.ticket[len(LOCAL) :]), sock)
        elif message.ticket:
            self.ports.take(message.ticket, sock)
        elif message.role == "runner-express":
            self._dispatch.express.open(message.container_id, sock)
        else:
            self._take_link(message, sock)

    def _take_link(self, message: WebHandover, sock: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(self._link(message, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _link(self, message: WebHandover, sock: socket.socket) -> None:
        container_id = message.container_id
        if container_id not in self._dispatch.containers:
            sock.close()
            return
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _transport, link = await loop.create_unix_connection(
            lambda: RunnerLink(container_id, self._link_lost), sock=sock
        )
        old = self._links.get(container_id)
        self._links[container_id] = link
        if old is not None:
            old.close()
        for exchange in self._waiting.pop(container_id, ()):
            if exchange.sink is None:
                exchange.finish_input(None)  # its client did not wait
            elif not exchange.input_over:
                link.begin(exchange)

    def _link_lost(self, link: RunnerLink) -> None:
        """The container has ended, which the dispatch will say; or only its connection has."""
        if self._links.get(link.container_id) is link:
            del self._links[link.container_id]
        if link.exchanges:
            asyncio.get_running_loop().call_later(LINK_SECONDS, self._fail_lost, link)

    def _fail_lost(self, link: RunnerLink) -> None:
        for exchange in list(link.exchanges.values()):
            if not exchange.input_over:
                exchange.refuse(502, "The container's connection was lost while it handled this request.")
                exchange.finish_input(None)

    # -- time
    def _look(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.look(now)
        late = now - self.settings.redirect_after
        for exchange in [one for one in self._exchanges if one.began < late and not one.responded]:
            waiting = exchange.sink
            if waiting is None or isinstance(waiting, Result) or not exchange.request.complete:
                continue
            client = cast("Client", waiting)
            if not client.is_raw:
                self._results.detach(exchange, client)
        self._results.look(now)
        for container_id in [known for known in self._waiting if known not in self._dispatch.containers]:
            del self._waiting[container_id]
        self._looking = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    # -- where it listens
    def remembered_port(self) -> int:
        """The port of an earlier life, 0 where there was none."""
        try:
            return int(json.loads(self._home.gateway.read_text())["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def remember_port(self, port: int) -> None:
        """So that URLs stay what they are after a restart."""
        self.routes.port = port
        if self.remembered_port() == port:
            return  # a full disk keeps no server from starting
        temporary = self._home.gateway.with_suffix(".new")
        temporary.write_text(json.dumps({"port": port}))
        os.replace(temporary, self._home.gateway)
