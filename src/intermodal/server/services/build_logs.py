"""What builds of images printed, kept for each image until it is pruned: images/<id>.log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import BuildLog

MOST_BYTES = 1 << 20  # of one log; its end counts
_IMAGE_ID = re.compile(r"im-[A-Za-z0-9]{1,80}\Z")


class BuildLogs:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def keep(self, image_id: str, lines: Iterable[BuildLog], failure: str = "") -> None:
        """Replace the log of an image. A disk that is full is no reason for a build to fail."""
        text = _text(lines, failure)
        try:
            await asyncio.to_thread(self._write, image_id, text)
        except OSError:
            return

    async def get(self, image_id: str) -> bytes:
        """Fault: not-found."""
        if not _IMAGE_ID.match(image_id):
            raise Fault(Code.NOT_FOUND, f"{image_id[:100]!r} is not the id of an image")
        try:
            return await asyncio.to_thread((self._directory / f"{image_id}.log").read_bytes)
        except FileNotFoundError:
            raise Fault(
                Code.NOT_FOUND, f"there is no log of {image_id}: it was not built here, or has been pruned"
            ) from None

    def forget(self, image_id: str) -> None:
        (self._directory / f"{image_id}.log").unlink(missing_ok=True)

    def _write(self, image_id: str, text: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / f".{image_id}.log"
        temporary.write_bytes(text.encode("utf-8", "replace")[-MOST_BYTES:])
        temporary.rename(self._directory / f"{image_id}.log")


def _text(lines: Iterable[BuildLog], failure: str) -> str:
    parts = [line.text if line.kind == "output" else f"{line.text}\n" for line in lines if line.kind != "progress"]
    return "".join([*parts, f"{failure}\n" if failure else ""])
