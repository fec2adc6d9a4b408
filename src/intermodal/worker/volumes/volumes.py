"""All volumes in the containers of this worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from intermodal.boots import tree_changed_since
from intermodal.contents import Contents
from intermodal.home import Home
from intermodal.worker.containers.launch import Bind, StartFailed
from intermodal.worker.containers.overlay import remove_tree
from intermodal.worker.containers.private_mounts import in_user_namespace
from intermodal.worker.volumes.checkouts import Checkouts
from intermodal.worker.volumes.mounted import Mounted
from modal._protocol import aio
from modal._protocol.errors import Code, Fault, WireError
from modal._protocol.messages.function import VolumeMount
from modal._protocol.messages.volume import (
    NETWORK_FILE_SYSTEM,
    VOLUME,
    Entry,
    VolumeChanges,
    VolumeCheckout,
    VolumeEntries,
    VolumeVersions,
    portions,
)

log = logging.getLogger("intermodal.volumes")

BACKGROUND_SECONDS = 5.0  # between commits while a function executes
LOOK_SECONDS = 1.0  # between looks at what is due
BACKGROUND_SHARE = 10.0  # and at least so many times what the last one took
LAST_COMMIT_SECONDS = 30.0  # that the end of a container waits for the server; after that it is committed later
RETRY_SECONDS = 30.0  # between attempts to commit what an ended container has left


class Volumes:
    """`attach` before a container starts, `finish` when it has ended; `commit` and `reload` in between."""

    def __init__(self, home: Home, connection: Callable[[], aio.Connection | None]) -> None:
        self._home = home
        self._connection = connection
        self._objects = Contents(home.volumes / "objects")
        self._executor = ThreadPoolExecutor(8, "volumes")
        self._checkouts = Checkouts(home.volumes / "checkouts", self._objects, self._executor, self._changed)
        self._mounts = home.volumes / "mounts"
        self._by_container: dict[str, list[Mounted]] = {}
        self._finishing: set[asyncio.Future[list[str]]] = set()
        self._left: list[Mounted] = []  # of ended containers, not committed yet
        self._rootless = in_user_namespace()
        self._inputs: dict[str, int] = {}  # container id -> inputs it had been given when it was last committed

    def open(self, suspect: float | None = None) -> None:
        """Blocking: find what earlier workers have left.

        `suspect`: the machine was down; what has changed since this time may be half (see `boots`).
        """
        self._objects.prepare()
        self._checkouts.open(suspect)
        self._mounts.mkdir(parents=True, exist_ok=True)
        for container in self._mounts.iterdir():
            found = []
            for place in sorted(container.iterdir()):
                one = self._new(place, container.name, VolumeMount("", VOLUME))
                if suspect is not None and not one.durable and tree_changed_since(place, suspect):
                    # Its files may be empty where their names are there: they must not take the place of good ones.
                    log.warning(
                        "the machine went down while container %s had a volume: what it had not committed is lost",
                        container.name,
                    )
                    remove_tree(place)
                elif one.recall():
                    found.append(one)
                else:
                    remove_tree(place)
            if found:
                self._by_container[container.name] = found
            else:
                remove_tree(container)

    async def close(self) -> None:
        await self._checkouts.close()
        self._executor.shutdown()

    # -- containers
    async def attach(self, container_id: str, volumes: Iterable[VolumeMount]) -> list[Bind]:
        """What a container with these volumes has to be started with. Raises Fault, StartFailed.

        `finish` must follow, whether it starts or not.
        """
        mounts = sorted(volumes, key=lambda one: one.path)
        wanted = [one for one in mounts if one.kind in (VOLUME, NETWORK_FILE_SYSTEM)]
        binds = []
        for number, volume in enumerate(wanted):
            if volume.kind == NETWORK_FILE_SYSTEM:
                binds.append(Bind(self._network_directory(volume), volume.path, volume.read_only))
                continue
            one = self._new(self._mounts / container_id / str(number), container_id, volume)
            self._by_container.setdefault(container_id, []).append(one)
            await one.mount(int(volume.options.get("version", -1)))
            one.due = time.monotonic() + BACKGROUND_SECONDS
            binds.append(Bind(one.root, volume.path, volume.read_only))
        return binds

    def _network_directory(self, volume: VolumeMount) -> Path:
        directory = self._home.network_files / volume.object_id
        if not directory.is_dir():
            raise StartFailed(
                f"the network file system {volume.object_id} (for {volume.path}) is not on this machine: it was "
                "deleted, or belongs to another worker"
            )
        return directory

    def _new(self, directory: Path, container_id: str, volume: VolumeMount) -> Mounted:
        return Mounted(
            directory, container_id, volume.object_id, volume.path, volume.read_only,
            self._checkouts, self._objects, self._executor, self._send, self._rootless,
        )  # fmt: skip

    def has(self, container_id: str) -> bool:
        """Whether the container has volumes."""
        return container_id in self._by_container

    async def finish(self, container_id: str) -> list[str]:
        """The container has ended: commit what it has left. What could not be committed, in words for its logs."""
        finishing = asyncio.ensure_future(self._finish(container_id))
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)
        return await finishing

    async def _finish(self, container_id: str) -> list[str]:
        problems = []
        mounted = self._by_container.pop(container_id, [])
        self._left += mounted
        for one in mounted:
            try:
                async with asyncio.timeout(LAST_COMMIT_SECONDS):
                    problem = await self._settle(one)
            except TimeoutError:
                problem = "the server does not answer"
            if problem:
                await self._make_durable(one)
                problems.append(
                    f"the last changes of the volume at {one.target} are not committed yet ({problem}); "
                    "they are kept, and it is tried again"
                )
        self._inputs.pop(container_id, None)
        return problems

    async def _make_durable(self, one: Mounted) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, one.make_durable)
        except OSError as error:  # it has just been committed, say
            log.warning("%s: its volume at %s may not survive a loss of power: %s", one.container_id, one.target, error)

    async def settled(self) -> None:
        """Return when the last commits of containers that have ended are done, or have failed."""
        while self._finishing:
            await asyncio.wait(self._finishing)

    async def _settle(self, one: Mounted) -> str:
        """Commit what an ended container has left, and remove its files; else why not."""
        try:
            await one.commit()
        except Fault as fault:
            if fault.code != Code.NOT_FOUND:
                return fault.text
            log.warning("%s: %s", one.container_id, fault.text)
        except WireError as error:
            return str(error) or "the server is away"
        except Exception as error:  # the disk's, say: the other containers' volumes are not to suffer
            log.exception("%s: its volume at %s could not be committed", one.container_id, one.target)
            return str(error) or type(error).__name__
        if one in self._left:
            self._left.remove(one)
            try:
                await one.close()
            except OSError as error:
                log.warning("%s: what was its volume at %s stays: %s", one.container_id, one.target, error)
        return ""

    async def restore(self, container_id: str, pid: int) -> None:
        """The container was adopted from an earlier worker."""
        for one in self._by_container.get(container_id, []):
            try:
                await one.restore(pid)
            except (OSError, StartFailed) as error:
                log.warning("%s: its volume at %s: %s", container_id, one.target, error)

    def disown(self, running: set[str]) -> None:
        """Whatever is not in one of these containers was left by one that is gone."""
        for container_id in self._by_container.keys() - running:
            self._left += self._by_container.pop(container_id)

    # -- what containers ask for
    async def commit(self, container_id: str, volume_id: str) -> None:
        """Faults: execution (not mounted), and those of a commit."""
        for one in self._find(container_id, volume_id):
            await one.commit()

    async def reload(self, container_id: str, volume_id: str, pid: int) -> None:
        """Faults: execution (not mounted, busy), and those of a commit."""
        found = self._find(container_id, volume_id)
        if len(found) > 1:  # each mount is to see what was written to the others
            for one in found:
                await one.commit()
        for one in found:
            below = one.target.rstrip("/") + "/"
            nested = [other for other in self._by_container[container_id] if other.target.startswith(below)]
            await one.reload(pid, sorted(nested, key=lambda other: other.target))

    def _find(self, container_id: str, volume_id: str) -> list[Mounted]:
        found = [one for one in self._by_container.get(container_id, []) if one.volume_id == volume_id]
        if not found:
            raise Fault(Code.EXECUTION, f"the volume {volume_id} is not mounted in this container")
        return found

    async def prepare(self, volume_id: str) -> None:
        """It has changed, and may be mounted soon: have the newest version ready."""
        try:
            await self._checkouts.prepare(volume_id)
        except Fault as fault:
            if fault.code == Code.NOT_FOUND:
                self._checkouts.forget(volume_id)

    # -- in the background
    async def keep_committed(
        self, activity: Callable[[], dict[str, tuple[bool, int]]], tell: Callable[[str, str], None]
    ) -> None:
        """Until cancelled: commit now and then what executing containers change, and what ended ones have left.

        `activity` says of each container whether it executes, and how many inputs it has been given: one that has
        executed since its last commit gets one more. `tell(container id, text)` puts a line into its logs.
        """
        retry = 0.0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            for container_id, (executes, inputs) in activity().items():
                mounted = self._by_container.get(container_id, [])
                due = [one for one in mounted if one.due <= now and not one.read_only]
                if due and (executes or inputs != self._inputs.get(container_id)):
                    self._inputs[container_id] = inputs if not executes else -1
                    for one in due:
                        await self._commit_in_background(one, tell)
            if self._left and now >= retry and self._connection() is not None:
                for one in list(self._left):
                    problem = await self._settle(one)
                    if problem:
                        log.warning("%s: its volume at %s: %s", one.container_id, one.target, problem)
                        retry = time.monotonic() + RETRY_SECONDS

    async def _commit_in_background(self, one: Mounted, tell: Callable[[str, str], None]) -> None:
        try:
            await one.commit()
            one.full = False
        except (Fault, WireError) as error:
            if isinstance(error, Fault) and error.code == Code.EXHAUSTED and not one.full:
                one.full = True  # said once: the program may make room, or end
                tell(
                    one.container_id,
                    f"what was written to the volume at {one.target} is not committed: {error.text}. It is tried again",
                )
            log.warning("%s: the volume at %s was not committed: %s", one.container_id, one.target, error)
        except Exception:  # the other containers' volumes are not to suffer
            log.exception("%s: the volume at %s was not committed", one.container_id, one.target)
        one.due = time.monotonic() + max(BACKGROUND_SECONDS, BACKGROUND_SHARE * one.took)

    # -- the server
    def _link(self) -> aio.Connection:
        connection = self._connection()
        if connection is None:
            raise Fault(Code.INTERNAL, "the server is away")
        return connection

    async def _changed(self, volume_id: str, since: int) -> tuple[int, int, list[Entry]]:
        try:
            stream = self._link().open(VolumeCheckout(volume_id, since))
            stream.end()
            entries: list[Entry] = []
            async for item in stream:
                if isinstance(item, VolumeEntries):
                    entries += [Entry(*values) for values in item.entries]
        except WireError as error:
            raise Fault(Code.INTERNAL, f"the server went away: {error}") from error
        answer = stream.response
        if not isinstance(answer, VolumeVersions):
            raise Fault(Code.INTERNAL, f"the server did not say what is in {volume_id}")
        return answer.versions[0].version, answer.base, entries

    async def _send(self, volume_id: str, container_id: str, changes: list[Entry]) -> None:
        try:
            stream = self._link().open(VolumeChanges(volume_id, container_id))
            for part in portions(changes):
                await stream.send(VolumeEntries(part))
            stream.end()
            async for _item in stream:
                continue
        except WireError as error:
            raise Fault(Code.INTERNAL, f"the server went away: {error}") from error
        if not isinstance(stream.response, VolumeVersions):
            raise Fault(Code.INTERNAL, f"the server did not say whether {volume_id} is committed")
