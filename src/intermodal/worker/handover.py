"""Connections of containers, given to the gateway as descriptors: bytes then pass no worker."""

from __future__ import annotations

import array
import asyncio
import os
import socket

from intermodal.home import Home
from intermodal.worker.containers import kernel
from intermodal.worker.containers.running import Running
from modal._protocol.frames import Kind, pack
from modal._protocol.messages.web import WebHandover

CONNECT_SECONDS = 5.0
SEND_SECONDS = 0.05  # a server that is busy is tried again: nothing else of this worker may wait for it


class Handover:
    """The way to the gateway of the server on this machine."""

    def __init__(self, home: Home) -> None:
        self._path = str(home.handover)

    @property
    def is_here(self) -> bool:
        """Whether the server of this home runs on this machine."""
        return os.path.exists(self._path)

    def send(self, container_id: str, descriptor: int, ticket: str = "", role: str = "") -> None:
        """Raises OSError where the server is away. The descriptor stays the caller's to close."""
        message = WebHandover(container_id, ticket, role)
        data = pack(Kind.NOTE, message.TYPE, 0, *message.encode())
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_SECONDS)
            sock.connect(self._path)
            sock.sendmsg([data], ancillary)


async def connect_port(running: Running, port: int) -> socket.socket:
    """A connection to a port of a container, made within its network. Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        sock = await asyncio.to_thread(_socket_within, running.pid)
        host = "127.0.0.1"
    except PermissionError:  # without privileges: from outside, where the container has an address
        if not running.address:
            raise
        sock, host = socket.socket(socket.AF_INET, socket.SOCK_STREAM), running.address
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.wait_for(loop.sock_connect(sock, (host, port)), CONNECT_SECONDS)
    except BaseException:
        sock.close()
        raise
    return sock


def _socket_within(pid: int) -> socket.socket:
    """A socket that belongs to a process's network namespace. Raises OSError."""
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.setns(theirs, kernel.CLONE_NEWNET)
            try:
                return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            finally:
                kernel.setns(ours, kernel.CLONE_NEWNET)
        finally:
            os.close(ours)
    finally:
        os.close(theirs)
