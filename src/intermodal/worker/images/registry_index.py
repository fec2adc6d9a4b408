"""Makes a layer of a registry mountable without unpacking it: the archive, uncompressed, and an index beside it.

Run as a program of its own, as `registry_unpack` is:

    python -I -S registry_index.py BLOB ARCHIVE INDEX

The answer is one line of JSON, as there; `reason` is "unsuited" where the layer has to be unpacked, because it names
files by way of links, leaves out directories' entries, or has what the format cannot hold.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import stat
import sys
import tarfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if __name__ != "__main__" or TYPE_CHECKING:
    from intermodal.worker.images import erofs, registry_unpack
else:  # a program by itself: the packages around it would take longer to import than a layer takes

    def _neighbour(name: str) -> Any:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    erofs, registry_unpack = _neighbour("erofs"), _neighbour("registry_unpack")

BLOCK = 1 << 20  # bytes read at once


class Unsuited(Exception):
    """The layer must be unpacked."""


class Tree:
    """The entries of an archive, as what overlayfs stacks."""

    def __init__(self) -> None:
        self.root = erofs.Node(stat.S_IFDIR | 0o755)
        self._directories: dict[str, erofs.Node] = {"": self.root}
        self.files = 0
        self.bytes = 0

    def add(self, member: tarfile.TarInfo) -> None:
        """Take in one entry. Raises Unsuited."""
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in member.name or member.issparse():
            raise Unsuited(member.name)
        if not parts:
            if member.isdir():
                self.root.mode = stat.S_IFDIR | (member.mode & 0o7777)
            return
        above, last = "/".join(parts[:-1]), parts[-1]
        parent = self._directories.get(above)
        name = os.fsencode(last)
        if parent is None or len(name) > erofs.LONGEST_NAME:
            raise Unsuited(member.name)
        if last.startswith(registry_unpack.WHITEOUT):
            self._whiteout(parent, last)
            return
        known = parent.children.get(name)
        if known is not None and (known.is_directory or member.isdir()):
            if not (known.is_directory and member.isdir()):
                raise Unsuited(member.name)
            known.mode, known.uid, known.gid = stat.S_IFDIR | (member.mode & 0o7777), member.uid, member.gid
            known.mtime = member.mtime
            known.attributes.update(_attributes(member))
            return
        if known is not None:
            known.links -= 1
        node = self._linked(member) if member.islnk() else _node(member)
        if node is None:
            return
        parent.children[name] = node
        if node.is_directory:
            self._directories["/".join(parts)] = node
            node.links = 2
            parent.links += 1
        else:
            self.files += 1
            self.bytes += node.size if stat.S_ISREG(node.mode) and not member.islnk() else 0

    def _linked(self, member: tarfile.TarInfo) -> erofs.Node:
        parts = [part for part in member.linkname.split("/") if part not in ("", ".")]
        parent = self._directories.get("/".join(parts[:-1]))
        node = parent.children.get(os.fsencode(parts[-1])) if parts and parent is not None else None
        if node is None or node.is_directory:
            raise Unsuited(member.name)
        node.links += 1
        return node

    def _whiteout(self, parent: erofs.Node, last: str) -> None:
        if last == registry_unpack.OPAQUE_MARK:
            if parent is not self.root:
                parent.attributes[registry_unpack.OPAQUE[0]] = b"y"
            return
        if last.startswith(registry_unpack.WHITEOUT * 2):
            return  # bookkeeping of aufs
        name = os.fsencode(last[len(registry_unpack.WHITEOUT) :])
        if name in (b"", b".", b"..") or name in parent.children:
            raise Unsuited(last)
        parent.children[name] = erofs.Node(stat.S_IFCHR | 0o600)


def _node(member: tarfile.TarInfo) -> erofs.Node | None:
    mode = member.mode & 0o7777
    node = erofs.Node(mode, member.uid, member.gid, member.mtime, attributes=_attributes(member))
    if max(member.uid, member.gid) > 0xFFFFFFFE or min(member.uid, member.gid) < 0:
        raise Unsuited(member.name)
    if member.isdir():
        node.mode |= stat.S_IFDIR
    elif member.issym():
        node.mode, node.target = stat.S_IFLNK | 0o777, os.fsencode(member.linkname)
        if not node.target:
            raise Unsuited(member.name)
    elif member.isfile():
        node.mode |= stat.S_IFREG
        node.size, node.offset = member.size, member.offset_data
    elif member.isfifo():
        node.mode |= stat.S_IFIFO
    elif member.ischr() or member.isblk():
        node.mode |= stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        node.device = (member.devmajor, member.devminor)
        if node.device == (0, 0) and member.ischr():
            raise Unsuited(member.name)  # overlayfs would take it for a name that is gone
    else:
        return None
    return node


def _attributes(member: tarfile.TarInfo) -> dict[str, bytes]:
    found = {}
    for key, value in member.pax_headers.items():
        name = key[len(registry_unpack.XATTR) :]
        if key.startswith(registry_unpack.XATTR) and registry_unpack.is_kept(name):
            found[name] = value.encode("utf-8", "surrogateescape")
    return found


def index(blob: str, archive: str, target: str) -> dict[str, object]:
    """Write the archive and its index. Raises Unsuited, Corrupt, OSError."""
    if not _is_linked(blob, archive):
        with registry_unpack.opened(blob) as source, open(archive, "xb", buffering=0) as file:
            while data := source.read(BLOCK):
                file.write(data)
    size = os.path.getsize(archive)
    if size % erofs.BLOCK:
        raise Unsuited("its length")
    digest: list[str] = []
    hashing = threading.Thread(target=_hash, args=(archive, digest.append))
    hashing.start()
    tree = Tree()
    try:
        with tarfile.open(archive, "r:", errorlevel=2) as tar:
            while (member := tar.next()) is not None:
                tree.add(member)
    except (tarfile.TarError, EOFError) as error:
        raise registry_unpack.Corrupt(str(error)) from None
    finally:
        hashing.join()
    try:
        image = erofs.write(tree.root, size)
    except (ValueError, OverflowError) as error:
        raise Unsuited(str(error)) from None
    with open(target, "xb") as file:
        file.write(image)
    return {"digest": digest[0], "files": tree.files, "bytes": tree.bytes, "implied": []}


def _is_linked(blob: str, archive: str) -> bool:
    """Whether the blob is an archive as it is, and lies where a second name for it can be."""
    with open(blob, "rb") as file:
        if registry_unpack.is_compressed(file.read(4)):
            return False
    try:
        os.link(blob, archive)
    except OSError:
        return False
    return True


def _hash(path: str, tell: Callable[[str], None]) -> None:
    with open(path, "rb", buffering=0) as file:
        tell(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


def main(arguments: list[str]) -> int:
    os.umask(0o022)
    try:
        answer = index(*arguments)
    except Unsuited as error:
        answer = {"error": f"{error} does not suit", "reason": "unsuited"}
    except (registry_unpack.Refused, registry_unpack.Corrupt, OSError) as error:
        answer = registry_unpack.explained(error)
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
