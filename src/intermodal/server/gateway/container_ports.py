"""Connections to ports of containers, made by their worker and handed over as descriptors."""

from __future__ import annotations

import asyncio
import secrets
from socket import socket

from intermodal.server.dispatch import Dispatch
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.web import ContainerConnect
from modal._protocol.messages.wire import Done

ARRIVAL = 5.0  # seconds between the worker's answer and the descriptor


class ContainerPorts:
    """`take` gets what the worker hands over."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._expected: dict[str, asyncio.Future[socket]] = {}

    async def connect(self, container_id: str, port: int) -> socket:
        """Raises Fault: no such container, or its port does not accept."""
        container = self._dispatch.containers.get(container_id)
        if container is None or container.link is None:
            raise Fault(Code.NOT_FOUND, f"container {container_id} does not run, or its worker is away")
        ticket = secrets.token_hex(16)
        expected = self._expected[ticket] = asyncio.get_running_loop().create_future()
        try:
            connection = container.link.worker.connection
            await connection.request(ContainerConnect(container_id, port, ticket), Done)
            return await asyncio.wait_for(expected, ARRIVAL)
        except TimeoutError:
            raise Fault(
                Code.INTERNAL,
                f"the worker of {container_id} runs on another machine: its ports can be reached from there alone",
            ) from None
        except BaseException:
            if expected.done() and not expected.cancelled():
                expected.result().close()
            raise
        finally:
            del self._expected[ticket]

    def take(self, ticket: str, sock: socket) -> None:
        """A descriptor has come."""
        expected = self._expected.get(ticket)
        if expected is None or expected.done():
            sock.close()
        else:
            sock.setblocking(False)
            expected.set_result(sock)
