"""Heartbeats: an ephemeral object lives on the server as long as somebody asks for it now and then."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Type

from modal import _sync
from modal.exception import Error

if TYPE_CHECKING:
    from modal._client import Client
    from modal._protocol.message import Message


class Heartbeat:
    """Sends `message` every `seconds` from a thread of its own, until `stop`."""

    def __init__(self, client: Client, message: Message, expect: Type[Message], seconds: float) -> None:
        self._client = client
        self._message = message
        self._expect = expect
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modal-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                _sync.run(self._client.request(self._message, self._expect))
            except Error:
                continue  # the object's user hears of it; the server may be back for the next one
