"""Unpacks one layer of an OCI image into a directory that overlayfs can stack.

Run as a program of its own, with the standard library alone, so that layers are unpacked at the same time
and none of it holds up the worker:

    python -I -S registry_unpack.py BLOB DIRECTORY

BLOB is a tar archive, plain or compressed with gzip (eStargz too) or zstd. The answer is one line of JSON:
the digest of the uncompressed archive, what was unpacked, and the directories that the archive takes for
granted; or `error` and `reason` ("corrupt", "refused", "disk", "tool").

OCI whiteouts become overlayfs's: a device 0/0 for a name that is gone, an attribute for an opaque directory.
Nothing is written outside of DIRECTORY whatever the archive says: names with `..` above the root are
refused, and links on the way to a file are followed as they would be in the container.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import zlib
from collections.abc import Iterator
from typing import IO, Any

BLOCK = 1 << 20  # bytes read at once
WHITEOUT = ".wh."
OPAQUE_MARK = ".wh..wh..opq"
OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
XATTR = "SCHILY.xattr."
KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl")
MOST_LINKS = 40  # symbolic links on the way to one file, as the kernel has it
GZIP_TOOLS = ("igzip", "pigz", "gzip")  # the quickest first; each runs beside us


class Refused(Exception):
    """The archive asks for what no layer may do."""


class Corrupt(Exception):
    """The archive is damaged."""


class Hashed:
    """A stream that remembers the digest of what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


class Unpacking:
    """One archive on its way into `root`, which is empty."""

    def __init__(self, root: str, whiteouts: bool = True) -> None:
        self._root = root
        self._whiteouts = whiteouts
        self._real: dict[str, str] = {"": ""}  # a directory as the archive names it -> where it is
        self._made: set[str] = {""}  # real directories
        self._times: dict[str, float] = {}  # of directories, set when they are full
        self._opaque: set[str] = set()
        self._marked: set[str] = set()  # whiteouts
        self.implied: list[str] = []  # directories without an entry of their own
        self.files = 0
        self.bytes = 0

    def path(self, relative: str) -> str:
        return f"{self._root}/{relative}"

    def finish(self) -> None:
        for relative, when in self._times.items():
            with contextlib.suppress(OSError):
                os.utime(self.path(relative), (when, when))

    def entry(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Carry out one entry. Raises Refused, Corrupt, OSError."""
        name = inside(member.name)
        if not name:
            if member.isdir():
                os.chmod(self._root, member.mode & 0o7777)
            return
        above, _, last = name.rpartition("/")
        parent = self._directory(above)
        if self._whiteouts and last.startswith(WHITEOUT):
            self._whiteout(parent, last)
            return
        relative = f"{parent}/{last}" if parent else last
        if member.isdir():
            self._make_directory(relative, member)
        else:
            self._remove(relative)
            self._make(archive, member, relative)
            self.files += 1
        self._attributes(relative, member)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, relative: str) -> None:
        path = self.path(relative)
        if member.islnk():
            self._link(member, relative)
        elif member.issym():
            if not member.linkname:
                raise Refused(f"{member.name} is a symbolic link that leads nowhere")
            os.symlink(member.linkname, path)
            own(path, member)
            with contextlib.suppress(OSError):
                os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)
        elif member.isfile():
            self._write(archive, member, path)
        elif member.isfifo():
            os.mkfifo(path)
            finish_node(path, member)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            try:
                os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
            except PermissionError:
                return  # without root there are no devices; containers have their own /dev
            finish_node(path, member)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        source = archive.extractfile(member)
        assert source is not None
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            left = member.size
            while left > 0:
                data = source.read(min(left, BLOCK))
                if not data:
                    raise Corrupt(f"it ends within {member.name}")
                left -= len(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            own(fd, member)
            os.fchmod(fd, member.mode & 0o7777)
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)
        self.bytes += member.size

    def _link(self, member: tarfile.TarInfo, relative: str) -> None:
        target = inside(member.linkname)
        above, _, last = target.rpartition("/")
        parent = self._directory(above, imply=False)
        if parent is None or not last:
            raise Refused(f"{member.name} is a hard link to {member.linkname}, which is not in the same layer")
        source = f"{parent}/{last}" if parent else last
        if source in self._made:
            raise Refused(f"{member.name} is a hard link to the directory {member.linkname}")
        try:
            os.link(self.path(source), self.path(relative), follow_symlinks=False)
        except FileNotFoundError:
            why = f"{member.name} is a hard link to {member.linkname}, which is not in the same layer"
            raise Refused(why) from None

    def _make_directory(self, relative: str, member: tarfile.TarInfo) -> None:
        path = self.path(relative)
        if relative in self._made:
            if relative in self.implied:
                self.implied.remove(relative)
        else:
            hides = relative in self._marked
            self._remove(relative)
            os.mkdir(path, 0o700)
            self._made.add(relative)
            if hides:
                self._set_opaque(relative)
        own(path, member)
        os.chmod(path, member.mode & 0o7777)
        self._times[relative] = member.mtime

    def _attributes(self, relative: str, member: tarfile.TarInfo) -> None:
        for key, value in member.pax_headers.items():
            if not key.startswith(XATTR) or member.islnk():
                continue
            name = key[len(XATTR) :]
            if not is_kept(name):
                continue
            with contextlib.suppress(OSError):  # the file system may have none
                os.setxattr(self.path(relative), name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)

    # -- whiteouts
    def _whiteout(self, parent: str, last: str) -> None:
        if last == OPAQUE_MARK:
            self._set_opaque(parent)
            return
        if last.startswith(WHITEOUT * 2):
            return  # bookkeeping of aufs
        name = last[len(WHITEOUT) :]
        if name in ("", ".", ".."):
            raise Refused(f"{parent}/{last} hides no file")
        relative = f"{parent}/{name}" if parent else name
        if relative in self._made:
            self._set_opaque(relative)  # it is in this layer anew: what lies below it is hidden
        elif not os.path.lexists(self.path(relative)):
            os.mknod(self.path(relative), stat.S_IFCHR | 0o600, os.makedev(0, 0))
            self._marked.add(relative)

    def _set_opaque(self, relative: str) -> None:
        if not relative or relative in self._opaque:
            return
        self._opaque.add(relative)
        try:
            os.setxattr(self.path(relative), OPAQUE[0], b"y")
        except PermissionError:  # without root, overlayfs reads user.* attributes
            os.setxattr(self.path(relative), OPAQUE[1], b"y")

    # -- places
    def _directory(self, name: str, imply: bool = True) -> Any:
        """Where the directory is that the archive calls `name`; made where it is missing, unless not `imply`."""
        known = self._real.get(name)
        if known is not None:
            return known
        real = self._resolve(name, imply)
        if real is not None:
            self._real[name] = real
        return real

    def _resolve(self, name: str, imply: bool) -> str | None:
        pending = name.split("/")[::-1]
        at: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                at = at[:-1]  # above the root is the root, as in a container
                continue
            relative = "/".join([*at, part])
            if relative in self._made:
                at.append(part)
                continue
            try:
                found = os.lstat(self.path(relative))
            except FileNotFoundError:
                if not imply:
                    return None
                self._imply(relative)
                at.append(part)
                continue
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > MOST_LINKS:
                    raise Refused(f"{name}: its symbolic links lead in circles")
                target = os.readlink(self.path(relative))
                if target.startswith("/"):
                    at = []
                pending.extend(target.split("/")[::-1])
                continue
            if not imply:
                return None
            # A file or a whiteout where a directory must be: the later entry wins.
            hides = relative in self._marked
            self._remove(relative)
            self._imply(relative)
            if hides:
                self._set_opaque(relative)
            at.append(part)
        return "/".join(at)

    def _imply(self, relative: str) -> None:
        os.mkdir(self.path(relative), 0o755)
        self._made.add(relative)
        self.implied.append(relative)

    def _remove(self, relative: str) -> None:
        """Take away what an earlier entry put here."""
        if relative in self._made:
            shutil.rmtree(self.path(relative))
            inner = relative + "/"
            self._made = {one for one in self._made if one != relative and not one.startswith(inner)}
            self._times = {k: v for k, v in self._times.items() if k != relative and not k.startswith(inner)}
            self._opaque = {one for one in self._opaque if one in self._made}
            self.implied = [one for one in self.implied if one in self._made]
            self._real = {"": ""}
            return
        self._marked.discard(relative)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(os.lstat(self.path(relative)).st_mode):
                self._real = {"": ""}  # names may have led through it
            os.unlink(self.path(relative))


def inside(name: str) -> str:
    """A name of the archive relative to the root. Raises Refused where it leads out."""
    if "\0" in name:
        raise Refused(f"{name!r} is no name of a file")
    clean = posixpath.normpath(name.lstrip("/")) if name.strip("/") else ""
    if clean == ".." or clean.startswith("../"):
        raise Refused(f"{name!r} leads out of the image")
    return "" if clean == "." else clean


def is_kept(attribute: str) -> bool:
    """Whether a layer may have this extended attribute: trusted.* and user.overlay.* change how layers are stacked."""
    return attribute.startswith(KEPT_XATTRS) and not attribute.startswith("user.overlay.")


def own(target: str | int, member: tarfile.TarInfo) -> None:
    try:
        if isinstance(target, int):
            os.fchown(target, member.uid, member.gid)
        else:
            os.chown(target, member.uid, member.gid, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):  # an owner that this user namespace does not have
            raise


def finish_node(path: str, member: tarfile.TarInfo) -> None:
    own(path, member)
    os.chmod(path, member.mode & 0o7777)
    os.utime(path, (member.mtime, member.mtime))


class Pieces:
    """A file that is read from an iterator of bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]


def inflated(source: IO[bytes]) -> Iterator[bytes]:
    """The content of a gzip file of any number of members."""
    data = source.read(BLOCK)
    while data:
        member = zlib.decompressobj(31)
        while not member.eof:
            if not data:
                raise Corrupt("the compressed data ends too early")
            try:
                yield member.decompress(data)
            except zlib.error as error:
                raise Corrupt(f"the compressed data is damaged ({error})") from None
            data = member.unused_data or source.read(BLOCK)
        if data and not data.strip(b"\0"):
            return


@contextlib.contextmanager
def opened(blob: str) -> Iterator[Any]:
    """The archive in a blob, whatever it is compressed with. Raises Corrupt when its end is not what it should be."""
    with open(blob, "rb", buffering=0) as file:  # a tool reads on from where we are
        magic = file.read(4)
        file.seek(0)
        tool = _tool(magic)
        if not tool:
            yield Pieces(inflated(file)) if magic[:2] == b"\x1f\x8b" else file
            return
        process = subprocess.Popen(tool, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        said: list[bytes] = []
        listener = threading.Thread(target=lambda pipe=process.stderr: said.append(pipe.read()))
        listener.start()
        try:
            yield process.stdout
            while process.stdout.read(BLOCK):
                pass
            if process.wait() != 0:
                raise Corrupt(f"{tool[0]}: {b''.join(said).decode(errors='replace').strip()[:300]}")
        finally:
            process.stdout.close()
            process.kill()
            process.wait()
            listener.join()
            process.stderr.close()


def is_compressed(magic: bytes) -> bool:
    """Whether a blob that begins so is gzip or zstd."""
    skippable = magic[1:] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F
    return magic[:2] == b"\x1f\x8b" or magic == b"\x28\xb5\x2f\xfd" or skippable


def _tool(magic: bytes) -> list[str]:
    if magic[:2] == b"\x1f\x8b":
        name = next((one for one in GZIP_TOOLS if shutil.which(one)), "")
        return [name, "-dc"] if name else []
    if is_compressed(magic):
        if shutil.which("zstd") is None:
            raise FileNotFoundError("zstd, which reads this image's layers, is not installed: apt-get install zstd")
        return ["zstd", "-dcq", "--long=31"]
    return []


def carry_out(unpacking: Unpacking, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """One entry; what the kernel refuses is the archive's mistake, unless the disk is the reason."""
    try:
        unpacking.entry(archive, member)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE):
            raise
        raise Refused(f"{member.name!r} cannot be made: {error.strerror}") from None


def unpack(blob: str, root: str) -> dict[str, Any]:
    """Unpack `blob` into the empty directory `root`. Raises Refused, Corrupt, OSError."""
    unpacking = Unpacking(root)
    with opened(blob) as source:
        hashed = Hashed(source)
        try:
            with tarfile.open(fileobj=hashed, mode="r|", bufsize=BLOCK, errorlevel=2) as archive:  # type: ignore[call-overload]
                for member in archive:
                    carry_out(unpacking, archive, member)
                    archive.members = []  # else all entries stay in memory
        except (tarfile.TarError, EOFError) as error:
            raise Corrupt(str(error)) from None
        while hashed.read(BLOCK):
            pass
    unpacking.finish()
    return {
        "digest": f"sha256:{hashed.digest.hexdigest()}",
        "files": unpacking.files,
        "bytes": unpacking.bytes,
        "implied": sorted(unpacking.implied),
    }


def explained(error: Refused | Corrupt | OSError) -> dict[str, Any]:
    """The answer for what went wrong."""
    if isinstance(error, Refused):
        return {"error": str(error), "reason": "refused"}
    if isinstance(error, Corrupt):
        return {"error": str(error), "reason": "corrupt"}
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error) if error.errno is None else f"{error.strerror}: {error.filename or 'a file of the layer'}"
    return {"error": text, "reason": "disk" if full else "tool"}


def main(arguments: list[str]) -> int:
    os.umask(0)
    try:
        answer = unpack(*arguments)
    except (Refused, Corrupt, OSError) as error:
        answer = explained(error)
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
