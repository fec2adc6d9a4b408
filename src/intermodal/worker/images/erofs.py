"""Writes EROFS file systems whose files lie in a tar archive: a layer that can be mounted without being unpacked.

The image that is written has names and properties alone; the content of files stays where it is in the archive,
which the kernel is given as a second device (Linux 6.12 and newer mount both straight from files). The layout is
that of the kernel's documentation (filesystems/erofs): blocks of 512 bytes, as a tar archive has them, 64-byte
inodes, one chunk for each file.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

BLOCK = 512
MAGIC = 0xE0F5E1E2
SUPERBLOCK = 1024  # where it is
DEVICES = 1152  # where the table of devices is: one entry of 128 bytes
META = 1536  # where inodes begin
SLOT = 32  # inodes are numbered in steps of so many bytes
INODE = 64
CHUNKED_FILE, DEVICE_TABLE = 0x4, 0x8  # features
PLAIN, CHUNKS = 0 << 1 | 1, 4 << 1 | 1  # how an inode's content lies, in an extended inode
CHUNK = 31 | 0x20  # chunks of 2^31 blocks, with an index of where they are
ARCHIVE = 1  # number of the device that is the archive
NAMES = (("user.", 1), ("trusted.", 4), ("security.", 6))  # prefixes of extended attributes
ACLS = {"system.posix_acl_access": 2, "system.posix_acl_default": 3}
KINDS = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
LONGEST_NAME = 255  # bytes


@dataclass(eq=False)
class Node:
    """One inode."""

    mode: int  # with its kind
    uid: int = 0
    gid: int = 0
    mtime: float = 0.0
    size: int = 0
    offset: int = 0  # of its content in the archive
    target: bytes = b""  # of a symbolic link
    device: tuple[int, int] = (0, 0)
    attributes: dict[str, bytes] = field(default_factory=dict)
    children: dict[bytes, Node] = field(default_factory=dict)
    links: int = 1
    place: int = -1  # where it is written
    block: int = 0  # of a directory's or a link's own content

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def number(self) -> int:
        return (self.place - META) // SLOT


def write(root: Node, archive_size: int) -> bytes:
    """The file system below `root`. Raises ValueError for what the format cannot hold."""
    nodes = list(_all(root))
    at, attributes = META, {}
    for node in nodes:
        attributes[node] = _attributes(node.attributes)
        node.place = at
        length = INODE + len(attributes[node])
        if _is_chunked(node):
            length = _aligned(length, 8) + 8
        at = _aligned(at + length, SLOT)
    contents: list[tuple[Node, bytes]] = []
    parents = {node: node for node in (root,)}
    for node in nodes:
        for child in node.children.values():
            if child.is_directory:
                parents[child] = node
    block = _aligned(at, BLOCK) // BLOCK
    for node in nodes:
        content = _directory(node, parents[node]) if node.is_directory else node.target
        if node.is_directory or node.target:
            node.size, node.block = len(content), block
            contents.append((node, content))
            block += _aligned(len(content), BLOCK) // BLOCK
    image = bytearray(block * BLOCK)
    _superblock(image, root, len(nodes), archive_size)
    for number, node in enumerate(nodes, 1):
        _inode(image, node, number, attributes[node])
    for node, content in contents:
        image[node.block * BLOCK : node.block * BLOCK + len(content)] = content
    return bytes(image)


def _all(root: Node) -> Iterator[Node]:
    """Every inode once, directories level by level."""
    seen, level = {root}, [root]
    yield root
    while level:
        below: list[Node] = []
        for directory in level:
            for name in sorted(directory.children):
                child = directory.children[name]
                if child in seen:
                    continue
                seen.add(child)
                yield child
                if child.is_directory:
                    below.append(child)
        level = below


def _is_chunked(node: Node) -> bool:
    return stat.S_ISREG(node.mode) and node.size > 0


def _aligned(number: int, to: int) -> int:
    return -(-number // to) * to


def _superblock(image: bytearray, root: Node, inodes: int, archive_size: int) -> None:
    values = struct.pack(
        "<IIIBBHQQIIII16s16sIHHHBBIQB23s",
        *(MAGIC, 0, 0, BLOCK.bit_length() - 1, 0, root.number, inodes, 0, 0, len(image) // BLOCK, META // BLOCK, 0),
        *(b"", b"", CHUNKED_FILE | DEVICE_TABLE, 0, 1, DEVICES // 128, 0, 0, 0, 0, 0, b""),
    )
    image[SUPERBLOCK : SUPERBLOCK + len(values)] = values
    struct.pack_into("<64sII", image, DEVICES, b"archive", archive_size // BLOCK, 0)


def _inode(image: bytearray, node: Node, number: int, attributes: bytes) -> None:
    union = node.block
    if _is_chunked(node):
        union = CHUNK
    elif stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
        major, minor = node.device
        union = (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
    count = (len(attributes) - 12) // 4 + 1 if attributes else 0
    seconds = int(node.mtime // 1)
    nanoseconds = min(999_999_999, round((node.mtime - seconds) * 1e9))
    struct.pack_into(
        "<HHHHQIIIIqII16s",
        image,
        node.place,
        *(CHUNKS if _is_chunked(node) else PLAIN, count, node.mode, 0, node.size, union & 0xFFFFFFFF, number),
        *(node.uid, node.gid, seconds, nanoseconds, node.links, b""),
    )
    at = node.place + INODE
    image[at : at + len(attributes)] = attributes
    if _is_chunked(node):
        struct.pack_into("<HHI", image, _aligned(at + len(attributes), 8), 0, ARCHIVE, node.offset // BLOCK)


def _attributes(attributes: dict[str, bytes]) -> bytes:
    """Extended attributes as they stand behind their inode."""
    if not attributes:
        return b""
    entries = b""
    for name, value in sorted(attributes.items()):
        kind, rest = ACLS.get(name, 0), ""
        for prefix, number in NAMES:
            if name.startswith(prefix):
                kind, rest = number, name[len(prefix) :]
        short = rest.encode("utf-8", "surrogateescape")
        if not kind or len(short) > LONGEST_NAME or len(value) > 0xFFFF:
            raise ValueError(f"there is no place for the attribute {name}")
        entry = struct.pack("<BBH", len(short), kind, len(value)) + short + value
        entries += entry + bytes(_aligned(len(entry), 4) - len(entry))
    return struct.pack("<IB7s", 0, 0, b"") + entries


def _directory(node: Node, parent: Node) -> bytes:
    """A directory's content: blocks of entries, each with its names behind them, all in order."""
    entries = sorted([(b".", node), (b"..", parent), *node.children.items()], key=lambda entry: entry[0])
    blocks: list[bytes] = []
    some: list[tuple[bytes, Node]] = []
    used = 0
    for name, child in entries:
        if used + 12 + len(name) > BLOCK:
            block = _entries(some)
            blocks.append(block + bytes(BLOCK - len(block)))
            some, used = [], 0
        some.append((name, child))
        used += 12 + len(name)
    return b"".join([*blocks, _entries(some)])


def _entries(some: list[tuple[bytes, Node]]) -> bytes:
    head, names = b"", b""
    for name, child in some:
        at = 12 * len(some) + len(names)
        head += struct.pack("<QHBB", child.number, at, KINDS[stat.S_IFMT(child.mode)], 0)
        names += name
    return head + names
