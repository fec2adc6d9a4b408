"""The bucket mounts of this worker's containers.

A mount lies outside of its container's directory, so that whatever removes that can never remove what is in a bucket,
and is itself removed with `umount` and `rmdir` alone. Its process outlives the worker as the container does; the next
worker finds it by what is written down, and ends it with the container.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from intermodal.home import Home
from intermodal.worker.buckets import tool
from intermodal.worker.containers import kernel
from intermodal.worker.containers.launch import Bind, StartFailed
from intermodal.worker.containers.processes import Process
from modal._protocol.messages.function import VolumeMount

START_SECONDS = 30.0  # until the bucket can be listed
END_SECONDS = 10.0  # for uploads that a container's last moment has begun
KIND = "bucket"
_log = logging.getLogger(__name__)


class Buckets:
    def __init__(self, home: Home) -> None:
        self._root = home.path / "buckets"
        self._home = home
        self._children: list[subprocess.Popen[bytes]] = []

    async def attach(
        self,
        container_id: str,
        mounts: Iterable[VolumeMount],
        secrets: Mapping[str, Mapping[str, str]],
    ) -> list[Bind]:
        """Mount a container's buckets; `secrets`: by path. Raises StartFailed. `release` must follow in any case."""
        wanted = [mount for mount in mounts if mount.kind == KIND]
        if not wanted:
            return []
        program = tool.find()
        starts = [
            self._mount(program, self._root / container_id, number, mount, secrets.get(mount.path, {}))
            for number, mount in enumerate(wanted)
        ]
        results = await asyncio.gather(*starts, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, Bind)]

    async def release(self, container_id: str) -> None:
        """The container has ended, or did not start: unmount its buckets."""
        folder = self._root / container_id
        if folder.is_dir():
            await asyncio.to_thread(_remove, folder)
            self._children = [child for child in self._children if child.poll() is None]

    async def sweep(self, keep: set[str]) -> None:
        """Remove the mounts of all other containers."""
        if self._root.is_dir():
            for folder in list(self._root.iterdir()):
                if folder.name not in keep:
                    _log.info("unmounting the buckets of %s, which is no more", folder.name)
                    await asyncio.to_thread(_remove, folder)

    async def _mount(
        self, program: str, folder: Path, number: int, mount: VolumeMount, secret: Mapping[str, str]
    ) -> Bind:
        directory, log = folder / f"{number}", folder / f"{number}.log"
        words = tool.command(program, mount, str(directory))
        env = tool.environment(mount, secret, os.environ)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.mkdir(exist_ok=True)
        ready = _Ready(f"{self._home.path}/{folder.name}/{number}")
        try:
            child = await asyncio.to_thread(_spawn, words, {**env, "NOTIFY_SOCKET": ready.name}, log)
            self._children.append(child)
            process = Process.of(child.pid)
            note = {"pid": child.pid, "started": process.started if process is not None else 0}
            (folder / f"{number}.json").write_text(json.dumps(note))
            await asyncio.gather(
                self._until_ready(ready, child, mount, log, directory), _check(tool.probe(program, mount), mount, env)
            )
        finally:
            ready.close()
        return Bind(directory, mount.path, mount.read_only)

    async def _until_ready(
        self, ready: _Ready, child: subprocess.Popen[bytes], mount: VolumeMount, log: Path, directory: Path
    ) -> None:
        """Until it is mounted and can be listed. Raises StartFailed."""
        ended = asyncio.create_task(_ended(child.pid))
        told = asyncio.create_task(ready.wait())
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.wait([ended, told], return_when=asyncio.FIRST_COMPLETED)
                if not told.done():
                    raise StartFailed(tool.explain(mount, _read(log), f"rclone ended with {child.wait()}"))
                await asyncio.to_thread(_look, directory)
        except TimeoutError:
            child.kill()
            raise StartFailed(
                tool.explain(mount, _read(log), f"it could not be listed within {START_SECONDS:.0f} seconds")
            ) from None
        except OSError as error:
            raise StartFailed(tool.explain(mount, _read(log), f"it cannot be listed: {error.strerror}")) from None
        finally:
            told.cancel()
            ended.cancel()


async def _check(words: list[str], mount: VolumeMount, env: dict[str, str]) -> None:
    """Raises StartFailed where the bucket is not there or may not be listed: a mount alone does not say so."""
    child = await asyncio.create_subprocess_exec(
        *words, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(START_SECONDS):
            _out, said = await child.communicate()
    except TimeoutError:
        raise StartFailed(tool.explain(mount, "", "its endpoint does not answer in time")) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    refused = tool.refusal(said.decode(errors="replace"))
    if refused:
        raise StartFailed(tool.explain(mount, refused, "it cannot be listed"))


async def _ended(pid: int) -> None:
    """Until the process has ended."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    descriptor = os.pidfd_open(pid)
    try:
        loop.add_reader(descriptor, lambda: None if over.done() else over.set_result(None))
        await over
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


class _Ready:
    """Where a process says that it is ready, as services tell systemd."""

    def __init__(self, name: str) -> None:
        self.name = f"@intermodal-{hashlib.sha256(name.encode()).hexdigest()[:20]}-{os.getpid()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{self.name[1:]}")

    async def wait(self) -> None:
        while b"READY=1" not in await asyncio.get_running_loop().sock_recv(self._socket, 4096):
            continue

    def close(self) -> None:
        self._socket.close()


def _spawn(words: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own: it goes on when this process ends."""
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        return subprocess.Popen(
            words, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd="/"
        )


def _look(directory: Path) -> None:
    """Raises OSError where the bucket cannot be listed."""
    with os.scandir(directory) as entries:
        next(entries, None)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _remove(folder: Path) -> None:
    """Blocking: end the processes, unmount, and remove what is empty then. Never touches what is in a bucket."""
    for note in sorted(folder.glob("*.json")):
        _end(note)
        directory = folder / note.stem
        try:
            kernel.umount(str(directory), kernel.MNT_DETACH)
        except OSError:
            pass  # it has gone with its process, or was mounted by a worker before this one
        try:
            os.rmdir(directory)
        except OSError as error:
            _log.warning("%s is left: %s", directory, error)
            continue
        (folder / f"{note.stem}.log").unlink(missing_ok=True)
        note.unlink(missing_ok=True)
    for left in folder.iterdir():  # of a start that did not get far
        if left.is_dir():
            _remove_empty(left)
        else:
            left.unlink(missing_ok=True)
    _remove_empty(folder)


def _remove_empty(directory: Path) -> None:
    try:
        os.rmdir(directory)
    except OSError as error:
        _log.warning("%s is left: %s", directory, error)


def _end(note: Path) -> None:
    """The process that is written down there, if it is still that one: first with a chance to finish uploads."""
    try:
        said = json.loads(note.read_text())
        process = Process(int(said["pid"]), int(said["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return
    if not process.alive:
        return
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        os.kill(process.pid, signal.SIGTERM)
        if not select.select([descriptor], [], [], END_SECONDS)[0]:
            process.kill()
            select.select([descriptor], [], [], END_SECONDS)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
