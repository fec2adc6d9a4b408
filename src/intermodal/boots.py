"""Whether the machine went down since, and from when on what it had written may be lost or half.

What is acknowledged is synced before, and needs none of this. The rest (caches, trees that can be made again, what was
under way) is written without waiting for the disk. The kernel brings it there within a minute or so; what changed
later than some minutes before the machine went down is therefore suspect after that, and everything older is not. A
machine that was shut down in order has lost nothing, but cannot be told from one that lost its power.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from pathlib import Path

from intermodal.disk import sync

FRESH = 600.0  # seconds after which the disk has what was written, whether anybody waited for that or not
TOUCHED = 60.0  # seconds between notes that the machine runs
_log = logging.getLogger(__name__)


def boot_id() -> str:
    """Changes whenever the machine starts; "" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Boots:
    """The note of one process of a state directory: during which boot it ran, and when it last did."""

    def __init__(self, note: Path) -> None:
        self._note = note
        # What changed since this time (seconds since the epoch) may be lost or half; None: the machine was not down.
        self.suspect: float | None = None

    def begin(self) -> None:
        """Before anything is trusted that was not synced. Blocking.

        On a full disk the note of before stays, and what is suspect now is suspect the next time too.
        """
        boot, before = boot_id(), ""
        try:
            fields = json.loads(self._note.read_text())
            before, suspect = str(fields["boot"]), fields["suspect"]
            touched = self._note.stat().st_mtime
            if before != boot:  # and what an earlier start was not done with stays suspect
                suspect = min(touched - FRESH, touched if suspect is None else float(suspect))
            self.suspect = None if suspect is None else float(suspect)
        except FileNotFoundError:  # a new directory
            self.suspect = None
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("%s cannot be read (%s): all that was not synced is looked at", self._note, error)
            self.suspect = 0.0
        if before != boot:
            self._write(boot)

    def mended(self) -> None:
        """What was suspect has been looked at. Blocking."""
        if self.suspect is not None:
            self.suspect = None
            self._write(boot_id())

    def touch(self) -> None:
        """The machine runs."""
        try:
            os.utime(self._note)
        except OSError as error:
            _log.warning("%s: %s", self._note, error)

    def _write(self, boot: str) -> None:
        temporary = self._note.with_name(f".{self._note.name}.part")
        try:
            with temporary.open("w") as file:
                json.dump({"boot": boot, "suspect": self.suspect, "at": time.time()}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._note)
            sync(self._note.parent)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._note, error)


async def keep_touched(boots: Boots) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(TOUCHED)
        boots.touch()


def changed_since(path: str | Path, since: float) -> bool:
    """Whether a file or directory itself was made, written or given another name since. False where there is none."""
    try:
        return os.lstat(path).st_ctime >= since
    except FileNotFoundError:
        return False


def tree_changed_since(root: Path, since: float) -> bool:
    """The same for anything below a directory, or for itself. What cannot be looked at counts as changed."""
    if changed_since(root, since):
        return True
    if not root.is_dir() or root.is_symlink():
        return False
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_ctime >= since:
                    return True
                if entry.is_dir(follow_symlinks=False) and tree_changed_since(Path(entry.path), since):
                    return True
    except OSError as error:
        _log.warning("%s cannot be looked at: %s", root, error)
        return True
    return False
