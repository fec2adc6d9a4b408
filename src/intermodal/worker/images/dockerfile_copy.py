"""What COPY and ADD do: files of a tree (the build context, or another image) go into a layer."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import shutil
import stat
import tarfile
from pathlib import Path

from intermodal.worker.images.dockerfile_patterns import Excluded, ModeChange, expression
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.merge import link_or_copy
from intermodal.worker.images.registry_unpack import Refused, Unpacking
from intermodal.worker.images.view import Node, View


class Tree:
    """Where files come from: a stack of layers, seen from a directory in it."""

    def __init__(self, layers: list[Path], root: str = "") -> None:
        self.view = View(layers) if layers else None
        self._root = root

    def find(self, pattern: str) -> list[tuple[str, Node]]:
        """What a source names: paths with what is there, in order; a last name that is a link is followed."""
        if self.view is None:
            return []
        found = [("", self.view.lookup(self.view.resolve(self._root)))]
        parts = [part for part in posixpath.normpath(pattern.lstrip("/") or ".").split("/") if part != "."]
        if ".." in parts:
            raise StepError(f"{pattern!r} leads out of where files may come from")
        for part in parts:
            if part == "**":
                found = [below for path, node in found if node is not None for below in self._all(path, node)]
                continue
            found = [child for path, node in found if node is not None for child in self._step(path, node, part)]
        followed = {path: self._followed(path, node) for path, node in found if node is not None}
        return [(path, node) for path, node in followed.items() if node is not None]

    def _all(self, path: str, node: Node) -> list[tuple[str, Node | None]]:
        """A directory and all directories below it."""
        found: list[tuple[str, Node | None]] = [(path, node)]
        if node.is_directory:
            for name, child in self.children(node).items():
                if child.is_directory:
                    found += self._all(f"{path}/{name}" if path else name, child)
        return found

    def _step(self, path: str, node: Node, part: str) -> list[tuple[str, Node | None]]:
        assert self.view is not None
        at = self._followed(path, node)
        if at is None or not at.is_directory:
            return []
        below = f"{path}/" if path else ""
        if not re.search(r"[*?\[\\]", part):
            child = self.view.children(at).get(part)
            return [(below + part, child)] if child is not None else []
        wanted = expression(part)
        return [(below + name, one) for name, one in self.view.children(at).items() if wanted.match(name)]

    def _followed(self, path: str, node: Node) -> Node | None:
        if self.view is None or not stat.S_ISLNK(node.found.st_mode):
            return node
        real = self.view.resolve(f"{self._root}/{path}")
        root = self._root.strip("/")
        if root and real != root and not real.startswith(f"{root}/"):
            raise StepError(f"{path!r} is a link that leads out of the build context")
        return self.view.lookup(real)

    def children(self, node: Node) -> dict[str, Node]:
        assert self.view is not None
        return self.view.children(node)

    def signature(self, patterns: list[str]) -> str:
        """Changes when what the patterns name changes: its names, kinds, modes and contents."""
        digest = hashlib.sha256()
        for pattern in patterns:
            for path, node in self.find(pattern):
                self._sign(digest, path, node)
        return digest.hexdigest()

    def _sign(self, digest: hashlib._Hash, path: str, node: Node) -> None:
        found = node.found
        # Contents never change under their inode: the files belong to a store that is addressed by content.
        parts = [path, found.st_mode, found.st_uid, found.st_gid]
        if node.is_directory:
            digest.update(repr(parts).encode())
            for name, child in self.children(node).items():
                self._sign(digest, f"{path}/{name}", child)
        elif stat.S_ISLNK(found.st_mode):
            digest.update(repr([*parts, os.readlink(node.places[0])]).encode())
        else:
            digest.update(repr([*parts, found.st_ino, found.st_size, found.st_mtime_ns]).encode())


class Copying:
    """One COPY or ADD on its way into a layer."""

    def __init__(
        self,
        upper: Path,
        below: list[Path],
        owner: tuple[int, int] | None,
        mode: ModeChange | None,
        scratch: Path,
        exclude: list[str] | None = None,
    ) -> None:
        self._upper = upper
        self._view = View(below)
        self._owner = owner
        self._mode = mode
        self._excluded = Excluded(exclude or [])
        self._scratch = scratch

    def copy(
        self, tree: Tree, sources: list[str], destination: str, extract: bool = False, parents: bool = False
    ) -> None:
        """Put what `sources` name to `destination`, an absolute path; with `parents` below the directories that the
        sources name, or those behind their `/./`. Raises StepError."""
        found: list[tuple[str, Node]] = []
        for source in sources:
            here = tree.find(source)
            if not here:
                raise StepError(f"there is no {source!r} where files are copied from (or .dockerignore leaves it out)")
            if parents:
                self._with_parents(tree, source, here, destination)
            else:
                found += here
        several = len(found) > 1 or any(re.search(r"[*?\[]", source) for source in sources)
        if several and len(found) > 1 and not destination.endswith("/"):
            raise StepError(f"several files are copied: the destination {destination!r} must end with /")
        for path, node in found:
            if node.is_directory:
                self._contents(tree, node, destination)
            elif self._excluded(posixpath.basename(path)):
                continue
            elif extract and _is_archive(node):
                self._extract(node.places[0], destination)
            else:
                self._file(node, self._target(destination, posixpath.basename(path)))

    def _with_parents(self, tree: Tree, source: str, found: list[tuple[str, Node]], destination: str) -> None:
        pivot = len([part for part in source.partition("/./")[0].split("/") if part not in ("", ".")])
        pivot = pivot if "/./" in source else 0
        for path, node in found:
            relative = "/".join(path.split("/")[pivot:])
            if node.is_directory:
                if "**" not in source:  # else it only leads to what is meant
                    self._contents(tree, node, f"{destination.rstrip('/')}/{relative}", node)
            elif not self._excluded(relative):
                self._file(node, f"{destination.rstrip('/')}/{relative}")

    def write(self, name: str, data: bytes, destination: str, several: bool) -> None:
        """Put a text that stands in the Dockerfile itself."""
        target = self._target(f"{destination}/" if several else destination, name)
        path = self._free(target)
        path.write_bytes(data)
        self._finish(path, 0o644, (0, 0))

    def _target(self, destination: str, name: str) -> str:
        """Where a file goes: into the destination where that is a directory, else there."""
        node = self._view.lookup(self._view.resolve(destination))
        if destination.endswith("/") or (node is not None and node.is_directory):
            return f"{destination.rstrip('/')}/{name}"
        return destination

    def _contents(self, tree: Tree, node: Node, destination: str, like: Node | None = None, place: str = "") -> None:
        """What is in a directory, into another. `place` is where it is below the source."""
        relative = self._directory(destination, like)
        for name, child in tree.children(node).items():
            if self._excluded(place + name):
                continue
            if child.is_directory:
                self._contents(tree, child, f"/{relative}/{name}", child, f"{place}{name}/")
            else:
                self._file(child, f"/{relative}/{name}")

    def _file(self, node: Node, target: str) -> None:
        path = self._free(target)
        source, found = node.places[0], node.found
        owner = self._owner or (found.st_uid, found.st_gid)
        mode = self._changed(stat.S_IMODE(found.st_mode))
        if stat.S_ISLNK(found.st_mode):
            path.symlink_to(os.readlink(source))
            _own(path, owner)
            return
        if not stat.S_ISREG(found.st_mode):
            return  # devices and sockets do not travel
        if owner == (found.st_uid, found.st_gid) and mode == stat.S_IMODE(found.st_mode):
            link_or_copy(source, path)
            return
        shutil.copyfile(source, path, follow_symlinks=False)
        shutil.copystat(source, path, follow_symlinks=False)
        _own(path, owner)
        path.chmod(mode)

    def _changed(self, mode: int, is_directory: bool = False) -> int:
        return mode if self._mode is None else self._mode(mode, is_directory)

    def _finish(self, path: Path, mode: int, owner: tuple[int, int]) -> None:
        _own(path, self._owner or owner)
        path.chmod(self._changed(mode))

    def _extract(self, archive: Path, destination: str) -> None:
        place = self._scratch / f"archive-{archive.name}"
        place.mkdir(mode=0o755)
        unpacking = Unpacking(str(place), whiteouts=False)
        try:
            with tarfile.open(archive, "r:*") as tar:
                for member in tar:
                    unpacking.entry(tar, member)
            unpacking.finish()
        except (Refused, tarfile.TarError, EOFError, OSError) as error:
            raise StepError(f"the archive {archive.name} cannot be unpacked: {error}") from None
        tree = Tree([place])
        for _path, node in tree.find("."):
            self._contents(tree, node, destination)
        shutil.rmtree(place)

    def _free(self, target: str) -> Path:
        """The path in the layer for a file, with its directory made and nothing there."""
        above, _, name = target.rpartition("/")
        relative = self._directory(above or "/")
        full = f"{relative}/{name}" if relative else name
        node = self._view.lookup(full)
        path = self._upper / full
        if (node is not None and node.is_directory) or (path.is_dir() and not path.is_symlink()):
            raise StepError(f"/{full} is a directory: a file cannot take its place")
        path.unlink(missing_ok=True)
        return path

    def _directory(self, destination: str, like: Node | None = None) -> str:
        """Make a directory of the layer, where the image's links lead; relative to the root."""
        relative = self._view.resolve(destination)
        done = ""
        for name in [part for part in relative.split("/") if part]:
            done = f"{done}/{name}" if done else name
            path = self._upper / done
            if path.is_symlink():
                raise StepError(f"/{done} is a link that the same instruction has copied: files cannot go through it")
            if path.is_dir():
                continue
            path.unlink(missing_ok=True)
            path.mkdir()
            node = self._view.lookup(done)
            if node is not None and node.is_directory:
                _own(path, (node.found.st_uid, node.found.st_gid))
                path.chmod(stat.S_IMODE(node.found.st_mode))
            elif like is not None and done == relative:
                _own(path, self._owner or (like.found.st_uid, like.found.st_gid))
                path.chmod(self._changed(stat.S_IMODE(like.found.st_mode), True))
            else:
                _own(path, self._owner or (0, 0))
                path.chmod(0o755)
        return relative


def make_directory(upper: Path, below: list[Path], path: str, owner: tuple[int, int]) -> None:
    """Make a directory of the image, with those above it. Raises StepError."""
    Copying(upper, below, owner, None, upper)._directory(path)


def _is_archive(node: Node) -> bool:
    try:
        return stat.S_ISREG(node.found.st_mode) and tarfile.is_tarfile(node.places[0])
    except OSError:
        return False


def _own(path: Path, owner: tuple[int, int]) -> None:
    if os.geteuid() == 0:
        os.chown(path, *owner, follow_symlinks=False)
