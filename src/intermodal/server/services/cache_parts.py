"""The parts of a cache that may go one by one: a package that uv has unpacked, a download of pip's, a Debian package.

When a part was last used is when its files were last read. Linux notes that once a day (`relatime`), so a part counts
as used for a day longer; where access times are not kept (`noatime`), what counts is when it was fetched.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from intermodal.server.services.status import directory_size

DAY = 86400.0  # seconds
POINTER = 16 << 10  # bytes; what refers to an unpacked package is smaller
_ARCHIVES = "archive-v"  # where uv keeps what it has unpacked
_NO_POINTERS = (_ARCHIVES, "simple-v", "interpreter-v", "flat-index-v")


class Part(NamedTuple):
    """One of them. What refers to others comes first and is deleted first; the last one is what is read at each use."""

    paths: tuple[Path, ...]
    size: int  # bytes on the disk
    used_at: float  # seconds since the epoch, at least


def parts_of(cache: Path, used_at: float) -> list[Part]:
    """Those of one cache, which was last used at `used_at`; none where it can only go as a whole."""
    found: Iterable[tuple[Path, ...]]
    if cache.name == "uv-cache":
        found = _uv(cache)
    elif cache.name == "pip-cache":
        found = _pip(cache)
    elif cache.name.startswith("apt-"):
        found = ((path,) for path in cache.glob("cache/archives/*.deb"))
    else:
        return []
    parts = []
    for paths in found:
        try:
            read = _read_at(paths[-1])
        except OSError:
            continue  # it went meanwhile
        parts.append(Part(paths, sum(map(_size, paths)), min(used_at, read + DAY)))
    return parts


def delete(part: Part) -> bool:
    """Whether it is gone."""
    for path in part.paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return not any(path.exists() for path in part.paths)


@contextmanager
def alone_in(cache: Path) -> Iterator[bool]:
    """Whether no uv works on the cache; none does while the block runs (uv's own lock, which each uv shares)."""
    try:
        lock = os.open(cache / ".lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def _uv(cache: Path) -> Iterator[tuple[Path, ...]]:
    """Each unpacked package after what refers to it: without that, every version of uv fetches the package anew."""
    archives = {path.name: path for top in cache.glob(f"{_ARCHIVES}*") for path in top.iterdir() if path.is_dir()}
    pointers: dict[str, list[Path]] = {name: [] for name in archives}
    for top in cache.iterdir():
        if top.is_dir() and not top.name.startswith(_NO_POINTERS):
            for path in _files(top):
                for name in _names_in(path, archives):
                    pointers[name].append(path)
    for name, path in archives.items():
        yield (*pointers[name], path)


def _files(top: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(top):
        yield from (Path(folder, name) for name in (*names, *below) if name in names or Path(folder, name).is_symlink())


def _names_in(path: Path, archives: Mapping[str, Path]) -> set[str]:
    """The unpacked packages that a link or a small file names."""
    try:
        if path.is_symlink():
            return {os.readlink(path).rpartition("/")[2]} & archives.keys()
        if path.suffix not in (".http", ".rev") or path.stat().st_size > POINTER:
            return set()
        text = path.read_bytes().decode("latin-1")
    except OSError:
        return set()
    lengths = {len(name) for name in archives}
    return {text[at : at + length] for length in lengths for at in range(len(text) - length + 1)} & archives.keys()


def _pip(cache: Path) -> Iterator[tuple[Path, ...]]:
    """A download is one file, or two: what it is, and its body."""
    for top in (cache / "http", cache / "http-v2", cache / "wheels"):
        for path in _files(top):
            body = path.with_name(path.name + ".body")
            if path.suffix != ".body":
                yield (path, body) if body.exists() else (path,)
            elif not path.with_suffix("").exists():
                yield (path,)


def _read_at(path: Path) -> float:
    """When it, or a file in it that each use reads, was last read (or made)."""
    status = os.lstat(path)
    latest = max(status.st_atime, status.st_ctime) if not path.is_dir() else status.st_ctime
    for record in path.glob("*.dist-info/RECORD"):
        inner = os.lstat(record)
        latest = max(latest, inner.st_atime, inner.st_ctime)
    return latest


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return directory_size(path)
    return os.lstat(path).st_blocks * 512
