"""Uploads to a volume: what shall go up, from where to where. All of it becomes one new version."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, BinaryIO, List, Optional, Tuple, Union

from modal import _sync
from modal._protocol.messages.volume import VolumeUpload as VolumeUploadRequest
from modal._upload_sources import Source, Sources, remote_place
from modal._volume_transfer import Transfer, send_entries
from modal.exception import InvalidError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from modal._client import Client
    from modal._transfer import Progress


class VolumeUpload:
    """What `Volume.batch_upload()` gives: says what shall be uploaded; the block's end does it."""

    def __init__(self, force: bool) -> None:
        self._force = force
        self._sources = Sources()
        self._progress: Optional[Progress] = None
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
        remote = remote_place(remote_path)
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
            self._sources.add_file(local, remote, mode)
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
        self._sources.files.append(Source(remote, "", data, permissions, time.time_ns(), len(data)))

    def put_directory(
        self,
        local_path: Union[Path, str],
        remote_path: Union[PurePosixPath, str],
        recursive: bool = True,
    ) -> None:
        """Upload all files of a local directory, and (unless `recursive` is False) those below it, empty ones too.

        Links to files and directories outside of it are followed; those that lead to a place inside stay links.
        Raises InvalidError, FileNotFoundError.
        """
        self._check_open()
        local = os.path.abspath(os.path.expanduser(os.fspath(local_path)))
        if not os.path.exists(local):
            raise FileNotFoundError(f"put_directory: there is no directory {local}.")
        if not os.path.isdir(local):
            raise InvalidError(f"put_directory: {local} is a file. Use put_file.")
        self._sources.add_directory(local, remote_place(remote_path), recursive)

    def totals(self) -> Tuple[int, int]:
        """How many files, and how many bytes."""
        return self._sources.totals()

    def left_out(self) -> List[str]:
        """Local paths of what is neither file nor directory, and was met in a directory."""
        return self._sources.left_out

    def _check_open(self) -> None:
        if self._over:
            raise InvalidError("This batch was uploaded when its `with` block ended: begin another batch_upload().")

    async def _send(self, client: Client, volume_id: str) -> None:
        self._over = True
        if not self._sources.files and not self._sources.others:
            return
        transfer = Transfer(client, self._sources.files, self._progress)
        await _sync.call_blocking(self._send_blocking, client, volume_id, transfer)

    def _send_blocking(self, client: Client, volume_id: str, transfer: Transfer) -> None:
        entries = transfer.run()
        request = VolumeUploadRequest(volume_id, self._force, os.urandom(12).hex())
        try:
            _sync.run(send_entries(client, request, entries + self._sources.others))
        except NotFoundError as error:
            if "sent again" not in str(error):
                raise
            entries = transfer.run()  # the server has tidied up in between
            _sync.run(send_entries(client, request, entries + self._sources.others))
