"""Sees that no container fills the machine's disk for the others.

A container's own disk has a limit, but many disks may together promise more than there is, and large results go to a
directory of the state directory's own file system. When little is left, the container that has written most ends, with
the reason in its log and at its callers.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
FLOOR = 512 << 20  # bytes that must be left; a smaller disk keeps a twentieth
MUCH = 64 << 20  # bytes; who has written less is not the one


class Writer(Protocol):
    """A container that writes."""

    def written(self) -> int:
        """Bytes on this machine's disk. Blocking."""

    async def end_for_disk(self, text: str) -> None:
        """End it, for this reason."""


def is_short(place: Path) -> bool:
    """Whether too little is left of the file system."""
    found = os.statvfs(place)
    total = found.f_blocks * found.f_frsize
    return found.f_bavail * found.f_frsize < min(FLOOR, total // 20)


def most(writers: Iterable[Writer]) -> tuple[Writer, int] | None:
    """Who has written most, and how much; None where nobody has written much. Blocking."""
    found = [(writer, writer.written()) for writer in writers]
    found = [pair for pair in found if pair[1] >= MUCH]
    return max(found, key=lambda pair: pair[1]) if found else None


async def guard(place: Path, writers: Callable[[], Iterable[Writer]], short: Callable[[Path], bool] = is_short) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            if not short(place):
                continue
            found = await asyncio.to_thread(most, list(writers()))
        except OSError as error:
            log.warning("the disk cannot be looked at: %s", error)
            continue
        if found is None:
            continue
        writer, size = found
        text = (
            f"the machine's disk is almost full, and this container has written most to it ({size >> 20} MiB): it is "
            "ended so that the others can go on"
        )
        log.warning("%s", text)
        await writer.end_for_disk(text)


def size_of(directory: Path) -> int:
    """Bytes on disk of the files below. Blocking; what vanishes meanwhile counts nothing."""
    total = 0
    for folder, _folders, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return total
