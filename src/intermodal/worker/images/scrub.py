"""Looks for layers that are no longer what they were: a disk loses bytes without telling anybody.

Names and properties of a layer are compared when a worker first uses it; every byte once a week, in the
background. A damaged layer is taken out of use, so that the next build makes it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable

from intermodal.worker.images.layers import Layer, LayerStore

FIRST_PAUSE = 120.0  # seconds after a worker's start: starts come first
PAUSE = 5.0  # seconds between layers
EVERY = 7 * 86400.0  # seconds between two readings of a layer

log = logging.getLogger(__name__)


class Scrub:
    """Checks layers: `first_use` where they are needed, `run` for ever."""

    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers
        self._trusted: set[str] = set()  # ids that this process has made or looked at
        self._checking = asyncio.Lock()

    def trust(self, layer: Layer) -> None:
        self._trusted.add(layer.id)

    async def first_use(self, layer: Layer) -> bool:
        """Whether the layer is sound. Free from the second time on; the first costs about 6 ms for 1,000 files."""
        if layer.id in self._trusted:
            return True
        return await self._check(layer, content=False)

    async def later(self, keys: Iterable[str]) -> None:
        """Look at layers that containers start from, one after the other."""
        for key in keys:
            layer = self._layers.find(key)
            if layer is not None and layer.id not in self._trusted:
                async with self._checking:
                    await self.first_use(layer)

    def untrusted(self, ids: Iterable[str]) -> list[str]:
        return [one for one in ids if one not in self._trusted]

    async def run(self) -> None:
        """Read every layer once a week."""
        await asyncio.sleep(FIRST_PAUSE)
        while True:
            for layer in await asyncio.to_thread(self._due):
                await self._check(layer, content=True)
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(EVERY / 7)

    def _due(self) -> list[Layer]:
        limit = time.time() - EVERY
        return [layer for layer in self._layers.all() if layer.digest and self._layers.checked_at(layer) < limit]

    async def _check(self, layer: Layer, content: bool) -> bool:
        if await asyncio.to_thread(self._layers.is_sound, layer, content):
            self._trusted.add(layer.id)
            if content:
                os.utime(self._layers.about(layer))
            return True
        log.warning("layer %s (%s) is damaged: it will be built again", layer.id, layer.step)
        await asyncio.to_thread(self._layers.discard, layer)
        return False
