"""Deletes images that nobody needs, and the layers that only they had, from the disk of this machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

from intermodal.home import Home
from intermodal.server.ports import WorkersPort
from intermodal.server.services.images import Images
from intermodal.server.services.status import directory_size
from intermodal.server.store.functions import FunctionStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import ImageInfo

DOOMED = ".gone-"  # names of layers that are being deleted


class Pruning:
    def __init__(self, home: Home, images: Images, functions: FunctionStore, workers: WorkersPort) -> None:
        self._home = home
        self._images = images
        self._functions = functions
        self._workers = workers

    async def known(self) -> list[ImageInfo]:
        """All images, most recently used first."""
        used = await self._functions.images_in_use()
        return [
            ImageInfo(
                row.image_id,
                row.built_at,
                row.used_at,
                row.config.python_version,
                len(row.recipe),
                row.image_id in used,
            )
            for row in await self._images.all()
        ]

    async def prune(self, unused_for: float) -> tuple[list[ImageInfo], int]:
        """The images that are gone, and the bytes that this freed. Fault: execution."""
        if self._images.building or self._workers.containers():
            raise Fault(
                Code.EXECUTION,
                "images cannot be pruned while containers run or an image is being built: stop the apps first "
                "(`modal app list`), then try again",
            )
        limit = time.time() - unused_for
        doomed = [image for image in await self.known() if not image.in_use and image.used_at <= limit]
        await self._images.forget([image.image_id for image in doomed])
        kept = {layer for row in await self._images.all() for layer in row.config.layers}
        freed = await asyncio.to_thread(self._delete, [image.image_id for image in doomed], kept)
        return doomed, freed

    def _delete(self, image_ids: list[str], kept: set[str]) -> int:
        for image_id in image_ids:
            (self._home.images / f"{image_id}.json").unlink(missing_ok=True)
        for path in self._home.images.glob("im-*.json"):
            kept.update(_layers_of(path))
        freed = 0
        for path in self._home.layers.iterdir() if self._home.layers.is_dir() else ():
            if path.name.startswith(DOOMED):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and not path.name.startswith(".") and path.name not in kept:
                freed += directory_size(path)
                gone = path.with_name(DOOMED + path.name)
                path.rename(gone)  # a layer is there wholly or not at all
                shutil.rmtree(gone, ignore_errors=True)
        return freed


def _layers_of(path: Path) -> list[str]:
    """The layers of an image as its worker keeps it: the first field of ImageConfig."""
    try:
        layers: list[str] = json.loads(path.read_text())["config"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return []
    return layers
