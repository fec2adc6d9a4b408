"""`@modal.web_server`: the user's function starts a server of its own; here it is waited for."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import Any, Callable

from intermodal.runner.loading import load_error

LOOK_SECONDS = 0.01  # between looks at the port; grows
MAX_LOOK_SECONDS = 0.2


async def start_server(function: Callable[[], Any], shown: str, port: int, timeout: float) -> None:
    """Return when something accepts on the port. Raises what the function raises, or ExecutionError after `timeout`.

    The function runs in a thread of its own, so that one that serves in the foreground works too.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[BaseException] = loop.create_future()

    def tell(error: BaseException) -> None:
        if not failed.done():
            failed.set_result(error)

    def run() -> None:
        try:
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except BaseException as error:
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name=f"web-server-{port}", daemon=True).start()
    deadline = time.monotonic() + timeout
    pause = LOOK_SECONDS
    while True:
        if failed.done():
            raise failed.result()
        if await _accepts(port):
            return
        if time.monotonic() > deadline:
            raise load_error(
                f"{shown}: nothing listens on port {port} after startup_timeout={timeout:g} seconds. The function must "
                f"start a server on 0.0.0.0:{port}; if that takes longer, raise startup_timeout in @modal.web_server"
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, MAX_LOOK_SECONDS)


async def _accepts(port: int) -> bool:
    try:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
