"""The server process: everything is made here, given what it needs, and ended in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from intermodal import logfile
from intermodal.boots import Boots, keep_touched
from intermodal.contents import Contents
from intermodal.files import Files
from intermodal.home import Home
from intermodal.server.acme.issuance import Issuance
from intermodal.server.acme.settings import ALPN, HTTP
from intermodal.server.acme.settings import read_settings as read_acme_settings
from intermodal.server.claim import Claim, claim_home
from intermodal.server.dispatch import Container
from intermodal.server.gateway.gateway import Gateway
from intermodal.server.gateway.kept import forget_since
from intermodal.server.gateway.routes import Routes
from intermodal.server.gateway.settings import read_settings
from intermodal.server.invocation import Invocation
from intermodal.server.listeners import Listeners
from intermodal.server.local_ports import LocalPorts
from intermodal.server.principal import Principal, Role, principal_of
from intermodal.server.queues.queues import Queues
from intermodal.server.rpc.access import Gate, tables, user_name
from intermodal.server.rpc.apps import AppHandlers
from intermodal.server.rpc.container_values import ContainerValueHandlers
from intermodal.server.rpc.containers import ContainerHandlers
from intermodal.server.rpc.files import FileHandlers
from intermodal.server.rpc.functions import FunctionHandlers
from intermodal.server.rpc.images import ImageHandlers
from intermodal.server.rpc.objects import ObjectHandlers
from intermodal.server.rpc.proxy_tokens import ProxyTokenHandlers
from intermodal.server.rpc.tunnels import TunnelHandlers
from intermodal.server.rpc.volumes import VolumeHandlers
from intermodal.server.rpc.workspace import WorkspaceHandlers
from intermodal.server.schedules.schedules import Schedules
from intermodal.server.services.apps import Apps
from intermodal.server.services.build_logs import BuildLogs
from intermodal.server.services.builder_version import WorkspaceBuilderVersion
from intermodal.server.services.container_specs import ContainerSpecs
from intermodal.server.services.dicts import Dicts
from intermodal.server.services.environments import Environments
from intermodal.server.services.functions import Functions
from intermodal.server.services.images import Images
from intermodal.server.services.local_worker import LocalWorker
from intermodal.server.services.logs import Logs
from intermodal.server.services.maintenance import keep_clean, keep_objects_clean
from intermodal.server.services.mounts import Mounts
from intermodal.server.services.network_files import NetworkFiles
from intermodal.server.services.objects import Objects
from intermodal.server.services.proxy_tokens import ProxyTokens
from intermodal.server.services.pruning import Pruning
from intermodal.server.services.secrets import Secrets
from intermodal.server.services.status import Status, software
from intermodal.server.services.tokens import Tokens
from intermodal.server.services.values import Values
from intermodal.server.services.vault import Vault
from intermodal.server.services.vault_keys import KeyPlace, place_for
from intermodal.server.services.volume_names import VolumeNames
from intermodal.server.services.volumes import Volumes
from intermodal.server.store.migrations import Refused
from intermodal.server.store.store import Store
from intermodal.server.tls.certificates import Certificates
from intermodal.server.tunnels.settings import read_settings as read_tunnel_settings
from intermodal.server.tunnels.tunnels import Tunnels
from modal._protocol.address import parse
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppState
from modal._protocol.messages.wire import Welcome
from modal._protocol.messages.worker import ContainerSpec

CONTAINER_VALUES = "/.intermodal/run/values"  # its worker moves files between it and the shared one
APPS_STOP_SECONDS = 10.0  # that `intermodal down` gives exit handlers before the worker ends what is left
WORKER_STOP_SECONDS = 30.0
LOG_CHECK = 60.0  # seconds between looks at the size of the server's own log
_log = logging.getLogger("intermodal.server")


@dataclass
class Options:
    """How a server is started."""

    listen: list[str] = field(default_factory=list)  # addresses besides the unix socket
    tls_cert: str = ""
    tls_key: str = ""
    worker: bool = True  # keep a worker on this machine
    grace: float | None = None  # seconds; None: SESSION_GRACE


class Server:
    """`await server.start()`, then `await server.finished()`, then `await server.close()`."""

    def __init__(self, home: Home, options: Options, claim: Claim | None = None) -> None:
        """`claim`: the directory as `claim_home` has taken it already; `start` does so where there is none."""
        self.home = home
        self._claim = claim
        self.local_worker: LocalWorker | None = None
        self.options = options
        self._over = asyncio.Event()
        self._listeners: Listeners | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._closing = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Serve from now on. Raises Refused: the directory or an address cannot be used."""
        async with contextlib.AsyncExitStack() as undo:
            claim = self._claim or claim_home(self.home, self.options.worker)
            undo.callback(os.close, claim.lock)
            self.local_worker = claim.local_worker
            if self.local_worker is not None:
                undo.callback(self.local_worker.abandon)
            self.store = await Store.open(self.home.store)
            undo.push_async_callback(self.store.close)
            self.handlers = self._assemble(await asyncio.to_thread(place_for, self.home.path, os.environ))
            undo.callback(self.logs.sync)
            await self._mend()
            await asyncio.to_thread(self.values.drop_spares)
            undo.callback(self.values.drop_spares)
            await self.environments.load()
            await self.tokens.load()
            await self.secrets.open()
            await self.dicts.open()
            undo.push_async_callback(self.dicts.close)
            await self.queues.open()
            undo.callback(self.queues.close)
            await self.proxy_tokens.load()
            await self.invocation.open(claim.worker_lives)
            await self.apps.recover()
            await self.invocation.spawns.settle_stopped(self._is_live)
            await self.schedules.open()
            undo.callback(self.apps.sessions.close)
            undo.push_async_callback(self._end_tasks)
            undo.callback(self._hang_up)
            await self._listen()
            undo.callback(self.gateway.close)
            await self.tunnels.start()
            await self.local_ports.refresh()
            undo.push_async_callback(self.tunnels.close)
            if self.local_worker is not None:
                self.local_worker.start()
                undo.push_async_callback(self.local_worker.close)
            cleaning = keep_clean(self.store, self.logs, self.values, self._running_containers)
            self._tasks.append(asyncio.create_task(cleaning))
            objects = keep_objects_clean(self.objects, self.dicts, self.queues, lambda app_id: app_id in self.apps.live)
            self._tasks.append(asyncio.create_task(objects))
            self._tasks.append(asyncio.create_task(self._watch_log()))
            self._tasks.append(asyncio.create_task(self.certificates.keep_fresh()))
            if self.issuance is not None:
                undo.callback(self.issuance.close)
                self._tasks.append(asyncio.create_task(self.issuance.run()))
            self._tasks.append(asyncio.create_task(self.schedules.run()))
            self._tasks.append(asyncio.create_task(self.volumes.keep_clean(self._environment_ids)))
            self._closing = undo.pop_all()
        gc.collect()
        gc.freeze()  # what is here now stays: the collector need not look at it again
        _log.info("serving %s on %s", self.home.path, ", ".join(self.status.addresses))

    async def finished(self) -> None:
        """Return when the server shall end."""
        await self._over.wait()

    def end(self) -> None:
        """End soon. Containers and workers go on; the next server adopts them."""
        self._over.set()

    async def stop_everything(self, keep_containers: bool) -> None:
        """ServerStop: apps, containers and workers end (or, kept, only the workers' processes), then the server."""
        self.apps.sessions.close()
        if not keep_containers:
            stopping = asyncio.create_task(self.apps.stop_ephemeral("the server was stopped"))
            await asyncio.wait([stopping], timeout=APPS_STOP_SECONDS)
        if self.local_worker is not None:
            self.local_worker.expect_end()
        await self.invocation.stop(keep_containers)
        if self.local_worker is not None and not await self.local_worker.stopped(WORKER_STOP_SECONDS):
            raise Fault(
                Code.INTERNAL,
                f"the worker (process {self.local_worker.describe()['pid']}) does not end: see {self.home.worker_log}",
            )
        asyncio.get_running_loop().call_later(0.01, self.end)  # the answer leaves first

    async def close(self) -> None:
        """End all that `start` has begun, in the opposite order."""
        await self._closing.aclose()

    def _hang_up(self) -> None:
        if self._listeners is not None:
            self._listeners.close()
        self.queues.note_arrivals()
        if self._listeners is not None:
            self._listeners.hang_up()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _mend(self) -> None:
        """After a loss of power: what was written last and never synced is not to be trusted."""
        boots = Boots(self.home.server_boot)
        await asyncio.to_thread(boots.begin)
        if boots.suspect is not None:
            files = await asyncio.to_thread(self.files.mend, boots.suspect)
            contents = await self.volumes.mend(boots.suspect)
            await asyncio.to_thread(forget_since, self.home.web_results, boots.suspect)
            _log.info(
                "the machine was down: %d files and %d contents of volumes were new and are removed", files, contents
            )
            await asyncio.to_thread(boots.mended)
        self._tasks.append(asyncio.create_task(keep_touched(boots)))

    # -- putting it together
    def _assemble(self, keys: KeyPlace) -> Handlers:
        home, store = self.home, self.store
        self.logs = Logs(home.logs)
        self.environments = Environments(store.environments)
        self.tokens = Tokens(store.tokens)
        self.proxy_tokens = ProxyTokens(store.proxy_tokens)
        self.secrets = Secrets(store.secrets, Vault(keys))
        network_files = NetworkFiles(home.network_files)
        network_files.open()
        self.volume_names = VolumeNames(store.volumes, network_files.remove_all)
        self.volumes = Volumes(store.volumes, self.volume_names, Contents(home.volumes / "objects"))
        self.values = Values(home.values, store.calls.blobs_in_use, store.dicts.blobs_in_use)
        self.objects = Objects(store.objects)
        self.dicts = Dicts(store.dicts, store.behind, self.values, partial(self.objects.number, "dict"))
        self.queues = Queues(store.queues, store.behind, partial(self.objects.number, "queue"))
        self.objects.on_dropped = {"dict": self.dicts.dropped, "queue": self.queues.dropped}
        self.invocation = Invocation(
            store.calls,
            store.fleet,
            self._prepare_container,
            _may_call,
            self.logs.append,
            self.logs.seq,
            self._is_ephemeral,
            self.logs.last_numbers,
            self.values.secure,
            self.values.forget_soon,
        )
        calls = workers = self.invocation
        self.workspace = os.environ.get("INTERMODAL_WORKSPACE") or user_name(os.geteuid())
        self.web_settings = read_settings()
        routes = Routes(self.web_settings, self.workspace, self.environments.web_suffix_of)
        self.apps = Apps(store, self.environments, self.secrets, calls, self.logs, routes, self.options.grace)
        self.files = Files(home)
        mounts = Mounts(store.images, self.files)
        self.apps.secure_files = mounts.make_durable
        self.schedules = Schedules(store.schedules, calls.spawns.start, calls.spawns.pending)
        self.apps.schedules = self.schedules
        self.functions = Functions(store.functions, self.apps, self.secrets, calls)
        self.gateway = Gateway(
            home, self.web_settings, routes, self.invocation.calls, self.functions.bind, self.proxy_tokens.refusal
        )
        build_logs, builder_version = BuildLogs(home.images), WorkspaceBuilderVersion(store)
        self.images = Images(store.images, self.secrets, workers, home.layers, build_logs, builder_version.get)
        self.specs = ContainerSpecs(store, self.apps, self.environments, self.secrets, self.volume_names)
        self.certificates = Certificates(home.path / "tls", self.options.tls_cert, self.options.tls_key)
        self.issuance = self._make_issuance(routes)
        self.status = Status(
            home, store.server_id, self.apps, self.environments, workers, self.local_worker, self._describe_certificates
        )
        self.tunnels = Tunnels(
            read_tunnel_settings(), store.tunnels, self.certificates.get, self.gateway.ports.connect, self._is_running
        )
        self.invocation.dispatch.gone.append(self.tunnels.container_gone)
        self.local_ports = LocalPorts(self.gateway, self.tunnels, self.invocation.workers.set_local_ports)
        app_handlers = AppHandlers(self.apps, self.environments, self.logs, calls, workers)
        handlers = Handlers()
        self.invocation.register(handlers)
        for part in (
            app_handlers,
            FunctionHandlers(self.functions),
            ImageHandlers(
                self.images,
                Pruning(home, self.images, store.functions, workers),
                self.specs,
                build_logs,
                builder_version,
                self.environments,
            ),
            FileHandlers(self.files, mounts, self.values),
            ContainerValueHandlers(self.invocation.dispatch),
            VolumeHandlers(
                self.volumes,
                self.volume_names,
                network_files,
                self.environments,
                workers.sync_volume,
                workers.volume_changed,
            ),
            WorkspaceHandlers(self.environments, self.secrets, self.tokens, self.apps, self.objects, self.workspace),
            ObjectHandlers(self.objects, self.dicts, self.queues, self.environments),
            ProxyTokenHandlers(self.proxy_tokens),
            TunnelHandlers(self.tunnels),
            ContainerHandlers(
                workers,
                store.fleet,
                self.apps,
                self.environments,
                app_handlers,
                self.status,
                self.stop_everything,
                self._wait_worker,
            ),
        ):
            part.register(handlers)
        return handlers

    def _make_issuance(self, routes: Routes) -> Issuance | None:
        settings = read_acme_settings()
        if settings is None:
            return None
        secure = any(parse(text).scheme == "tls" for text in self.options.listen)
        usable = {ALPN: secure, HTTP: self.web_settings.listen is not None}
        kinds = tuple(kind for kind in settings.challenges if usable[kind])
        if not kinds:
            raise Refused(
                f"INTERMODAL_ACME needs a port where the authority can look ({' or '.join(settings.challenges)}): "
                "--listen https://0.0.0.0:443, or for http-01 INTERMODAL_WEB_LISTEN=0.0.0.0:80"
            )
        settings = dataclasses.replace(settings, challenges=kinds)
        made = Issuance(self.home.path / "tls" / "acme", settings, routes.served, self.web_settings.domain)
        made.open()
        self.gateway.challenges = made.challenges.http
        self.certificates.keep = made.keep
        return made

    def _describe_certificates(self) -> list[dict[str, Any]]:
        return [*self.certificates.describe(), *(self.issuance.describe() if self.issuance is not None else ())]

    async def _prepare_container(self, container: Container) -> ContainerSpec:
        spec = await self.specs.prepare(container)
        self.store.fleet.container_started(container.id, spec.app_id, spec.function_id, container.worker_id)
        return spec

    async def _is_live(self, function_id: str) -> bool:
        row = await self.store.functions.get(function_id)
        return row is not None and row.app_id in self.apps.live

    def _is_running(self, container_id: str) -> bool:
        return container_id in self.invocation.dispatch.containers

    def _running_containers(self) -> list[str]:
        return [container.container_id for container in self.invocation.containers()]

    def _environment_ids(self) -> list[str]:
        return [environment.environment_id for environment in self.environments.all]

    def _is_ephemeral(self, app_id: str) -> bool:
        app = self.apps.live.get(app_id)
        return app is None or app.state != AppState.DEPLOYED

    # -- connections
    async def _listen(self) -> None:
        gate = Gate(self._welcome, self.tokens, self._find_container, tables(self.handlers), self._worker_seen)
        self._listeners = Listeners(self.home, gate, self.gateway, self.certificates, self.issuance, self._connected)
        self.status.addresses = self._listeners.addresses
        self.gateway.frames = self._listeners.accept_frames
        await self._listeners.open(self.options.listen, self.web_settings)

    def _connected(self, connection: Connection) -> None:
        token_id = principal_of(connection).token_id
        if token_id:
            task = asyncio.create_task(self.tokens.used(token_id))
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    def _welcome(self, principal: Principal) -> Welcome:
        values = {Role.OWNER: str(self.home.values), Role.CONTAINER: CONTAINER_VALUES}.get(principal.role, "")
        return Welcome(
            1,
            software(),
            self.store.server_id,
            self.workspace,
            self.environments.name_of(principal.environment_id)
            or principal.environment
            or self.environments.default.name,
            "",
            values,
        )

    def _find_container(self, container_id: str) -> tuple[str, str, str, bool] | None:
        container = self.invocation.dispatch.containers.get(container_id)
        if container is None:
            return None
        function = container.function  # its app may be stopping: exit hooks have something to save
        app = self.apps.live.get(function.app_id)
        if app is None:
            return None
        return function.app_id, function.function_id, app.environment_id, function.spec.restrict_modal_access

    def _worker_seen(self, pid: int) -> None:
        if self.local_worker is not None:
            self.local_worker.connected(pid)

    async def _wait_worker(self, seconds: float) -> None:
        """Until a worker has registered, or that long."""
        try:
            await asyncio.wait_for(self.invocation.workers.available(), seconds)
        except (TimeoutError, Fault):
            return  # the status shows what is wrong

    async def _watch_log(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK)
            try:
                logfile.rotate(self.home.server_log)
            except OSError as error:
                _log.warning("the log could not be given a new file: %s", error)


def _may_call(connection: Connection, _function_id: str) -> None:
    """Any function of the workspace may be called by whoever may call at all; the tables keep the others out."""
    if principal_of(connection).role == Role.WORKER:
        raise Fault(Code.AUTH, "a worker calls no functions")
