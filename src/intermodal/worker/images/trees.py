"""Trees of files on the disk, whatever their permissions: looked at, and removed."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

from intermodal.disk import remove_deep


class Survey(NamedTuple):
    """What a look at a whole layer finds."""

    size: int  # bytes on disk
    files: int
    shape: str
    digest: str  # "" where the content was not read


def survey(root: Path, content: bool = False) -> Survey:
    """Look at every name below a directory and, with `content`, at every byte. Raises OSError."""
    size = files = 0
    shape, digest = hashlib.sha256(), hashlib.sha256()
    pending = [os.fspath(root)]
    while pending:
        place = pending.pop()
        with os.scandir(place) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        shape.update(b"%d\n" % len(entries))
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            line = f"{entry.name}\0{found.st_mode:o} {found.st_uid} {found.st_gid} ".encode("utf-8", "surrogateescape")
            if stat.S_ISDIR(found.st_mode):
                pending.append(entry.path)
                shape.update(line)
                continue
            files += 1
            size += found.st_blocks * 512
            if stat.S_ISLNK(found.st_mode):
                line += os.fsencode(os.readlink(entry.path))
            shape.update(line + b"%d %d %d\n" % (found.st_size, found.st_mtime_ns, found.st_rdev))
            if content and stat.S_ISREG(found.st_mode):
                with open(entry.path, "rb", buffering=0) as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(shape.digest())
    return Survey(size, files, shape.hexdigest(), digest.hexdigest() if content else "")


def remove_tree(path: Path) -> None:
    """Remove a file or directory, wholly, whatever its permissions; it need not exist."""

    def again(function: object, name: str, error: object) -> None:
        os.chmod(os.path.dirname(name), 0o700)
        os.chmod(name, 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name)
        else:
            os.unlink(name)

    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path, onerror=again)
    except RecursionError:
        remove_deep(path)
