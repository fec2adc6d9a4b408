"""SHA-256 of local files, remembered between runs.

A file is hashed again when its size, times or inode differ from those it was hashed with. A file
changed within the last two seconds is never remembered: clocks of file systems are coarse, so it might
change once more without a trace.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Callable, Optional

from modal._mounts import Stamp, stamp_of

CHUNK = 1 << 20  # bytes
REMEMBER_FROM = 256 * 1024  # bytes; a few smaller files are hashed sooner than the cache is read
MANY = 500  # files; from so many on, small ones are remembered too
FRESH = 2.0  # seconds
MOST_REMEMBERED = 50_000  # files


def hash_file(path: str, told: Optional[Callable[[], object]] = None) -> str:
    """SHA-256 of the content, hexadecimal. `told` is called now and then; what it raises ends it. Raises OSError."""
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while True:
            chunk = file.read(CHUNK)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
            if told is not None:
                told()


def cache_path() -> str:
    """Where hashes are remembered: the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "intermodal", "hashes.json")


def _worth_it(stamp: Stamp, one_of: int) -> bool:
    """Whether a file's hash is worth a place on disk."""
    return stamp.size >= REMEMBER_FROM or one_of >= MANY


class HashCache:
    """Hashes by path and stamp; what was learnt is written by `save`."""

    def __init__(self, path: Optional[str] = None) -> None:
        self._path = path or cache_path()
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._kept: set[str] = set()  # paths that are worth a place on disk
        self._loaded = False
        self._dirty = False
        self._lock = threading.Lock()

    def get(self, path: str, one_of: int = 1, told: Optional[Callable[[], object]] = None) -> tuple[str, Stamp]:
        """The hash of a file, one of so many, and the stamp that it had meanwhile. `told`: as for `hash_file`.

        Raises OSError."""
        stamp = stamp_of(path)
        if stamp is None:
            raise FileNotFoundError(path)
        known = self.known(path, stamp, one_of)
        if known:
            return known, stamp
        digest = hash_file(path) if told is None else hash_file(path, told)
        self.learn(path, stamp, digest, one_of)
        return digest, stamp

    def known(self, path: str, stamp: Stamp, one_of: int = 1) -> str:
        """The hash of a file that looks as it did when it was hashed, "" for any other."""
        if not self._loaded and _worth_it(stamp, one_of):
            with self._lock:
                self._load()
        known = self._known.get(path)
        return known[1] if known is not None and known[0] == stamp else ""

    def learn(self, path: str, stamp: Stamp, digest: str, one_of: int = 1) -> None:
        """A file was hashed that looked so before; it is remembered if it still does."""
        if time.time() - stamp.mtime / 1e9 > FRESH and stamp_of(path) == stamp:
            with self._lock:
                self._known.pop(path, None)  # what is new comes last, and is kept longest
                self._known[path] = (stamp, digest)
                if _worth_it(stamp, one_of):
                    self._kept.add(path)
                    self._dirty = True

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        import json

        try:
            with open(self._path, encoding="utf-8") as file:
                for path, (stamp, digest) in json.load(file).items():
                    self._known.setdefault(path, (Stamp(*stamp), digest))
                    self._kept.add(path)
        except (OSError, ValueError, TypeError, AttributeError):
            return  # no cache, or none of ours: everything is hashed again

    def save(self) -> None:
        """Write what is worth it. A cache that cannot be written is no error."""
        with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            kept_paths = [path for path in self._known if path in self._kept][-MOST_REMEMBERED:]
            kept = {path: self._known[path] for path in kept_paths}
        import json

        temporary = f"{self._path}.{os.getpid()}.tmp"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(json.dumps(kept, separators=(",", ":")))
            os.replace(temporary, self._path)
        except OSError:
            return


hashes = HashCache()
