"""Ports of this machine's loopback address that containers find at their own: the gateway's, and tunnels'.

A URL such as `http://me--app-f.localhost:7723` then means the same in a container as beside it. A listening socket is
made within the container's network namespace, on its loopback address alone; connections to it are accepted here and
given to the server as descriptors, so that bytes pass no relay. A container without a network gets none.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from intermodal.worker.containers import kernel

log = logging.getLogger(__name__)

BACKLOG = 128
AT_ONCE = 32  # connections accepted before other work has its turn
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
Take = Callable[[str, int, socket.socket], None]  # container id, port, an accepted connection, which is closed after
Listeners = dict[int, list[socket.socket]]


class LocalPorts:
    """`take` is set before the first container starts."""

    def __init__(self, executor: Executor) -> None:
        self.ports: frozenset[int] = frozenset()
        self.take: Take = lambda _container_id, _port, _connection: None
        self._executor = executor
        self._listeners: dict[str, Listeners] = {}  # container id -> port -> sockets
        self._pids: dict[str, int] = {}  # container id -> a process in its network namespace
        self._changing = asyncio.Lock()

    async def set(self, ports: Iterable[int]) -> None:
        """These from now on, in every container; returns when it is so."""
        self.ports = frozenset(ports)
        async with self._changing:
            await self._adjust(list(self._listeners))

    async def _adjust(self, container_ids: list[str]) -> None:
        missing: dict[str, frozenset[int]] = {}
        for container_id in container_ids:
            present = self._listeners[container_id]
            for port in present.keys() - self.ports:
                self._end(present.pop(port))
            if self.ports - present.keys():
                missing[container_id] = self.ports - present.keys()
        if not missing:
            return

        def make() -> dict[str, Listeners]:  # in one go: a thread for each would take longer
            return {name: listen_within(pids[name], ports) for name, ports in missing.items()}

        pids = dict(self._pids)
        for container_id, made in (await asyncio.get_running_loop().run_in_executor(self._executor, make)).items():
            self._watch(container_id, made)

    async def add(self, container_id: str, pid: int, made: Listeners) -> None:
        """A container has its namespace, and what `listen_within` has made of `ports` there a moment ago."""
        self._pids[container_id] = pid
        self._listeners[container_id] = {}
        self._watch(container_id, made)
        if made.keys() != self.ports:
            async with self._changing:
                if container_id in self._listeners:
                    await self._adjust([container_id])

    def _watch(self, container_id: str, made: Listeners) -> None:
        present = self._listeners.get(container_id)
        loop = asyncio.get_running_loop()
        for port, sockets in made.items():
            if present is None or port in present:  # it has ended meanwhile
                for sock in sockets:
                    sock.close()
                continue
            present[port] = sockets
            for sock in sockets:
                loop.add_reader(sock.fileno(), self._accept, container_id, port, sock)

    def _accept(self, container_id: str, port: int, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _address = listener.accept()
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                    log.warning("%s: port %d accepts nothing: %s", container_id, port, error)
                return
            with connection:
                try:
                    self.take(container_id, port, connection)
                except OSError as error:  # the server is away: so are its own connections
                    log.info("%s: a connection to port %d was dropped: %s", container_id, port, error)

    def forget(self, container_id: str) -> None:
        """The container ends."""
        self._pids.pop(container_id, None)
        for sockets in self._listeners.pop(container_id, {}).values():
            self._end(sockets)

    def _end(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for sock in sockets:
            loop.remove_reader(sock.fileno())
            sock.close()


def listen_within(pid: int, ports: Iterable[int]) -> Listeners:
    """Blocking: sockets in a process's network namespace. A port that is taken there is left to whoever has it."""
    made: Listeners = {}
    try:
        theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:  # it has ended
        log.info("no ports were opened for process %d: %s", pid, error)
        return made
    try:
        ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.setns(theirs, kernel.CLONE_NEWNET)
            try:
                for port in ports:
                    made[port] = [sock for family, host in LOOPBACKS if (sock := _listen(family, host, port))]
            finally:
                kernel.setns(ours, kernel.CLONE_NEWNET)
        finally:
            os.close(ours)
    except OSError as error:
        log.warning("no ports were opened for process %d: %s", pid, error)
    finally:
        os.close(theirs)
    return made


def _listen(family: int, host: str, port: int) -> socket.socket | None:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:  # no IPv6 here
        return None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            log.warning("%s port %d cannot be listened on: %s", host, port, error)
        return None
    return sock
