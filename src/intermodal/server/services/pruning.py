"""Which images there are and what they take; deletes those that nobody needs, with the layers that only they had."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from intermodal.home import Home
from intermodal.server.ports import WorkersPort
from intermodal.server.services.caches import Caches
from intermodal.server.services.images import Images
from intermodal.server.services.status import directory_size
from intermodal.server.store.functions import FunctionStore
from intermodal.server.store.images import ImageRow
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import CacheInfo, ImageInfo

DOOMED = ".gone-"  # names of layers that are being deleted
PACKED = (".tar", ".erofs")  # beside the directory of a layer that is mounted and not unpacked


class Sizes(NamedTuple):
    """Of each layer, in bytes, and how many images have it."""

    bytes: dict[str, int]
    users: Counter[str]

    def info(self, row: ImageRow, in_use: bool) -> ImageInfo:
        layers = set(row.config.layers)
        return ImageInfo(
            row.image_id,
            row.built_at,
            row.used_at,
            row.config.python_version,
            len(row.recipe),
            in_use,
            sum(self.bytes.get(layer, 0) for layer in layers),
            sum(self.bytes.get(layer, 0) for layer in layers if self.users[layer] == 1),
        )


class Pruning:
    def __init__(self, home: Home, images: Images, functions: FunctionStore, workers: WorkersPort) -> None:
        self._home = home
        self.caches = Caches(home)
        self._images = images
        self._functions = functions
        self._workers = workers

    async def known(self) -> list[ImageInfo]:
        """All images, most recently used first."""
        used = await self._in_use()
        rows = await self._images.all()
        sizes = await asyncio.to_thread(self._sizes, rows)
        return [sizes.info(row, row.image_id in used) for row in rows]

    async def prune_caches(self, unused_for: float, keep_size: int = 0) -> tuple[list[CacheInfo], int]:
        """Caches first: they are the quickest to have again. As `prune`; `keep_size` is of layers and caches."""
        self._check_idle()
        if not keep_size:
            return await self.caches.prune(unused_for, 0)
        layers = sum((await asyncio.to_thread(self._sizes, await self._images.all())).bytes.values())
        return await self.caches.prune(unused_for, max(1, keep_size - layers))

    def _check_idle(self) -> None:
        if self._images.building:
            raise Fault(Code.EXECUTION, "images cannot be pruned while one is being built: try again when it is ready")

    async def prune(self, unused_for: float, keep_size: int = 0) -> tuple[list[ImageInfo], int]:
        """The images that are gone, and the bytes that this freed. Fault: execution."""
        self._check_idle()
        used = await self._in_use()
        rows = await self._images.all()
        sizes = await asyncio.to_thread(self._sizes, rows)
        limit = time.time() - unused_for
        old = [row for row in reversed(rows) if row.image_id not in used and row.used_at <= limit]
        doomed = choose(old, sizes, keep_size) if keep_size else old
        infos = [sizes.info(row, False) for row in doomed]
        await self._images.forget([row.image_id for row in doomed])
        kept = {layer for row in await self._images.all() for layer in row.config.layers}
        freed = await asyncio.to_thread(self._delete, [row.image_id for row in doomed], kept)
        return infos, freed

    async def _in_use(self) -> set[str]:
        """Images of functions that take calls, and of containers that run. Fault: execution."""
        used = await self._functions.images_in_use()
        for container in self._workers.containers():
            found = self._workers.container(container.container_id)
            row = await self._functions.get(found[1]) if found is not None and found[1] else None
            if row is not None:
                used.add(row.spec.image_id)
        return used

    def _sizes(self, rows: list[ImageRow]) -> Sizes:
        users = Counter(layer for row in rows for layer in set(row.config.layers))
        found = {}
        for path in self._home.layers.glob("*.json"):
            try:
                about = json.loads(path.read_text())
                found[str(about["id"])] = int(about["size"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # it is being replaced, or is none of ours
        return Sizes(found, users)

    def _delete(self, image_ids: list[str], kept: set[str]) -> int:
        for image_id in image_ids:
            for suffix in ("json", "log"):
                (self._home.images / f"{image_id}.{suffix}").unlink(missing_ok=True)
        for path in self._home.images.glob("im-*.json"):
            kept.update(_layers_of(path))
        freed = 0
        for path in self._home.layers.iterdir() if self._home.layers.is_dir() else ():
            if path.name.startswith(DOOMED):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and not path.name.startswith(".") and path.name not in kept:
                packed = [path.with_name(path.name + suffix) for suffix in PACKED]
                freed += directory_size(path) + sum(one.stat().st_blocks * 512 for one in packed if one.exists())
                gone = path.with_name(DOOMED + path.name)
                path.rename(gone)  # a layer is there wholly or not at all
                (self._home.layers / f"{path.name}.json").unlink(missing_ok=True)
                shutil.rmtree(gone, ignore_errors=True)
                for one in packed:
                    one.unlink(missing_ok=True)
        return freed


def choose(old: list[ImageRow], sizes: Sizes, keep_size: int) -> list[ImageRow]:
    """Of images that may go, least recently used first: as many as bring all layers down to `keep_size` bytes."""
    total, users = sum(sizes.bytes.values()), sizes.users.copy()
    total -= sum(size for layer, size in sizes.bytes.items() if not users[layer])  # these go in any case
    chosen = []
    for row in old:
        if total <= keep_size:
            break
        chosen.append(row)
        for layer in set(row.config.layers):
            users[layer] -= 1
            if not users[layer]:
                total -= sizes.bytes.get(layer, 0)
    return chosen


def _layers_of(path: Path) -> list[str]:
    """The layers of an image as its worker keeps it: the first field of ImageConfig."""
    try:
        layers: list[str] = json.loads(path.read_text())["config"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return []
    return layers
