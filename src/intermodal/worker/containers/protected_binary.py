"""`crun` by way of a read-only mount. Otherwise it copies itself to one and runs again at each start, in 2 ms.

(It does so to keep a container from writing to the runtime's file by way of /proc/<pid>/exe.)
"""

from __future__ import annotations

import logging
from pathlib import Path

from intermodal.worker.containers import kernel

log = logging.getLogger(__name__)


def protect(binary: str, place: Path) -> str:
    """Blocking: mount the binary read-only at `place`, in this mount namespace; returns the path to run."""
    try:
        place.touch()
        release(place, remove=False)
        kernel.mount(binary, str(place), "", kernel.MS_BIND)
        try:
            kernel.mount("none", str(place), "", kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY)
        except OSError:
            release(place, remove=True)
            raise
    except OSError as error:
        log.info("%s is used as it is: %s", binary, error)
        return binary
    return str(place)


def release(place: Path, remove: bool) -> None:
    """Blocking: take the mount away, and with `remove` the file that it was on. What runs goes on."""
    try:
        kernel.umount(str(place), kernel.MNT_DETACH)
    except OSError:
        log.debug("%s was not mounted", place)
    if remove:
        place.unlink(missing_ok=True)
