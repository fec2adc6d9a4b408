"""Layers that are mounted and not unpacked: an archive `<id>.tar` with its index `<id>.erofs` beside the directory.

Mounts belong to the worker's mount namespace and go with it; a process that needs such a layer mounts it for itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import stat
import tempfile
from pathlib import Path

from intermodal.worker.containers import kernel
from intermodal.worker.containers.private_mounts import in_user_namespace
from intermodal.worker.images import erofs

SETTING = "INTERMODAL_MOUNT_LAYERS"
OLDEST_KERNEL = (6, 12)  # mounts EROFS from files; older ones want loop devices
SUFFIXES = (".tar", ".erofs")

_TRIAL = b"what a trial layer holds\n".ljust(2 * erofs.BLOCK, b".")

log = logging.getLogger(__name__)


def is_off() -> bool:
    """Whether the operator wants all layers unpacked."""
    return os.environ.get(SETTING, "").strip().lower() in ("0", "false", "no", "off")


def problem(directory: Path) -> str:
    """Why layers below this directory are unpacked and not mounted, "" where they are mounted: it is tried.

    Blocking, a millisecond.
    """
    if is_off():
        return f"{SETTING} is {os.environ[SETTING].strip()}"
    if os.geteuid() != 0 or in_user_namespace():
        return "without root, EROFS cannot be mounted"
    version = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    if version < OLDEST_KERNEL:
        return f"Linux {platform.release()} is older than 6.12"
    try:
        with tempfile.TemporaryDirectory(prefix=".trial-", dir=directory) as name:
            return _tried(Path(name))
    except OSError as error:
        return f"a trial failed ({error.strerror or error})"


def _tried(place: Path) -> str:
    archive, index, target = (place / name for name in ("trial.tar", "trial.erofs", "mounted"))
    root = erofs.Node(stat.S_IFDIR | 0o755)
    root.children[b"file"] = erofs.Node(stat.S_IFREG | 0o644, size=len(_TRIAL) - 1)
    archive.write_bytes(_TRIAL)
    index.write_bytes(erofs.write(root, len(_TRIAL)))
    target.mkdir()
    mount(archive, index, target)
    try:
        same = (target / "file").read_bytes() == _TRIAL[:-1]
    finally:
        kernel.umount(str(target), kernel.MNT_DETACH)
    return "" if same else "what this kernel shows of a mounted layer is not what is in it"


def can_mount(archive: Path, index: Path) -> bool:
    """Whether the kernel takes the two files for a file system: it is tried, in a directory beside them."""
    place = index.with_name("try")
    place.mkdir()
    try:
        mount(archive, index, place)
        kernel.umount(str(place), kernel.MNT_DETACH)
    except OSError as error:
        log.warning("a layer could not be mounted (%s): it is unpacked", error)
        return False
    finally:
        place.rmdir()
    return True


def mount(archive: Path, index: Path, target: Path) -> None:
    """Show the files of an archive below `target`. Raises OSError."""
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
        target = self._root / layer_id
        if layer_id in self._mounted and os.path.ismount(target):
            return True  # another process may have pruned it, which unmounts it here
        archive, index = self.files(layer_id)
        if not index.exists():
            return True  # it is unpacked
        if not os.path.ismount(target):
            try:
                mount(archive, index, target)
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
