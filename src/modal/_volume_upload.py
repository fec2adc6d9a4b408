"""Uploads to a volume: what shall go up, from where to where. All of it becomes one new version."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Any, BinaryIO, FrozenSet, Iterator, List, Optional, Tuple, Union

from modal import _sync
from modal._protocol.messages.volume import DIRECTORY, SYMLINK, Entry
from modal._protocol.messages.volume import VolumeUpload as VolumeUploadRequest
from modal._volume_transfer import Source, Transfer, send_entries
from modal.exception import InvalidError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from modal._client import Client
    from modal._transfer import Report


class VolumeUpload:
    """What `Volume.batch_upload()` gives: says what shall be uploaded; the block's end does it."""

    def __init__(self, force: bool) -> None:
        self._force = force
        self._sources: List[Source] = []
        self._others: List[Entry] = []  # directories and links
        self._report: Optional[Report] = None
        self._over = False

    def put_file(
        self,
        local_file: Union[Path, str, BinaryIO],
        remote_path: Union[PurePosixPath, str],
        mode: Optional[int] = None,
    ) -> None:
        """Upload a file from a local file or file-like object. `mode`: its permissions, else those of the local file.

        A remote path that ends with `/` is a directory, into which the file goes under its own name. Raises
        InvalidError, FileNotFoundError.
        """
        self._check_open()
        remote = _remote(remote_path)
        if mode is not None and (isinstance(mode, bool) or not isinstance(mode, int)):
            raise InvalidError(f"put_file: mode must be a number such as 0o644, not {mode!r}.")
        if isinstance(local_file, (str, os.PathLike)):
            local = os.path.abspath(os.path.expanduser(os.fspath(local_file)))
            if os.path.isdir(local):
                raise InvalidError(f"put_file: {local} is a directory. Use put_directory.")
            if str(remote_path).endswith("/"):
                remote = f"{remote}/{os.path.basename(local)}".lstrip("/")
            if not remote:
                raise InvalidError(
                    f"put_file: {str(remote_path)!r} has no name for the file. Use '/{os.path.basename(local)}'."
                )
            self._add_file(local, remote, mode)
            return
        if not hasattr(local_file, "read"):
            raise InvalidError(f"put_file: a path or a binary file is needed, not {type(local_file).__name__}.")
        content: Any = local_file.read()
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise InvalidError("put_file: the file object must be binary (opened with 'rb', or an io.BytesIO).")
        if not remote or str(remote_path).endswith("/"):
            raise InvalidError(f"put_file: a file object needs a path with a file's name, not {str(remote_path)!r}.")
        data = bytes(content)
        permissions = 0o644 if mode is None else mode & 0o7777
        self._sources.append(Source(remote, "", data, permissions, time.time_ns(), len(data)))

    def put_directory(
        self,
        local_path: Union[Path, str],
        remote_path: Union[PurePosixPath, str],
        recursive: bool = True,
    ) -> None:
        """Upload all files of a local directory, and (unless `recursive` is False) of those below it.

        Links to files and directories outside of it are followed; those that lead to a place inside stay links.
        Raises InvalidError, FileNotFoundError.
        """
        self._check_open()
        local = os.path.abspath(os.path.expanduser(os.fspath(local_path)))
        if not os.path.exists(local):
            raise FileNotFoundError(f"put_directory: there is no directory {local}.")
        if not os.path.isdir(local):
            raise InvalidError(f"put_directory: {local} is a file. Use put_file.")
        remote = _remote(remote_path)
        if remote:
            self._others.append(_directory(remote, os.stat(local)))
        root = os.path.realpath(local)
        for relative, entry, target in _walk(local, root, "", recursive, frozenset((root,))):
            whole = f"{remote}/{relative}" if remote else relative
            if target is not None:
                mtime = entry.stat(follow_symlinks=False).st_mtime_ns
                self._others.append(Entry(whole, SYMLINK, 0o777, 0, 0, mtime, len(target), target))
            elif entry.is_dir():
                self._others.append(_directory(whole, entry.stat()))
            else:
                self._add_file(entry.path, whole, None)

    def _add_file(self, local: str, remote: str, mode: Optional[int]) -> None:
        try:
            status = os.stat(local)
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {local} to upload.") from None
        if not stat.S_ISREG(status.st_mode):
            raise InvalidError(f"{local} is no plain file: only files and directories can be uploaded.")
        permissions = stat.S_IMODE(status.st_mode) if mode is None else mode & 0o7777
        self._sources.append(Source(remote, local, b"", permissions, status.st_mtime_ns, status.st_size))

    def totals(self) -> Tuple[int, int]:
        """How many files, and how many bytes."""
        return len(self._sources), sum(source.size for source in self._sources)

    def _check_open(self) -> None:
        if self._over:
            raise InvalidError("This batch was uploaded when its `with` block ended: begin another batch_upload().")

    async def _send(self, client: Client, volume_id: str) -> None:
        self._over = True
        if not self._sources and not self._others:
            return
        transfer = Transfer(client, self._sources, self._report)
        await _sync.call_blocking(self._send_blocking, client, volume_id, transfer)

    def _send_blocking(self, client: Client, volume_id: str, transfer: Transfer) -> None:
        entries = transfer.run()
        request = VolumeUploadRequest(volume_id, self._force, os.urandom(12).hex())
        try:
            _sync.run(send_entries(client, request, entries + self._others))
        except NotFoundError as error:
            if "sent again" not in str(error):
                raise
            entries = transfer.run()  # the server has tidied up in between
            _sync.run(send_entries(client, request, entries + self._others))


def _directory(remote: str, status: os.stat_result) -> Entry:
    return Entry(remote, DIRECTORY, stat.S_IMODE(status.st_mode) | 0o700, 0, 0, status.st_mtime_ns, 0, "")


def _remote(path: Any) -> str:
    """A remote path as entries have it. Raises InvalidError."""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidError(f"A path in a volume is a string, not {type(path).__name__}.")
    text = str(path)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidError(f"The remote path {text!r} leads out of the volume: leave out the '..'.")
    if "\0" in text:
        raise InvalidError(f"{text!r} is no path.")
    return "/".join(parts)


def _walk(
    directory: str, root: str, prefix: str, recursive: bool, above: FrozenSet[str]
) -> Iterator[Tuple[str, os.DirEntry[str], Optional[str]]]:
    """(relative path, entry, target of a link that stays one) of all that is in a directory, and below it.

    What is neither file nor directory is left out, and so is a link to a directory above itself.
    """
    try:
        found = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except PermissionError:
        raise InvalidError(f"{directory} cannot be read: no permission.") from None
    for entry in found:
        relative = prefix + entry.name
        target = _inner_link(entry.path, root) if entry.is_symlink() else None
        if target is not None:
            yield relative, entry, target
        elif entry.is_file():
            yield relative, entry, None
        elif recursive and entry.is_dir():
            here = os.path.realpath(entry.path)
            if here not in above:
                yield relative, entry, None
                yield from _walk(entry.path, root, relative + "/", recursive, above | {here})


def _inner_link(path: str, root: str) -> Optional[str]:
    """The target of a relative link that stays below `root`; of one that leads nowhere, too. None for others."""
    target = os.readlink(path)
    if not os.path.exists(path):
        return target
    leads = os.path.realpath(path)
    if os.path.isabs(target) or not (leads + "/").startswith(root + "/"):
        return None
    return target
