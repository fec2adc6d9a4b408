"""One volume in one container.

Below `mounts/<container id>/<number>/`: `note.json` (what a later worker must know), and for each generation (one more
with every reload) `memo-N.json` (what of it is committed), `upper-N`, `work-N` and `root-N`, where it is mounted on the
worker's side. A memo is of one generation: beside another upper directory it would say that all of it was removed. What
the container has written is in `upper-N` whatever happens to its process, the worker or the server.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from intermodal.contents import Contents
from intermodal.disk import disk_fault, sync, sync_file_system
from intermodal.worker.containers import kernel
from intermodal.worker.containers.launch import StartFailed
from intermodal.worker.containers.overlay import Overlay, remove_tree
from intermodal.worker.volumes import namespace
from intermodal.worker.volumes.checkouts import Checkouts
from intermodal.worker.volumes.scan import Memo, Scan, memo_from_json, memo_to_json
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import Entry

T = TypeVar("T")

# Renamed directories are noted, not copied. Everything else that may be on by default would change what `scan` reads.
OPTIONS = ",redirect_dir=on,index=off,metacopy=off"
ROOTLESS_OPTIONS = ",index=off"
DURABLE = "durable"  # a file that says: all beside it is on the disk

Commit = Callable[[str, str, list[Entry]], Awaitable[None]]  # volume id, container id, changes


class Mounted:
    """`await mount()`, then `commit` and `reload` as often as wanted, then `close`."""

    def __init__(
        self,
        directory: Path,
        container_id: str,
        volume_id: str,
        target: str,
        read_only: bool,
        checkouts: Checkouts,
        objects: Contents,
        executor: Executor,
        commit: Commit,
        rootless: bool,
    ) -> None:
        self.directory = directory
        self.container_id = container_id
        self.volume_id = volume_id
        self.target = target
        self.read_only = read_only
        self.version = 0
        self.layers: list[Path] = []
        self.generation = 0
        self.due = 0.0  # monotonic time of the next commit in the background
        self.full = False  # the last commit in the background found no room
        self.lock = asyncio.Lock()
        self._checkouts = checkouts
        self._objects = objects
        self._executor = executor
        self._commit = commit
        self._rootless = rootless
        self._memo: Memo = {}
        self._overlay: Overlay | None = None
        self._closed = False

    # -- files
    @property
    def upper(self) -> Path:
        return self.directory / f"upper-{self.generation}"

    @property
    def _memo_path(self) -> Path:
        return self.directory / f"memo-{self.generation}.json"

    @property
    def root(self) -> Path:
        """Where it is mounted on the worker's side."""
        return self.directory / f"root-{self.generation}"

    def _write_note(self) -> None:
        note = {
            "volume_id": self.volume_id,
            "target": self.target,
            "read_only": self.read_only,
            "version": self.version,
            "layers": [str(layer) for layer in self.layers],
            "generation": self.generation,
        }
        _write_json(self.directory / "note.json", note)

    def recall(self) -> bool:
        """Blocking: what an earlier worker has written down; whether it has."""
        try:
            note = json.loads((self.directory / "note.json").read_text())
            self.volume_id, self.target = str(note["volume_id"]), str(note["target"])
            self.read_only, self.generation = bool(note["read_only"]), int(note["generation"])
            self.version, self.layers = int(note["version"]), [Path(layer) for layer in note["layers"]]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        earlier = self.directory / "memo.json"  # as workers of earlier versions called it
        try:
            if earlier.exists():
                earlier.rename(self._memo_path)
            self._memo = memo_from_json(json.loads(self._memo_path.read_text()))
        except (OSError, ValueError, TypeError, AttributeError):
            self._memo = {}
        self._checkouts.keep(self.layers)
        return True

    def make_durable(self) -> None:
        """Blocking: the container writes no more, and what it has written stays for longer: have it on the disk."""
        sync_file_system(self.directory)
        (self.directory / DURABLE).touch()
        sync(self.directory)

    @property
    def durable(self) -> bool:
        return (self.directory / DURABLE).exists()

    # -- mounting
    async def mount(self, version: int) -> None:
        """Mount the newest version, or one not older than `version`, on our side. Raises Fault, StartFailed."""
        checkout = await self._checkouts.get(self.volume_id, version)
        self.version, self.layers = checkout.version, checkout.layers
        await self._do(self._mount_here, True)

    def _mount_here(self, fresh: bool) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if fresh:
            self._write_note()
        flags = kernel.MS_NOSUID | (kernel.MS_RDONLY if self.read_only else 0)
        options = ROOTLESS_OPTIONS if self._rootless else OPTIONS
        work = self.directory / f"work-{self.generation}"
        if not fresh:  # a worker that is gone has it mounted: overlayfs wants a work directory for itself
            work = work.with_name(f"work-{self.generation}-{os.getpid()}")
        overlay = Overlay(self.layers, self.upper, work, self.root, options, flags)
        overlay.mount(userxattr=self._rootless)
        self._overlay = overlay

    async def restore(self, pid: int) -> None:
        """After a worker's restart: where its predecessor ended in the middle of a reload, finish that. Fault."""
        if not await self._do(namespace.is_mounted, pid, self.target):
            await self._do(self._mount_here, False)
            await self._do(namespace.attach, pid, str(self.root), self.target)

    # -- committing
    async def commit(self) -> bool:
        """Store what has changed since the last time; whether there was anything. Raises Fault."""
        if self.read_only:
            return False
        async with self.lock:
            return not self._closed and await self._commit_changes()

    async def _commit_changes(self) -> bool:
        began = time.monotonic()
        for attempt in range(2):
            scan = await self._do(self._scan)
            if not scan.changes:
                self._memo = scan.memo
                break
            await self._do(self._write_memo, scan.changes)
            try:
                await self._commit(self.volume_id, self.container_id, scan.changes)
            except Fault as fault:
                if fault.code == Code.NOT_FOUND and "sent again" in fault.text and attempt == 0:
                    self._memo = {}  # contents were collected in between: store them anew
                    continue
                raise
            self._memo = scan.memo
            break
        self.took = time.monotonic() - began
        return bool(scan.changes)

    took = 0.0  # seconds that the last commit needed

    def _scan(self) -> Scan:
        view = self.directory / "view"

        def merged() -> str:
            view.mkdir(exist_ok=True)
            lowers = ":".join(str(layer) for layer in (self.upper, *reversed(self.layers)))
            kernel.mount("overlay", str(view), "overlay", kernel.MS_RDONLY, f"lowerdir={lowers},redirect_dir=follow")
            return str(view)

        scan = Scan(str(self.upper), self._memo, self._objects, merged)
        try:
            scan.run()
        except OSError as error:
            raise disk_fault(error, self._objects.directory / "object") from error
        finally:
            if view.exists():
                try:
                    kernel.umount(str(view), kernel.MNT_DETACH)
                except OSError:
                    pass
                view.rmdir()
        return scan

    def _write_memo(self, pending: list[Entry]) -> None:
        try:
            _write_json(self._memo_path, memo_to_json(self._memo, pending))
        except OSError as error:
            raise disk_fault(error, self.directory) from error

    # -- reloading
    async def reload(self, pid: int, nested: list[Mounted]) -> None:
        """Commit, then show the container the newest version. `nested`: what is mounted below it, outermost first.

        Faults: execution where files are open; those of a commit. After a fault the container has what it had before.
        """
        async with self.lock:
            taken: list[Mounted] = []
            try:
                for one in [*reversed(nested), self]:
                    await self._detach(one, pid)
                    taken.append(one)
                await self._renew()
            except BaseException:
                for one in reversed(taken):
                    await self._do(one._attach, pid)
                raise
            for one in reversed(taken):
                await self._do(one._attach, pid)
            await self._do(self._forget_older)

    async def _detach(self, one: Mounted, pid: int) -> None:
        try:
            await self._do(namespace.detach, pid, one.target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise Fault(Code.INTERNAL, f"the volume at {one.target} cannot be unmounted: {error}") from error
            paths = await self._do(namespace.holders, pid, one.target)
            open_ = f": {', '.join(paths)}" if paths else ""
            raise Fault(
                Code.EXECUTION,
                f"volume busy: there are open files in the volume at {one.target}, so it cannot be reloaded{open_}. "
                "Close them (and leave its directories) before",
            ) from None

    async def _renew(self) -> None:
        """Commit, and mount the newest version on the worker's side."""
        if not self.read_only:
            await self._commit_changes()
        checkout = await self._checkouts.get(self.volume_id)
        before = self.layers, self.version, self.generation, self._overlay
        self.layers, self.version = checkout.layers, checkout.version
        self.generation += 1
        try:
            await self._do(self._mount_here, True)
        except BaseException:
            self._checkouts.release(checkout.layers)
            self.layers, self.version, self.generation, self._overlay = before
            await self._do(self._write_note)
            raise
        self._memo = {}
        self._checkouts.release(before[0])
        if before[3] is not None:
            await self._do(before[3].unmount)

    def _attach(self, pid: int) -> None:
        if self._overlay is None:  # adopted: only the container has it mounted
            self._mount_here(False)
        namespace.attach(pid, str(self.root), self.target)

    def _forget_older(self) -> None:
        for path in self.directory.iterdir():
            kind, _, number = path.name.partition("-")
            if kind in ("upper", "work", "root") and int(number.partition("-")[0]) < self.generation:
                remove_tree(path)
            elif kind == "memo" and path != self._memo_path:
                path.unlink()

    # -- the end
    async def close(self) -> None:
        """Unmount it and remove its files, committed or not."""
        self._closed = True  # a commit in the background may wait for its turn
        self._checkouts.release(self.layers)
        self.layers = []
        await self._do(self._close)

    def _close(self) -> None:
        if self._overlay is not None:
            self._overlay.unmount()
        # First what a later worker would go by: it must not find half a tree, and take the rest for removed.
        (self.directory / "note.json").unlink(missing_ok=True)
        remove_tree(self.directory)
        try:
            self.directory.parent.rmdir()
        except OSError:
            pass  # the container's other volumes

    async def _do(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)


__all__ = ["Mounted", "StartFailed"]
