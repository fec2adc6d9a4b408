"""Layers that are mounted and not unpacked: an archive `<id>.tar` with its index `<id>.erofs` beside the directory.

Mounts belong to the worker's mount namespace and go with it; a process that needs such a layer mounts it for itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
from pathlib import Path

from intermodal.worker.containers import kernel

SETTING = "INTERMODAL_MOUNT_LAYERS"
OLDEST_KERNEL = (6, 12)  # mounts EROFS from files; older ones want loop devices
SUFFIXES = (".tar", ".erofs")

log = logging.getLogger(__name__)


def are_wanted() -> bool:
    """Whether the operator wants layers of registries mounted."""
    return os.environ.get(SETTING, "").lower() in ("1", "true", "yes", "on")


def why_not() -> str:
    """Why this machine cannot mount layers, "" where it can."""
    version = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    if os.geteuid() != 0:
        return "the worker does not run as root"
    if version < OLDEST_KERNEL:
        return f"Linux {platform.release()} is older than 6.12"
    return ""


def can_mount(archive: Path, index: Path) -> bool:
    """Whether the kernel takes the two files for a file system: it is tried, in a directory beside them."""
    place = index.with_name("try")
    place.mkdir()
    try:
        _mount(archive, index, place)
        kernel.umount(str(place), kernel.MNT_DETACH)
    except OSError as error:
        log.warning("%s is set, but a layer could not be mounted (%s): it is unpacked", SETTING, error)
        return False
    finally:
        place.rmdir()
    return True


def _mount(archive: Path, index: Path, target: Path) -> None:
    if "," in str(archive):
        raise OSError(f"{archive}: a comma cannot be in the path")
    kernel.mount(str(index), str(target), "erofs", kernel.MS_RDONLY | kernel.MS_NODEV, f"device={archive}")


class LayerMounts:
    """The mounted layers below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mounted: set[str] = set()

    def files(self, layer_id: str) -> tuple[Path, Path]:
        """Where the archive and the index of a layer lie."""
        archive, index = (self._root / f"{layer_id}{suffix}" for suffix in SUFFIXES)
        return archive, index

    def ready(self, layer_id: str) -> bool:
        """Have the layer's content in its directory. False where that cannot be."""
        if layer_id in self._mounted:
            return True
        archive, index = self.files(layer_id)
        target = self._root / layer_id
        if not index.exists():
            return True  # it is unpacked
        if not os.path.ismount(target):
            try:
                _mount(archive, index, target)
            except OSError as error:
                log.warning("layer %s cannot be mounted (%s): it will be made again", layer_id, error)
                return False
        self._mounted.add(layer_id)
        return True

    def forget(self, layer_id: str) -> None:
        """The layer is made anew: another process has removed the one of this name."""
        self._mounted.discard(layer_id)

    def release(self, layer_id: str) -> None:
        """Take the content out of the directory; containers that run on it keep it."""
        self._mounted.discard(layer_id)
        target = self._root / layer_id
        if os.path.ismount(target):
            kernel.umount(str(target), kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)

    def remove(self, layer_id: str) -> None:
        """Take a layer's content away, if it is mounted."""
        with contextlib.suppress(OSError):
            self.release(layer_id)
        for path in reversed(self.files(layer_id)):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount what this process has mounted."""
        for layer_id in list(self._mounted):
            with contextlib.suppress(OSError):
                self.release(layer_id)
