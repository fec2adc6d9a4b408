"""A container's root: an overlay mount of layers with an upper directory that takes what it writes.

The mount is `volatile` where the kernel can do it (5.10): fsync inside the container then waits for no disk, which
its short-lived upper directory does not need. It is `nodev`, so device files in an image open nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from intermodal.disk import remove_deep
from intermodal.worker.containers import kernel
from intermodal.worker.containers.launch import StartFailed

OPTIONS_LIMIT = 4000  # bytes: mount(2) copies one page


class Overlay:
    """One overlay mount. `options`: more of overlayfs's own; `flags`: more of mount(2)'s."""

    def __init__(
        self, layers: list[Path], upper: Path, work: Path, root: Path, options: str = "", flags: int = 0
    ) -> None:
        self.layers = layers
        self.upper = upper
        self.work = work
        self.root = root
        self.options = options
        self.flags = flags | kernel.MS_NODEV
        self.mounted = False

    def mount(self, userxattr: bool = False) -> None:
        """Make the directories and mount. Raises StartFailed, naming what is missing."""
        for layer in self.layers:
            if not layer.is_dir():
                raise StartFailed(f"layer {layer} is missing; build the image again")
            if any(sign in str(layer) for sign in ":,\\"):
                raise StartFailed(f"layer {layer}: its path has a colon, comma or backslash; move INTERMODAL_HOME")
        made = not self.upper.exists()
        for directory in (self.upper, self.work, self.root):
            directory.mkdir(parents=True, exist_ok=True)
        if made and self.layers:
            self._copy_root_mode()
        names = [str(layer) for layer in reversed(self.layers)]
        if sum(len(os.fsencode(name)) + 1 for name in names) < OPTIONS_LIMIT - 400:
            self._mount(names, userxattr)
        else:
            self._mount_by_descriptor(names, userxattr)
        self.mounted = True

    def _copy_root_mode(self) -> None:
        """The merged root takes its mode and owner from the upper directory, so give it those of the top layer."""
        status = self.layers[-1].stat()
        self.upper.chmod(status.st_mode & 0o7777)
        if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (0, 0):
            try:
                os.chown(self.upper, status.st_uid, status.st_gid)
            except OSError as error:
                if error.errno != errno.EINVAL:  # an owner that this user namespace does not have
                    raise

    def _mount_by_descriptor(self, names: list[str], userxattr: bool) -> None:
        """/proc/self/fd/<n> is a short name for a long path."""
        descriptors = [os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for name in names]
        try:
            self._mount([f"/proc/self/fd/{fd}" for fd in descriptors], userxattr)
        finally:
            for fd in descriptors:
                os.close(fd)

    def _mount(self, lowers: list[str], userxattr: bool) -> None:
        options = f"lowerdir={':'.join(lowers)},upperdir={self.upper},workdir={self.work}{self.options}"
        if userxattr:
            options += ",userxattr"
        if len(os.fsencode(options)) > OPTIONS_LIMIT:
            raise StartFailed(f"{len(lowers)} layers are more than one overlay mount takes; join some into one")
        try:
            kernel.mount("overlay", str(self.root), "overlay", self.flags, options + ",volatile")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise _explain(error, self.upper) from error
            self._mount_plain(options)

    def _mount_plain(self, options: str) -> None:
        """Once more without `volatile`, which kernels before 5.10 do not know."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(exist_ok=True)
        try:
            kernel.mount("overlay", str(self.root), "overlay", self.flags, options)
        except OSError as error:
            raise _explain(error, self.upper) from error

    def unmount(self) -> None:
        """Unmount in this mount namespace; what the container still holds stays valid for it."""
        if not self.mounted:
            return
        self.mounted = False
        try:
            kernel.umount(str(self.root), kernel.MNT_DETACH)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise


def _explain(error: OSError, upper: Path) -> StartFailed:
    if error.errno == errno.ENOSPC:
        return StartFailed(f"no space left for {upper}")
    if error.errno == errno.EPERM:
        return StartFailed("overlay mounts are not permitted here (see `intermodal doctor`)")
    if error.errno == errno.ENODEV:
        return StartFailed("this kernel has no overlay file system; `modprobe overlay` as root adds it")
    if error.errno == errno.EINVAL:
        return StartFailed(
            f"overlay mount refused (its upper directory is {upper}): is INTERMODAL_HOME itself on an overlay or "
            "network file system? Put it on ext4, xfs, btrfs or tmpfs"
        )
    return StartFailed(f"overlay mount failed: {error.strerror}")


def remove_tree(path: Path) -> None:
    """Remove a directory and everything below it, also where directories are not writable. None there is no error."""

    def retry(function: object, name: str, problem: tuple[type, BaseException, object]) -> None:
        if isinstance(problem[1], FileNotFoundError):
            return
        try:
            os.chmod(os.path.dirname(name), 0o700)
            os.chmod(name, 0o700)
        except OSError:
            pass
        if os.path.isdir(name) and not os.path.islink(name):
            try:
                kernel.umount(name, kernel.MNT_DETACH)
            except OSError:
                pass
            shutil.rmtree(name)
        else:
            os.unlink(name)

    try:
        shutil.rmtree(path, onerror=retry)
    except RecursionError:
        remove_deep(path)
