"""Connections of a container's runner that are the server's: taken in here, handed over, and bytes pass no worker."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

log = logging.getLogger("intermodal.cell")

WEB, EXPRESS = "runner-web", "runner-express"  # the roles that runners name in their HELLO
AGAIN_SECONDS = 0.2  # between attempts to hand over


class ServerLinks:
    """`hand_over(container id, descriptor, ticket, role)` raises OSError; `is_there` says whether the server is."""

    roles = (WEB, EXPRESS)

    def __init__(
        self, container_id: str, hand_over: Callable[[str, int, str, str], None], is_there: Callable[[], bool]
    ) -> None:
        self.has_express = False  # the server has got one
        self._container_id = container_id
        self._hand_over = hand_over
        self._is_there = is_there
        self._kept: dict[str, int] = {}  # role -> descriptor, until it is handed over

    def keep(self, role: str, transport: asyncio.Transport) -> None:
        """This connection is for the server: nothing more is read from it here."""
        transport.pause_reading()
        self._drop(role)
        self._kept[role] = os.dup(transport.get_extra_info("socket").fileno())
        transport.abort()  # closes this process's own descriptor
        self.give()

    def give(self) -> None:
        """Hand over what is here, if the server is there."""
        if not self._is_there():
            return
        for role, descriptor in list(self._kept.items()):
            try:
                self._hand_over(self._container_id, descriptor, "", role)
            except OSError as error:
                if role == EXPRESS and isinstance(error, FileNotFoundError):
                    self._drop(role)  # the server is on another machine: it is not to be had
                    continue
                log.info("%s: its link %s waits: %s", self._container_id, role, error)
                asyncio.get_running_loop().call_later(AGAIN_SECONDS, self.give)
            else:
                self._drop(role)
                self.has_express = self.has_express or role == EXPRESS

    def _drop(self, role: str) -> None:
        descriptor = self._kept.pop(role, -1)
        if descriptor >= 0:
            os.close(descriptor)

    def close(self) -> None:
        for role in list(self._kept):
            self._drop(role)
