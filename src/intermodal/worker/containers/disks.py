"""A container's own disk: a file system of a fixed size for what it writes, so that it can fill that and no more.

Each is an ext4 file system in a sparse file (a copy of an empty one of that size, made once) behind a loop device. The
file has no name, and the loop device goes with the last mount: whatever ends, and however, nothing
is left. Those of the usual size are made ahead, with the slots: a start then only moves the mount. Quotas of the
machine's own file system would do as well, but hardly any machine has them switched on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

from intermodal.worker.containers import kernel
from intermodal.worker.containers.launch import StartFailed

MEBIBYTE = 1024 * 1024
DEFAULT_SIZE = 200 * 1024  # MiB, of a container that does not ask; only what is written takes room
SMALLEST = 16  # MiB; less holds no ext4
TEMPLATES = 8  # sizes of which an empty file system is kept
ATTEMPTS = 200  # to get a loop device, while others take them too

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_AUTOCLEAR = 4

# No journal and no checks that a restart of the machine would need: what a container wrote ends with it.
FORMAT = (
    "mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096",
    "-O", "^has_journal,^resize_inode,sparse_super2,uninit_bg,^metadata_csum",
    "-G", "4096", "-i", "65536", "-E", "lazy_itable_init=1,nodiscard",
)  # fmt: skip
OPTIONS = "discard,nobarrier"  # what is deleted gives its room back to the machine


class Disks:
    """Makes and mounts them. `problem` says why disks have no limit here, "" where they have."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problem = "not tried"
        self._program = ""
        self._ahead = directory / "ahead"  # where disks wait for their containers
        self._templates: dict[int, int] = {}  # size in MiB -> descriptor of an empty file system
        self._lock = threading.Lock()

    def open(self) -> None:
        """Blocking: make and mount a small one, to see."""
        self._program = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") or ""
        self.problem = self._try()
        if not self.problem:
            shutil.rmtree(self._ahead, ignore_errors=True)  # of an earlier worker: its mounts went with it
            self._ahead.mkdir(exist_ok=True)

    def _try(self) -> str:
        if os.geteuid() != 0:
            return "disks of containers have no limit without root"
        if not self._program:
            return "disks of containers have no limit: mkfs.ext4 is missing (`apt-get install e2fsprogs` adds it)"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(prefix=".try-", dir=self.directory))
            try:
                self.mount(SMALLEST, place)
                unmount(place)
            finally:
                place.rmdir()
        except (OSError, StartFailed) as error:
            return f"disks of containers have no limit: {error}"
        return ""

    def mount(self, size: int, place: Path) -> None:
        """Blocking: an empty file system of `size` MiB at `place`. Raises OSError."""
        image = self._copy(self._template(max(size, SMALLEST)))
        try:
            _attach_and_mount(image, place)
        finally:
            os.close(image)

    def make_ahead(self, name: str) -> Path | None:
        """Blocking: a disk of the default size that waits for a container; None where disks have no limit."""
        if self.problem:
            return None
        place = self._ahead / name
        place.mkdir()
        try:
            self.mount(DEFAULT_SIZE, place)
        except OSError:
            place.rmdir()
            raise
        (place / "first").mkdir()  # what the first directory needs is read now
        (place / "first").rmdir()
        return place

    def _template(self, size: int) -> int:
        """An empty file system of that size, for the caller to close. It has no name: whatever reads the state
        directory (a backup, a search) would take it for as large as it looks.
        """
        with self._lock:
            if size not in self._templates:
                while len(self._templates) >= TEMPLATES:
                    os.close(self._templates.pop(next(iter(self._templates))))
                self._templates[size] = self._format(size)
            return os.dup(self._templates[size])

    def _format(self, size: int) -> int:
        image = self._nameless()
        try:
            os.ftruncate(image, size * MEBIBYTE)
            command = [self._program, *FORMAT[1:], f"/proc/self/fd/{image}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=[image])
            if done.returncode:
                raise OSError(errno.EIO, f"mkfs.ext4 failed: {done.stderr.strip()}")
        except BaseException:
            os.close(image)
            raise
        return image

    def _nameless(self) -> int:
        return os.open(self.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def _copy(self, source: int) -> int:
        """A nameless copy that is as sparse as the original, which is closed; its descriptor."""
        image = self._nameless()
        try:
            size = os.fstat(source).st_size
            os.ftruncate(image, size)
            position = 0
            while position < size:
                try:
                    begin = os.lseek(source, position, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # a hole up to the end
                        break
                    raise
                position = os.lseek(source, begin, os.SEEK_HOLE)
                while begin < position:
                    data = os.pread(source, min(position - begin, MEBIBYTE), begin)
                    begin += os.pwrite(image, data, begin)
        except BaseException:
            os.close(image)
            raise
        finally:
            os.close(source)
        return image

    def close(self, remove: bool) -> None:
        """Blocking: let go of the empty ones; with `remove`, of the directory too."""
        with self._lock:
            for template in self._templates.values():
                os.close(template)
            self._templates.clear()
        if remove:
            shutil.rmtree(self.directory, ignore_errors=True)


def _attach_and_mount(image: int, place: Path) -> None:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _attempt in range(ATTEMPTS):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            name = f"/dev/loop{number}"
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, _loop_config(image))
                kernel.mount(name, str(place), "ext4", kernel.MS_NOATIME | kernel.MS_NODEV, OPTIONS)
                return
            except OSError as error:
                if error.errno != errno.EBUSY:  # somebody else took it in between
                    raise
            finally:
                os.close(device)
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device could be had")


def _loop_config(image: int) -> bytes:
    """`struct loop_config`: descriptor, block size, `struct loop_info64`, reserved."""
    info = struct.pack("=5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR, b"", b"", b"", 0, 0)
    return struct.pack("=II", image, 4096) + info + bytes(64)


def move(source: Path, place: Path) -> None:
    """Blocking: a disk that waited is now at `place`. Raises OSError."""
    kernel.mount(str(source), str(place), flags=kernel.MS_MOVE)
    source.rmdir()


def unmount(place: Path) -> None:
    """Take it away here; what a container still uses stays with it. One that is not mounted is no error."""
    try:
        kernel.umount(str(place), kernel.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
