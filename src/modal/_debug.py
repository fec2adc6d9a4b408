"""The client's own log at level DEBUG: what the server is asked, and how long its answers take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from modal.config import logger

if TYPE_CHECKING:
    import logging

    from modal._client import Client
    from modal._protocol.message import Message


def trace(client: Client, address: str) -> None:
    """Have the client tell its log of its requests. Nothing is added where the log does not want to know."""
    log = logger()
    if not log.isEnabledFor(10):  # logging.DEBUG, without its import
        return
    log.debug("client of %s", address)
    request, open_, wait = client.request, client.open, client._wait

    async def told_request(message: Message, *args: Any, **options: Any) -> Any:
        timed = _Timed(log, message)
        try:
            answer = await request(message, *args, **options)
        except BaseException as error:
            timed.failed(error)
            raise
        timed.answered(type(answer).__name__)
        return answer

    async def told_open(message: Message, **options: Any) -> Any:
        timed = _Timed(log, message)
        try:
            exchange = await open_(message, **options)
        except BaseException as error:
            timed.failed(error)
            raise
        timed.answered("exchange")
        return exchange

    async def told_wait(waiting: Any, error: Exception) -> None:
        log.debug("the server is away: %s", error)
        await wait(waiting, error)

    client.request = told_request  # type: ignore[method-assign]
    client.open = told_open  # type: ignore[method-assign]
    client._wait = told_wait  # type: ignore[method-assign]


class _Timed:
    """One request, from now on."""

    def __init__(self, log: logging.Logger, message: Message) -> None:
        self._log = log
        self._name = type(message).__name__
        self._began = time.perf_counter()
        log.debug("%s …", self._name)

    def answered(self, what: str) -> None:
        self._log.debug("%s: %s after %.1f ms", self._name, what, self._milliseconds)

    def failed(self, error: BaseException) -> None:
        self._log.debug("%s: %s after %.1f ms: %s", self._name, type(error).__name__, self._milliseconds, error)

    @property
    def _milliseconds(self) -> float:
        return (time.perf_counter() - self._began) * 1000
