"""Versions of volumes as trees that overlays can have below them.

`checkouts/<volume id>/<from>-<to>-<entries>` is one layer: what turns version `from` into version `to`, made of hard
links into the object store, with overlayfs's marks for what was removed. `0-…` is a whole tree. A version is a chain of
layers; a new one costs what has changed. Layers are joined so that each is more than twice as large as the next: there
are few of them, and a change is rewritten a logarithmic number of times.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

from intermodal.boots import changed_since
from intermodal.contents import Contents, apply_attributes
from intermodal.disk import disk_fault
from intermodal.worker.containers.overlay import remove_tree
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import DIRECTORY, FILE, REMOVED, SYMLINK, Entry

log = logging.getLogger("intermodal.volumes")

MAX_LAYERS = 12
MAX_PATH = 4095  # bytes, of what a system call takes
EMPTY = "empty"  # what stands for version 0
_LAYER = re.compile(r"(\d+)-(\d+)-(\d+)\Z")
_numbers = itertools.count()

Changed = Callable[[str, int], Awaitable[tuple[int, int, list[Entry]]]]  # volume id, since -> newest, base, changes


class Layer(NamedTuple):
    base: int
    version: int
    entries: int

    @property
    def name(self) -> str:
        return f"{self.base}-{self.version}-{self.entries}"


class Checkout(NamedTuple):
    """One version, to be mounted: layers, lowest first."""

    volume_id: str
    version: int
    layers: list[Path]


class Checkouts:
    """All trees on this machine. `changed` asks the server what a newer version differs in."""

    def __init__(self, directory: Path, objects: Contents, executor: Executor, changed: Changed) -> None:
        self._directory = directory
        self._objects = objects
        self._executor = executor
        self._changed = changed
        self._chains: dict[str, list[Layer]] = {}
        self._users: Counter[Path] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._joining: set[asyncio.Task[None]] = set()

    def open(self, suspect: float | None = None) -> None:
        """Blocking: find what an earlier worker has left. `suspect`: what is newer may be half (see `boots`)."""
        (self._directory / EMPTY).mkdir(parents=True, exist_ok=True)
        for place in self._directory.iterdir():
            if place.name == EMPTY or not place.is_dir():
                continue
            if suspect is not None:
                for path in place.iterdir():
                    if changed_since(path, suspect):
                        remove_tree(path)
            layers = [
                Layer(*map(int, found.groups())) for path in place.iterdir() if (found := _LAYER.match(path.name))
            ]
            for path in place.iterdir():
                if not _LAYER.match(path.name):
                    remove_tree(path)
            self._chains[place.name] = _longest_chain(layers)

    def keep(self, layers: list[Path]) -> None:
        """They are mounted."""
        self._users.update(layers)

    def release(self, layers: list[Path]) -> None:
        """They are mounted no more."""
        self._users.subtract(layers)
        for volume_id in {layer.parent.name for layer in layers if layer.name != EMPTY}:
            if not self._lock(volume_id).locked():  # else whoever makes layers now tidies up afterwards
                self._tidy(volume_id)

    async def get(self, volume_id: str, at_least: int = -1) -> Checkout:
        """The newest version (or one that is not older than `at_least`), kept until `release`. Fault: not-found."""
        async with self._lock(volume_id):
            chain = self._chains.setdefault(volume_id, [])
            have = chain[-1].version if chain else 0
            if not 0 <= at_least <= have:
                chain = await self._advance(volume_id, chain, have)
            place = self._directory / volume_id
            layers = [place / layer.name for layer in chain] or [self._directory / EMPTY]
            self.keep(layers)
            self._tidy(volume_id)
        if not self._is_joined(chain):
            task = asyncio.get_running_loop().create_task(self._join(volume_id))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)
        return Checkout(volume_id, chain[-1].version if chain else 0, layers)

    async def prepare(self, volume_id: str) -> None:
        """Have the newest version ready."""
        checkout = await self.get(volume_id)
        self.release(checkout.layers)

    def forget(self, volume_id: str) -> None:
        """The volume is gone."""
        self._chains[volume_id] = []
        self._tidy(volume_id)

    async def close(self) -> None:
        for task in self._joining:
            task.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)

    # -- making layers
    async def _advance(self, volume_id: str, chain: list[Layer], have: int) -> list[Layer]:
        newest, base, changes = await self._changed(volume_id, have)
        if newest == have:
            return chain
        if base != have or newest < have:  # the history does not reach back so far
            chain = []
            if base:
                newest, base, changes = await self._changed(volume_id, 0)
        if not newest:
            made: list[Layer] = []
        else:
            made = [*chain, await self._build(volume_id, base, newest, changes)]
        self._chains[volume_id] = made
        return made

    def _lock(self, volume_id: str) -> asyncio.Lock:
        return self._locks.setdefault(volume_id, asyncio.Lock())

    async def _build(self, volume_id: str, base: int, version: int, changes: list[Entry]) -> Layer:
        layer = Layer(base, version, len(changes))
        target = self._directory / volume_id / layer.name
        await asyncio.get_running_loop().run_in_executor(self._executor, self._make, target, changes, base > 0)
        return layer

    def _make(self, target: Path, changes: list[Entry], over_another: bool) -> None:
        if target.exists():
            return
        temporary = target.with_name(f".new-{os.getpid()}-{next(_numbers)}")
        try:
            temporary.mkdir(parents=True)
            build_layer(str(temporary), changes, self._objects, over_another)
            temporary.rename(target)
        except OSError as error:
            remove_tree(temporary)
            raise disk_fault(error, target) from error
        except BaseException:
            remove_tree(temporary)
            raise

    # -- joining layers
    @staticmethod
    def _is_joined(chain: list[Layer]) -> bool:
        return all(upper.entries * 2 < lower.entries for lower, upper in itertools.pairwise(chain)) and (
            len(chain) <= MAX_LAYERS
        )

    async def _join(self, volume_id: str) -> None:
        """In the background: replace the topmost layers by one, until each is much larger than the next."""
        try:
            async with self._lock(volume_id):
                chain = self._chains.get(volume_id, [])
                while len(chain) > 1 and not self._is_joined(chain):
                    start = len(chain) - 2
                    while start > 0 and chain[start].entries * 2 >= chain[start - 1].entries:
                        start -= 1
                    base = chain[start].base
                    newest, real, changes = await self._changed(volume_id, base)
                    if real != base or newest < chain[-1].version:
                        return
                    chain = [*chain[:start], await self._build(volume_id, base, newest, changes)]
                    self._chains[volume_id] = chain
                self._tidy(volume_id)
        except Fault as fault:
            if fault.code == Code.NOT_FOUND:
                self.forget(volume_id)
            else:
                log.info("layers of %s were not joined: %s", volume_id, fault)

    def _tidy(self, volume_id: str) -> None:
        """Remove layers that are neither used nor part of the newest version."""
        place = self._directory / volume_id
        wanted = {layer.name for layer in self._chains.get(volume_id, [])}
        doomed = []
        try:
            for path in place.iterdir():
                if _LAYER.match(path.name) and path.name not in wanted and self._users[path] <= 0:
                    self._users.pop(path, None)
                    gone = path.with_name(f".old-{os.getpid()}-{next(_numbers)}")
                    path.rename(gone)
                    doomed.append(gone)
            if not wanted and not any(_LAYER.match(path.name) for path in place.iterdir()):
                doomed.append(place)
                self._chains.pop(volume_id, None)
        except FileNotFoundError:
            return
        for path in doomed:
            self._executor.submit(remove_tree, path)


def build_layer(root: str, changes: list[Entry], objects: Contents, over_another: bool) -> None:
    """Blocking: make a tree of these entries, parents first. Raises OSError, Fault (a content is missing)."""
    with _Places(root) as places:
        hidden = ""  # below this path nothing can be any more
        directories: list[Entry] = []
        for entry in changes:
            if hidden and entry.path.startswith(hidden):
                continue
            target = places.of(entry.path)
            if entry.kind == DIRECTORY:
                os.mkdir(target, 0o700)
                directories.append(entry)
                continue
            hidden = entry.path + "/"
            if entry.kind == FILE:
                objects.link(entry, target)
            elif entry.kind == SYMLINK:
                os.symlink(entry.content, target)
                apply_attributes(target, entry)
            elif entry.kind == REMOVED and over_another:
                os.mknod(target, stat.S_IFCHR | 0o600, 0)
        for entry in reversed(directories):
            apply_attributes(places.of(entry.path), entry)


class _Places:
    """Where the entries of a tree lie. A path in a volume may be as long as the system takes one (4,095 bytes), and
    with ours before it, it would be longer: then an open directory on the way stands for its beginning."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._above = ""  # a directory of the tree, or "" for none, that `_fd` is
        self._fd = -1

    def of(self, path: str) -> str:
        """As a path that system calls take, until the next one is asked for."""
        whole = f"{self._root}/{path}"
        if len(whole) * 4 < MAX_PATH or len(os.fsencode(whole)) <= MAX_PATH:
            return whole
        if not self._above or not path.startswith(self._above + "/"):
            self.close()
            middle = path.index("/", len(path) // 2) if "/" in path[len(path) // 2 :] else path.rindex("/")
            self._fd = os.open(f"{self._root}/{path[:middle]}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._above = path[:middle]
        return f"/proc/self/fd/{self._fd}/{path[len(self._above) + 1 :]}"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._above = -1, ""

    def __enter__(self) -> _Places:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.close()


def _longest_chain(layers: list[Layer]) -> list[Layer]:
    """The layers that lead furthest; of several ways to get there, the one with the fewest."""
    best: dict[int, list[Layer]] = {0: []}
    for layer in sorted(layers, key=lambda layer: (layer.version, -layer.base)):
        below = best.get(layer.base)
        if below is not None and layer.version > layer.base:
            known = best.get(layer.version)
            if known is None or len(below) + 1 < len(known):
                best[layer.version] = [*below, layer]
    return best[max(best)]
