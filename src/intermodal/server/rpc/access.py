"""Who may speak to the server, and what each may ask.

A connection is answered from the table of its role, so that the hot path pays nothing for it: what a
role may not ask is in its table as a refusal.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Callable

from intermodal.server.principal import Principal, Role
from intermodal.server.services.tokens import Tokens
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.message import Message
from modal._protocol.messages.fleet import DrainAwait, WorkerDrain, WorkerUndrain
from modal._protocol.messages.image import (
    BuilderVersionGet,
    BuilderVersionSet,
    CacheList,
    ImageList,
    ImageLogGet,
    ImagePrune,
)
from modal._protocol.messages.proxy import ProxyTokenCreate, ProxyTokenList, ProxyTokenRevoke
from modal._protocol.messages.secret import (
    SecretsRotate,
    ServerStatusGet,
    ServerStop,
    TokenCreate,
    TokenList,
    TokenRevoke,
)
from modal._protocol.messages.volume import VolumeChanges, VolumeCheckout
from modal._protocol.messages.wire import Hello, Welcome
from modal._protocol.messages.worker import (
    BuildDevices,
    ContainerAdopt,
    ContainerLogs,
    ContainerMarks,
    FileGet,
    MountGet,
    WorkerRegister,
    WorkerStats,
)

FROM_WORKERS: set[int] = {
    message.TYPE
    for message in (
        WorkerRegister,
        ContainerAdopt,
        ContainerLogs,
        ContainerMarks,
        WorkerStats,
        FileGet,
        MountGet,
        BuildDevices,
        VolumeChanges,
        VolumeCheckout,
    )
}
FROM_OWNERS: set[int] = {message.TYPE for message in (ServerStop, WorkerDrain, WorkerUndrain, DrainAwait)}
FROM_OPERATORS: set[int] = FROM_OWNERS | {
    message.TYPE
    for message in (
        ServerStatusGet,
        SecretsRotate,
        TokenCreate,
        TokenList,
        TokenRevoke,
        ImageList,
        ImagePrune,
        CacheList,
        ImageLogGet,
        BuilderVersionGet,
        BuilderVersionSet,
        ProxyTokenCreate,
        ProxyTokenList,
        ProxyTokenRevoke,
    )
}
BUILD_PREFIX = "ib-"  # ids of containers in which steps of images run
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid

# The ids of its app, function and environment, and whether it is restricted; None where there is no such container.
ContainerFinder = Callable[[str], "tuple[str, str, str, bool] | None"]


def tables(handlers: Handlers) -> dict[str, Handlers]:
    """What each role is answered from, made of all that the server answers."""
    everything = {*handlers.unaries, *handlers.streams, *handlers.fasts, *handlers.notes}
    from_clients = everything - FROM_WORKERS
    return {
        Role.OWNER: _only(handlers, from_clients),
        Role.CLIENT: _only(handlers, from_clients - FROM_OWNERS),
        Role.CONTAINER: _only(handlers, from_clients - FROM_OPERATORS),
        Role.WORKER: _only(handlers, FROM_WORKERS),
    }


def _only(handlers: Handlers, allowed: set[int]) -> Handlers:
    made = Handlers()
    for type_, unary in handlers.unaries.items():
        made.unaries[type_] = unary if type_ in allowed else _refuse
    for type_, streaming in handlers.streams.items():
        if type_ in allowed:
            made.streams[type_] = streaming
        else:
            made.unaries[type_] = _refuse
    for type_, fast in handlers.fasts.items():
        if type_ in allowed:
            made.fasts[type_] = fast
        else:
            made.unaries[type_] = _refuse
    made.notes = {type_: note for type_, note in handlers.notes.items() if type_ in allowed}
    return made


async def _refuse(connection: Connection, message: Message) -> Message:
    role = connection.context.role
    raise Fault(Code.AUTH, f"a {role} may not ask for {type(message).__name__} here")


class Gate:
    """Greets: decides who speaks, and gives the connection its table. `greet` is for `aio.serve`."""

    def __init__(
        self,
        welcome: Callable[[Principal], Welcome],
        tokens: Tokens,
        find_container: ContainerFinder,
        by_role: dict[str, Handlers],
        worker_seen: Callable[[int], None],
    ) -> None:
        self._welcome = welcome
        self._tokens = tokens
        self._find_container = find_container
        self._by_role = by_role
        self._worker_seen = worker_seen

    def greet(self, connection: Connection, hello: Hello) -> Welcome:
        """Fault(auth) refuses."""
        peer = peer_of(connection)
        if peer is not None:
            principal = self._local(hello, *peer)
        else:
            principal = self._remote(hello)
        if hello.role == Role.CONTAINER:
            principal = self._container(hello, principal)
        connection.context = principal
        connection.handlers = self._by_role[principal.role]
        if principal.role == Role.WORKER and peer is not None:
            self._worker_seen(peer[0])
        welcome = self._welcome(principal)
        # By way of a proxy, a worker's say, it is not: what that has read need not have arrived anywhere. A peer of
        # another pid namespace has the pid 0 here, which is also what those say who do not ask for this.
        connection.direct = welcome.direct = peer is not None and 0 < hello.process == peer[0]
        return welcome

    def _local(self, hello: Hello, pid: int, uid: int) -> Principal:
        if uid not in (os.geteuid(), 0):
            raise Fault(
                Code.AUTH,
                f"this server belongs to user {user_name(os.geteuid())}, not to {user_name(uid)}: start one of your "
                "own (unset MODAL_SERVER_URL and INTERMODAL_HOME), or ask for an address and a token",
            )
        if hello.role in (Role.WORKER, Role.CONTAINER):
            return Principal(hello.role, hello.worker_id or f"pid {pid}")
        return Principal(Role.OWNER, user_name(uid))

    def _remote(self, hello: Hello) -> Principal:
        # A container's connection comes by way of its worker and shows the worker's token.
        role = Role.WORKER if hello.role in (Role.WORKER, Role.CONTAINER) else Role.CLIENT
        token = self._tokens.check(hello.token_id, hello.token_secret, role)
        return Principal(role, token.note or token.token_id, token.token_id)

    def _container(self, hello: Hello, principal: Principal) -> Principal:
        if hello.container_id.startswith(BUILD_PREFIX):  # a step of an image's build, which only its worker knows
            return Principal(
                Role.CONTAINER, hello.container_id, principal.token_id, hello.container_id,
                environment=hello.environment, worker_id=hello.worker_id,
            )  # fmt: skip
        found = self._find_container(hello.container_id)
        if found is None:
            raise Fault(Code.AUTH, f"no container {hello.container_id!r} runs here")
        app_id, function_id, environment_id, restricted = found
        if restricted:
            raise Fault(
                Code.AUTH,
                "this operation is not permitted: the function's access to Modal is restricted "
                "(restrict_modal_access=True)",
            )
        return Principal(
            Role.CONTAINER, hello.container_id, principal.token_id, hello.container_id, app_id, function_id,
            environment_id=environment_id, started_in=hello.environment,
        )  # fmt: skip


def peer_of(connection: Connection) -> tuple[int, int] | None:
    """Pid and uid of the process at the other end of a unix socket, None for any other socket."""
    sock = connection.extra("socket")  # noqa: S610 - no Django here
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid


def user_name(uid: int) -> str:
    """The name of a user of this machine, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
