"""Large values between the shared store and a container's own directory: linked, never copied where that works."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

_ID = re.compile(r"vl-[0-9A-Za-z]{22}\Z")


def give(store: Path, directory: Path, blob: str) -> None:
    """Let a container read a value of the store. Raises OSError where it is not there."""
    if not _ID.match(blob):
        raise FileNotFoundError(f"{blob!r} is not the id of a value")
    target = directory / blob
    try:
        os.link(store / blob, target)
    except FileExistsError:
        return
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        shutil.copyfile(store / blob, target)


def copy(store: Path, directory: Path, blob: str) -> None:
    """As `give`, of a value that others may read too: what the container does to its file is its own affair."""
    if not _ID.match(blob):
        raise FileNotFoundError(f"{blob!r} is not the id of a value")
    temporary, target = directory / f"{blob}.copy", directory / blob
    if not os.path.lexists(target):
        with (store / blob).open("rb") as source, temporary.open("xb") as made:
            shutil.copyfileobj(source, made, 1 << 20)
        os.rename(temporary, target)


def is_kept(store: Path, blob: str) -> bool:
    """Whether the store has this value."""
    return bool(_ID.match(blob)) and (store / blob).exists()


def take(directory: Path, store: Path, blob: str) -> bool:
    """Move a value that a container wrote into the store. False where it wrote none.

    The container is not trusted: only a plain file of a proper name in its own directory counts.
    """
    if not _ID.match(blob):
        return False
    source, target = directory / blob, store / blob
    try:
        if not stat.S_ISREG(os.lstat(source).st_mode) or os.path.lexists(target):
            return False
        try:
            os.rename(source, target)
        except OSError:
            shutil.copyfile(source, target, follow_symlinks=False)
            os.unlink(source)
        os.chmod(target, 0o600)
    except OSError:
        return False
    return True
