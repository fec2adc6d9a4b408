"""Sets of local files as overlay layers: the root of a mount's directory is the container's `/`."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from intermodal.boots import changed_since
from intermodal.disk import disk_fault
from intermodal.files import USUAL_MODE, Files
from intermodal.home import Home
from intermodal.worker.images.stages import clean_stages, new_stage
from intermodal.worker.images.trees import remove_tree
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.file import FileEntry

# Names that are links in every image: a directory there would hide what they lead to.
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "var/run": "run",
    "var/lock": "run/lock",
}
MODES = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700}  # of directories that are in every image, else 0755

_MOUNT_ID = re.compile(r"mo-[A-Za-z0-9]{1,80}\Z")


class MountStore:
    """Materialises sets of files, each once."""

    def __init__(self, home: Home, files: Files) -> None:
        self._root = home.mounts
        self._files = files

    def path(self, mount_id: str) -> Path:
        if not _MOUNT_ID.match(mount_id):
            raise Fault(Code.INVALID, f"{mount_id[:100]!r} is not the id of a set of files")
        return self._root / mount_id

    def has(self, mount_id: str) -> bool:
        return self.path(mount_id).is_dir()

    def mend(self, since: float) -> None:
        """After a loss of power: remove the sets that have changed since then. Blocking."""
        for path in self._root.iterdir():
            if changed_since(path, since):
                remove_tree(path)

    def materialise(self, mount_id: str, entries: list[FileEntry]) -> Path:
        """The directory of the set. Blocking. Raises Fault: invalid (an entry), not-found (a file's content)."""
        path = self.path(mount_id)
        if path.is_dir():
            return path
        temporary = new_stage(self._root)
        try:
            temporary.mkdir(parents=True)
            temporary.chmod(0o755)
            self._fill(temporary, entries)
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():  # else another thread was first, with the same content
                    raise
        except OSError as error:
            raise disk_fault(error, path) from error
        finally:
            remove_tree(temporary)
        return path

    def clean(self) -> None:
        """Remove what ended processes left half made."""
        clean_stages(self._root)

    def _fill(self, root: Path, entries: list[FileEntry]) -> None:
        made: set[str] = {""}
        # Symbolic links last: then no name below the root leads out of it while files are written.
        for entry in sorted(entries, key=lambda one: bool(one.link)):
            relative = _checked(entry)
            if not entry.link and not entry.hash:
                _make_parents(root, LINKS.get(relative, relative), made, entry)
                continue
            _make_parents(root, posixpath.dirname(relative), made, entry)
            target = root / relative
            try:
                if entry.link:
                    target.symlink_to(entry.link)
                else:
                    self._link(entry, target)
            except FileExistsError:
                raise Fault(Code.INVALID, f"{entry.path} is in the set of files twice") from None

    def _link(self, entry: FileEntry, target: Path) -> None:
        usual = entry.mode == USUAL_MODE
        source = self._files.path(entry.hash) if usual else self._files.with_mode(entry.hash, entry.mode)
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise Fault(Code.NOT_FOUND, f"the file {entry.hash} ({entry.path}) is not here: upload it again") from None
        if os.lstat(target).st_size != entry.size:
            raise Fault(Code.INVALID, f"{entry.path}: the file {entry.hash} has not {entry.size} bytes")


def _checked(entry: FileEntry) -> str:
    """The entry's path relative to the root."""
    parts = entry.path.split("/")
    if not entry.path.startswith("/") or ".." in parts or "\0" in entry.path + entry.link:
        raise Fault(Code.INVALID, f"{entry.path!r} is no absolute path of a file in a container")
    relative = posixpath.normpath(entry.path).lstrip("/")
    if relative in ("", "."):
        raise Fault(Code.INVALID, "a file cannot take the place of the container's /")
    for link, target in LINKS.items():
        if relative.startswith(link + "/"):
            return target + relative[len(link) :]
    return relative


def _make_parents(root: Path, parent: str, made: set[str], entry: FileEntry) -> None:
    missing = []
    while parent not in made:
        missing.append(parent)
        parent = posixpath.dirname(parent)
    for name in reversed(missing):
        try:
            (root / name).mkdir()
        except FileExistsError:
            raise Fault(Code.INVALID, f"{entry.path}: /{name} is a file in the same set") from None
        (root / name).chmod(MODES.get(name, 0o755))
        made.add(name)
