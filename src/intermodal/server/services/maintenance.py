"""What is kept for a time and no longer: outputs and logs of stopped apps 7 days, large values nobody wants 8."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from intermodal.server.queues.queues import Queues
from intermodal.server.services.dicts import Dicts
from intermodal.server.services.logs import Logs
from intermodal.server.services.objects import Objects
from intermodal.server.services.secrets import INLINE_KEPT
from intermodal.server.services.values import Values
from intermodal.server.store.calls import OUTPUTS_KEPT
from intermodal.server.store.fleet import CONTAINERS_KEPT
from intermodal.server.store.store import Store

FIRST_SWEEP = 60.0  # seconds after the start
SWEEP_INTERVAL = 3600.0  # seconds
OBJECTS_INTERVAL = 60.0  # seconds between looks at ephemeral objects and queues' partitions
APPS_KEPT = 7 * 86400.0  # seconds that a stopped app and its logs are kept
_log = logging.getLogger(__name__)


async def keep_clean(store: Store, logs: Logs, values: Values, running: Callable[[], list[str]]) -> None:
    """Sweep now and then until cancelled."""
    await asyncio.sleep(FIRST_SWEEP)
    while True:
        try:
            await sweep(store, logs, values, running(), time.time())
        except Exception:
            _log.exception("the hourly cleaning failed; it will be tried again")
        await asyncio.sleep(SWEEP_INTERVAL)


async def sweep(store: Store, logs: Logs, values: Values, running: list[str], now: float) -> None:
    """Forget what is too old at this time (seconds since the epoch)."""
    expired = await store.calls.expire(now - OUTPUTS_KEPT)
    for app_id in await store.apps.forget(now - APPS_KEPT):
        logs.forget(app_id)
    await store.fleet.forget_containers(now - CONTAINERS_KEPT, running)
    inline = await store.secrets.drop_inline(await store.functions.secrets_in_use(), now - INLINE_KEPT)
    swept = await values.sweep()
    if expired or inline or swept:
        _log.info("forgot %d calls, %d inline secrets and %d values", len(expired), inline, swept)


async def keep_objects_clean(objects: Objects, dicts: Dicts, queues: Queues, live_apps: Callable[[str], bool]) -> None:
    """Delete ephemeral objects, partitions and entries whose time is over, until cancelled."""
    rounds = 0
    while True:
        await asyncio.sleep(OBJECTS_INTERVAL)
        try:
            await objects.sweep(live_apps)
            await queues.sweep()
            if rounds % 60 == 0:  # looks at every entry
                await dicts.sweep()
        except Exception:
            _log.exception("cleaning up dicts and queues failed; it will be tried again")
        rounds += 1
