"""Volumes and network file systems: what clients ask, and what a worker and its server tell each other.

A volume's version is a set of entries; the content of its files lies in the volumes' object store under the SHA-256
of the content. Entries travel as arrays (`Entry`), because there may be hundreds of thousands.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple

from modal._protocol.message import Message, Record

VOLUME = "volume"
NETWORK_FILE_SYSTEM = "network-file-system"

# Kinds of entries: as modal.volume.FileEntryType, and two that stand for changes.
FILE, DIRECTORY, SYMLINK, FIFO, SOCKET = 1, 2, 3, 4, 5
REMOVED = 0  # nothing is at this path any more, nor below it
CLEARED = -1  # the directory stays, but nothing of what was in it before

MAX_INODES = 500_000  # files, directories and symbolic links of one volume
PORTION = 400_000  # bytes of entries in one message, about


class Entry(NamedTuple):
    """One file, directory or symbolic link of a volume, or one change."""

    path: str  # relative to the volume's root, parts joined by "/"; bytes that are no UTF-8 as surrogates
    kind: int
    mode: int = 0o644  # permission bits
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # nanoseconds since the epoch
    size: int = 0  # bytes
    content: str = ""  # a file's SHA-256, a link's target


class VolumeGet(Message, type=170):
    """By name, or (to keep an ephemeral one alive) by id. Answered with Volumes, one. Faults: not-found, invalid."""

    name: str = ""
    environment: str = ""
    kind: str = VOLUME
    create: bool = False
    ephemeral: bool = False  # a new one without a name, deleted when nobody has asked for it for a while
    format: int = 0  # the documented `version=`: accepted, and shown
    volume_id: str = ""


class VolumeList(Message, type=171):
    """Answered with Volumes."""

    environment: str = ""
    kind: str = VOLUME


class VolumeInfo(Record):
    volume_id: str
    name: str
    kind: str
    created_at: float
    environment: str = ""
    version: int = 0  # of the content; grows with every commit
    inodes: int = 0
    bytes: int = 0
    created: bool = False  # by this very request


class Volumes(Message, type=172):
    volumes: List[VolumeInfo]


class VolumeDelete(Message, type=173):
    """By name, or by id. Answered with Done. Fault: not-found."""

    name: str = ""
    environment: str = ""
    kind: str = VOLUME
    volume_id: str = ""


class VolumeRename(Message, type=174):
    """Answered with Done. Faults: not-found, conflict, invalid."""

    old_name: str
    new_name: str
    environment: str = ""
    kind: str = VOLUME


class VolumeHistory(Message, type=175):
    """The versions that are kept, newest first; answered with VolumeVersions. With `restore`, that version becomes
    the newest one again (as a new version) before. Faults: not-found, auth."""

    volume_id: str
    restore: int = 0


class VolumeLs(Message, type=176):
    """VolumeEntries items, END. A file's path gives that file. Fault: not-found. Paths with `*` (network file
    systems alone) are patterns."""

    volume_id: str
    path: str = "/"
    recursive: bool = False


class VolumeEntries(Message, type=177):
    entries: List[Any]  # Entry as array


class VolumeRead(Message, type=178):
    """BlobChunk items from the byte `offset` on, END. Fault: not-found, invalid (a directory)."""

    volume_id: str
    path: str
    offset: int = 0


class VolumeReadMany(Message, type=452):
    """Several small files at once, of a volume or network file system. Answered with FileContents.

    Faults: not-found, invalid (a directory), too-large (together)."""

    volume_id: str
    paths: List[str]


class FileContents(Message, type=453):
    contents: List[bytes]  # in the order of the question


class VolumeEdit(Message, type=179):
    """`action` "remove": `paths`, directories only with `recursive`. "copy": `paths` to `target`, as `cp` does.
    "mkdir": `paths` become directories, with those above (network file systems).

    Answered with Done. Faults: not-found, invalid."""

    volume_id: str
    action: str
    paths: List[str]
    target: str = ""
    recursive: bool = False


class ObjectsMissing(Message, type=180):
    """Which of these contents (SHA-256, hexadecimal) does the server lack? As question and as answer.

    `directory`: where a peer on the same machine may put them itself, "" for others."""

    hashes: List[str]
    directory: str = ""


class ObjectsPut(Message, type=181):
    """Several small contents at once; the server checks every hash. Answered with Done."""

    hashes: List[str]
    contents: List[bytes]


class ObjectPut(Message, type=182):
    """One large content: BlobChunk items up, END; answered with Done.

    Fault: conflict where the server does not have the part before `begin` any more: ask ObjectBegun again.
    """

    hash: str
    size: int
    begin: int = 0  # bytes that the server has already: what is sent comes behind them
    token: str = ""  # of this upload: see ObjectBegun; without one nothing is kept of what is interrupted


class ObjectBegun(Message, type=450):
    """How much of a content has come in an upload that was interrupted? As question and, with `size`, as answer.

    It ends an upload of this content with the same token, whose connection the server may not know to be lost.
    """

    hash: str
    token: str
    size: int = 0


class VolumeUpload(Message, type=183):
    """VolumeEntries items up, END; they become one new version. Answered with VolumeVersions, one.

    Without `force` a file that is there already is a conflict. Faults: conflict, not-found (a content that has to be
    sent again), exhausted (too many inodes)."""

    volume_id: str
    force: bool = False
    token: str = ""  # of this upload: one that is sent again, because its answer was lost, is not done twice


class VolumeSync(Message, type=184):
    """From a container that has the volume mounted: "commit" or "reload". Answered with Done.

    Faults: execution (volume busy, not mounted), not-found (deleted), exhausted (a full disk, too many inodes)."""

    volume_id: str
    action: str


class WorkerVolumeSync(Message, type=185):
    """Server to worker: the same for one container. Answered with Done.

    Without a container, "prepare": the volume has changed, and may be mounted soon."""

    container_id: str
    volume_id: str
    action: str


class VolumeChanges(Message, type=186):
    """Worker to server: what a container has changed, as VolumeEntries items up, END; they become one new version.

    Answered with VolumeVersions: one, or none where nothing differs."""

    volume_id: str
    container_id: str = ""


class VolumeCheckout(Message, type=187):
    """Worker to server: what to do to a tree of version `since` (0: an empty one) to make it the newest version.

    VolumeEntries items, then VolumeVersions (the newest one, `since` in `base`), END. A `since` that is too old is
    answered as 0 would be."""

    volume_id: str
    since: int = 0


class VolumeVersion(Record):
    version: int
    created_at: float
    reason: str = ""  # "upload", "commit", "remove", "copy", "restore 7"
    changes: int = 0
    inodes: int = 0
    bytes: int = 0


class VolumeVersions(Message, type=188):
    versions: List[VolumeVersion]
    base: int = 0


class NetworkFilePut(Message, type=189):
    """Write one file of a network file system, whole or not at all: BlobChunk items up, END; answered with Done."""

    volume_id: str
    path: str
    mode: int = 0o644
    mtime: int = 0  # nanoseconds since the epoch; 0: now


class NetworkFilesPut(Message, type=451):
    """Several small files, directories and links of a network file system, each whole or not at all.

    A directory that is there stays; what else is there is replaced. Answered with Done. Faults: invalid (something is
    in the way), exhausted."""

    volume_id: str
    entries: List[Any]  # Entry as array; those above come before those below
    contents: List[bytes]  # of the files among them, in that order


def portions(entries: List[Entry]) -> List[List[Any]]:
    """Parts that each fit into one message."""
    parts: List[List[Any]] = []
    size = PORTION
    for entry in entries:
        cost = 6 * len(entry.path) + 6 * len(entry.content) + 80  # bytes, at worst: \u escapes
        if size + cost > PORTION:
            parts.append([])
            size = 0
        parts[-1].append(list(entry))
        size += cost
    return parts
