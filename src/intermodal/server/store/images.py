"""Images and mounts that exist: what a container of the image starts with, and the files of a mount."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from intermodal.server.store.database import Database
from modal._protocol.message import from_json, to_json
from modal._protocol.messages.file import FileEntry
from modal._protocol.messages.image import ImageConfig

USED_STEP = 3600.0  # seconds: how exact "last used" is


class ImageRow(NamedTuple):
    image_id: str
    recipe: list[dict[str, Any]]
    config: ImageConfig
    seconds: float
    built_at: float
    used_at: float


class ImageStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, image_id: str) -> ImageRow | None:
        row = await self._database.row(
            "SELECT image_id, recipe, config, seconds, built_at, used_at FROM images WHERE image_id = ?", (image_id,)
        )
        return None if row is None else _image(row)

    async def all(self) -> list[ImageRow]:
        """Most recently used first."""
        rows = await self._database.rows(
            "SELECT image_id, recipe, config, seconds, built_at, used_at FROM images ORDER BY used_at DESC"
        )
        return [_image(row) for row in rows]

    async def put(self, image_id: str, recipe: list[dict[str, Any]], config: ImageConfig, seconds: float) -> None:
        now = time.time()
        await self._database.execute(
            "INSERT OR REPLACE INTO images (image_id, recipe, config, seconds, built_at, used_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (image_id, json.dumps(recipe), json.dumps(to_json(config)), seconds, now, now),
        )

    async def used(self, image: ImageRow) -> None:
        """Note that the image is in use; at most once an hour."""
        now = time.time()
        if now - image.used_at > USED_STEP:
            await self._database.execute("UPDATE images SET used_at = ? WHERE image_id = ?", (now, image.image_id))

    async def delete(self, image_ids: list[str]) -> None:
        await self._database.write(
            lambda connection: connection.executemany(
                "DELETE FROM images WHERE image_id = ?", [(image_id,) for image_id in image_ids]
            )
        )

    async def known(self, image_ids: set[str]) -> set[str]:
        """Those of these images that exist."""
        rows = await self._database.rows(
            "SELECT image_id FROM images WHERE image_id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(image_ids)),),
        )
        return {row[0] for row in rows}

    async def put_mount(self, mount_id: str, entries: list[FileEntry]) -> None:
        text = json.dumps([to_json(entry) for entry in entries], separators=(",", ":"))
        await self._database.execute(
            "INSERT OR IGNORE INTO mounts (mount_id, entries, created_at) VALUES (?, ?, ?)",
            (mount_id, text, time.time()),
        )

    async def mount(self, mount_id: str) -> list[Any] | None:
        """The entries as JSON, None where the mount is not known."""
        row = await self._database.row("SELECT entries FROM mounts WHERE mount_id = ?", (mount_id,))
        return None if row is None else json.loads(row[0])

    async def known_mounts(self, mount_ids: set[str]) -> set[str]:
        """Those of these mounts that exist."""
        rows = await self._database.rows(
            "SELECT mount_id FROM mounts WHERE mount_id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(mount_ids)),),
        )
        return {row[0] for row in rows}


def _image(row: Any) -> ImageRow:
    return ImageRow(row[0], json.loads(row[1]), from_json(ImageConfig, json.loads(row[2])), *row[3:])
