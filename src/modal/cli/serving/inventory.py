"""The local files that a program consists of, each with what was in it when the program was read.

A file counts by its content: touching it or saving it unchanged changes nothing. A directory counts by the names in
it, without what editors, Python and version control leave there.
"""

from __future__ import annotations

import hashlib
import os
import sys
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

if TYPE_CHECKING:
    from modal import App
    from modal._mounts import FileSet

FILE, DIRECTORY, PYTHON_DIRECTORY = "file", "directory", "python"  # of the last, only modules and packages count
MISSING = "missing"
CHANGING = "changing"  # written after the program began to be read: what was read is unknown
LARGE = 64 << 20  # bytes of a file that is not read to see whether it has changed
COARSE = 20_000_000  # nanoseconds by which a file system's clock may be behind
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib/", "/run/")
_INSTALLED = ("/site-packages/", "/dist-packages/", "/__pycache__/", "/.git/")

Entry = Tuple[str, str]  # kind, absolute path


def is_noise(name: str) -> bool:
    """Whether a name in a directory is none of the user's: hidden, bytecode, an editor's copy or test file."""
    return (
        name.startswith((".", "#"))
        or name.endswith(("~", ".pyc", ".pyo", ".swp", ".swx", ".tmp"))
        or name in ("__pycache__", "4913")  # vim tries whether it can write by a file of that name
    )


def fingerprint(entry: Entry) -> str:
    """What tells two states of a file or directory apart."""
    kind, path = entry
    try:
        if kind == FILE:
            return _content(path)
        with os.scandir(path) as listing:
            names = sorted(item.name for item in listing if not is_noise(item.name) and _counts(kind, item))
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        return f"error {error.errno}"
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _content(path: str) -> str:
    """A file's hash; of a very large one, what tells that it was written. Raises OSError."""
    status = os.stat(path)
    if status.st_size > LARGE:
        return f"{status.st_size} bytes, {status.st_mtime_ns}"
    from modal._hashing import hashes

    return hashes.get(path)[0]


def _counts(kind: str, item: os.DirEntry[str]) -> bool:
    return kind == DIRECTORY or item.name.endswith(".py") or item.is_dir()


class Reads:
    """Remembers which files this process opens; to be given to `sys.addaudithook`."""

    def __init__(self) -> None:
        self.read: Set[str] = set()
        self.written: Set[str] = set()

    def __call__(self, event: str, args: Tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & os.O_ACCMODE)
            self._note(path, self.written if writes else self.read)
        elif event == "os.rename":
            self._note(args[1], self.written)

    def _note(self, path: Any, where: Set[str]) -> None:
        if isinstance(path, (str, bytes)) and path:
            where.add(os.path.abspath(os.fsdecode(path)))


class Inventory:
    """Entries with their fingerprints."""

    def __init__(self, known: Optional[Dict[Entry, str]] = None) -> None:
        self.known: Dict[Entry, str] = known or {}

    def changed(self, entries: Optional[Iterable[Entry]] = None) -> List[Entry]:
        """Those that are not any more what they were."""
        looked_at = self.known if entries is None else entries
        return [entry for entry in looked_at if entry in self.known and fingerprint(entry) != self.known[entry]]

    def touched(self, paths: Iterable[str]) -> List[Entry]:
        """The entries to look at again when something happened to these paths."""
        found: List[Entry] = []
        for path in paths:
            above = os.path.dirname(path)
            places = [(FILE, path), (DIRECTORY, path), (PYTHON_DIRECTORY, path)]
            places += [(DIRECTORY, above), (PYTHON_DIRECTORY, above)]
            found.extend(entry for entry in places if entry in self.known)
        return list(dict.fromkeys(found))

    def settle(self, entries: Iterable[Entry]) -> None:
        """What these are now is what they are compared with from now on."""
        for entry in entries:
            self.known[entry] = fingerprint(entry)

    def directories(self) -> List[str]:
        """Where to watch. An editor that saves by renaming replaces a file, so it is the directory that tells."""
        found = {_existing(os.path.dirname(path) if kind == FILE else path) for kind, path in self.known}
        return sorted(found)


def _existing(directory: str) -> str:
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory


def take(reads: Reads, app: Optional[App], since: int, failed: bool) -> Inventory:
    """What this process has read so far, and what the app brings. `since`: nanoseconds, when the reading began.

    After a failed import, new modules beside those that were read count too: one of them may have been missing.
    """
    known: Dict[Entry, str] = {}
    own = _own_files(reads)
    for path in own:
        known[(FILE, path)] = CHANGING if _changed_after(path, since) else fingerprint((FILE, path))
    for entry in _entries_of(app) if app is not None else ():
        if entry[1] not in reads.written:
            known.setdefault(entry, fingerprint(entry))
    if failed:
        for path in own:
            if path.endswith(".py"):
                entry = (PYTHON_DIRECTORY, os.path.dirname(path))
                known.setdefault(entry, fingerprint(entry))
    return Inventory(known)


def _own_files(reads: Reads) -> List[str]:
    """Files of the user's that this process has read: modules, and what they opened."""
    modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {os.path.abspath(path) for path in modules if isinstance(path, str)} | reads.read
    ignored = _ignored_prefixes()
    return sorted(
        path
        for path in paths - reads.written
        if not path.startswith(ignored)
        and not any(part in path for part in _INSTALLED)
        and not path.endswith((".pyc", ".so"))
        and not os.path.isdir(path)
    )


def _ignored_prefixes() -> Tuple[str, ...]:
    import sysconfig

    import modal
    from modal._hashing import cache_path
    from modal._protocol.home import home_dir
    from modal.config import config_path

    package = os.path.dirname(os.path.abspath(modal.__file__))
    ours = (package, os.path.join(os.path.dirname(package), "intermodal"), str(home_dir()))
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    directories = [os.path.abspath(path).rstrip("/") + "/" for path in (*ours, *libraries) if path]
    return (*_SYSTEM, *directories, config_path(), cache_path())


def _changed_after(path: str, since: int) -> bool:
    try:
        return os.stat(path).st_ctime_ns > since - COARSE
    except OSError:
        return False


def _entries_of(app: App) -> Iterator[Entry]:
    """Of all file sets of the app: its own source, files added to images, what image builds copy."""
    seen = set()
    for files in _sets_of(app):
        if files.key not in seen:
            seen.add(files.key)
            yield from entries_of(files)


def _sets_of(app: App) -> Iterator[FileSet]:
    for definition in app._definitions():
        own = definition.source_files()
        if own is not None:
            yield own
        image = definition.image(app)
        yield from image._mounted
        yield from (step.files for step in image._steps() if step.files is not None)


def entries_of(files: FileSet) -> Iterator[Entry]:
    """A set's files and the directories in which new ones would belong to it."""
    from modal._mounts import PythonSource
    from modal._source import PackageSource

    roots = [root for root in files.roots() if os.path.isdir(root)]
    directories = set(roots)
    for found in files.find():
        root = next((root for root in roots if found.local.startswith(root.rstrip("/") + "/")), None)
        if root is not None:
            inner = os.path.relpath(os.path.dirname(found.local), root)
            parts = [] if inner == "." else inner.split(os.sep)
            if any(is_noise(part) for part in parts):
                continue
            directories.update(os.path.join(root, *parts[:depth]) for depth in range(len(parts) + 1))
        if not found.link and not found.directory:
            yield FILE, os.path.abspath(found.local)
    kind = PYTHON_DIRECTORY if isinstance(files, (PackageSource, PythonSource)) else DIRECTORY
    for directory in sorted(directories):
        yield kind, directory
        yield from ((kind, path) for path in _empty_directories(directory) if path not in directories)


def _empty_directories(directory: str) -> Iterator[str]:
    """Directories that hold nothing of the set so far."""
    try:
        with os.scandir(directory) as listing:
            for item in listing:
                if item.is_dir(follow_symlinks=False) and not is_noise(item.name):
                    yield item.path
    except OSError:
        return
