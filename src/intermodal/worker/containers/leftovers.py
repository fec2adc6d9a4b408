"""What a killed worker left on the machine when its state directory is gone: found by records, and removed.

Control groups, bridge and firewall table carry a hash of the directory's path, and a later worker of that directory
takes them over. When it was removed, no such worker comes. Each worker therefore notes its directory in RECORDS, a
place that a restart of the machine clears as well, and holds a lock on the note for as long as it lives. Nothing is
touched while somebody holds that lock, or while the directory is there.

`python -m intermodal.worker.containers.leftovers [--remove]` prints the directories, one a line.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from intermodal.worker.containers import names
from intermodal.worker.containers.cgroups import CgroupTree
from intermodal.worker.containers.private_mounts import in_user_namespace
from intermodal.worker.network.bridge import remove_bridge

RECORDS = Path("/run/intermodal")

log = logging.getLogger(__name__)


class Record:
    """This process's note that it uses a state directory. Without root there is nothing to be noted."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = RECORDS / names.token(home)
        self._lock = -1

    def open(self) -> None:
        """Blocking: write it, and hold it. Others of the same directory may hold theirs at the same time."""
        if os.geteuid() != 0 or in_user_namespace():
            return
        try:
            self._open()
        except OSError as error:
            log.info("%s cannot be noted in %s: %s", self._home, RECORDS, error)

    def _open(self) -> None:
        RECORDS.mkdir(mode=0o700, exist_ok=True)
        while True:
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits for one who removes what an earlier directory has left
            if _is_at(lock, self._path):
                break
            os.close(lock)  # and who has removed the note as well
        os.pwrite(lock, os.fsencode(self._home), 0)
        self._lock = lock

    def close(self, remove: bool) -> None:
        """Let go of it; with `remove`, nothing is left that it would have to be kept for."""
        if self._lock < 0:
            return
        if remove and _locked(self._lock):
            self._path.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1


def find() -> list[Path]:
    """State directories that are gone, and whose workers are dead."""
    found = []
    for path in _records():
        with _of_nobody(path) as home:
            if home is not None:
                found.append(home)
    return found


def sweep() -> list[Path]:
    """Remove what such directories have left; returns these."""
    done = []
    for path in _records():
        with _of_nobody(path) as home:
            if home is None:
                continue
            try:
                _remove(home)
            except Exception as error:  # whatever it is, it must not keep a worker from its start
                log.warning("what %s has left cannot be removed: %s", home, error)
                continue
            path.unlink(missing_ok=True)
            log.info("removed what %s had left, which is gone", home)
            done.append(home)
    return done


def _records() -> list[Path]:
    if os.geteuid() != 0 or in_user_namespace():
        return []
    try:
        return sorted(RECORDS.iterdir())
    except FileNotFoundError:
        return []


@contextmanager
def _of_nobody(path: Path) -> Iterator[Path | None]:
    """The directory of this record, where it is gone and no worker lives; locked meanwhile."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        home = Path(os.fsdecode(os.pread(lock, 4096, 0)))
        free = _locked(lock) and _is_at(lock, path) and names.token(home) == path.name
        yield home if free and _is_gone(home) else None
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    """Whether nobody else holds it; then it is ours alone."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether this file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_gone(home: Path) -> bool:
    """A directory that cannot be looked at for another reason counts as there."""
    try:
        os.lstat(home)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _remove(home: Path) -> None:
    tree = CgroupTree(names.cgroup_name(home))
    tree.open()
    tree.close()  # with all processes in it
    _end_bucket_mounts(home)
    remove_bridge(home)


def _end_bucket_mounts(home: Path) -> None:
    """These are in no control group of ours."""
    place = os.fsencode(home / "buckets") + b"/"
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if os.path.basename(words[0]) == b"rclone" and any(word.startswith(place) for word in words):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue  # it has ended meanwhile


if __name__ == "__main__":
    for home in sweep() if "--remove" in sys.argv[1:] else find():
        sys.stdout.write(f"{home}\n")
