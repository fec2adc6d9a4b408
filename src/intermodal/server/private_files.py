"""Files that are there wholly or not at all, readable from their first moment by those alone who may."""

from __future__ import annotations

import os
from pathlib import Path

from intermodal.disk import sync

PRIVATE = 0o600
PUBLIC = 0o644


def replace(path: Path, data: bytes, mode: int) -> None:
    """Write the file anew: on the disk when it returns; after a crash it is the old or the new one. Blocking."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)  # of a crash; it may have another mode
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.replace(temporary, path)
    sync(path.parent)


def private_directory(path: Path) -> Path:
    """Make it, for the owner alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
