"""Images: named by a hash of their recipe, built once however many ask for them at the same time."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from intermodal.server.ids import canonical, content_id
from intermodal.server.ports import WorkersPort
from intermodal.server.services.build_logs import BuildLogs
from intermodal.server.services.secrets import Secrets
from intermodal.server.store.images import ImageRow, ImageStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import BuildLog, ImageBuilt, mounts_of

Version = Callable[[str], Awaitable[str]]  # the builder version that is asked for, or the workspace's

LOG_LIMIT = 10_000  # lines of a build that are kept for those who join it late or read slowly
MAX_STEPS = 500
PINNED = ("debian_slim", "micromamba")  # bases that the builder version pins: only `force_build` makes them again
PASSING = ("force", "supplies")  # fields of a step that do not decide what comes of it


class Build:
    """A build under way: its log so far, and who follows it."""

    def __init__(self) -> None:
        self.lines: deque[BuildLog] = deque()
        self.first = 0  # number of lines that were dropped
        self.followers = 0
        self.task: asyncio.Task[ImageBuilt] | None = None
        self._changed: asyncio.Future[None] | None = None

    def add(self, line: BuildLog) -> None:
        self.lines.append(line)
        if len(self.lines) > LOG_LIMIT:
            self.lines.popleft()
            self.first += 1
        self.wake()

    def wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def follow(self) -> AsyncIterator[BuildLog]:
        """All lines from the first one that is still there, until the build has ended."""
        assert self.task is not None
        at = self.first
        while True:
            at = max(at, self.first)
            while at < self.first + len(self.lines):
                yield self.lines[at - self.first]
                at = max(at + 1, self.first)
            if self.task.done():
                return
            if self._changed is None or self._changed.done():
                self._changed = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._changed])  # a follower that is cancelled must not cancel what the others wait for


class Images:
    def __init__(
        self, store: ImageStore, secrets: Secrets, workers: WorkersPort, layers: Path, logs: BuildLogs, version: Version
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._workers = workers
        self._layers = layers  # the worker's, where it is of this machine
        self._logs = logs
        self._version = version
        self._builds: dict[str, Build] = {}

    async def resolve(self, recipe: list[dict[str, Any]], builder_version: str = "") -> list[dict[str, Any]]:
        """The recipe from its base on, with the builder version that decides what the base has.

        One that begins with an image that exists goes on where that image's recipe ends. Fault: invalid, not-found.
        """
        check_recipe(recipe)
        first = recipe[0]
        if first["kind"] == "image":
            image_id = str(first.get("image_id", ""))
            row = await self._store.get(image_id)
            if row is None:
                raise Fault(Code.NOT_FOUND, f"there is no image {image_id}")
            return [*row.recipe, *recipe[1:]]
        version = await self._version(builder_version)
        return [{**first, "builder_version": version}, *recipe[1:]]

    @property
    def building(self) -> bool:
        """Whether a build is under way."""
        return bool(self._builds)

    async def known(self, recipe: list[dict[str, Any]], force: bool) -> ImageBuilt | None:
        """The image of a (resolved) recipe where nothing has to be done for it."""
        if force or any(step.get("force") for step in recipe):
            return None
        row = await self._store.get(image_id_of(recipe))
        if row is None or not self._whole(row):
            return None
        await self._store.used(row)
        return ImageBuilt(row.image_id, True, row.config.python_version, 0.0)

    def build(self, recipe: list[dict[str, Any]], ignore_cache: bool, force: bool, environment: str) -> Build:
        """The build of a recipe, begun or joined. `environment` is for functions that it runs.

        Call `leave` in the end.
        """
        image_id = image_id_of(recipe)
        build = self._builds.get(image_id)
        if build is None:
            build = self._builds[image_id] = Build()
            build.task = asyncio.create_task(self._run(image_id, recipe, ignore_cache, force, environment, build))
            build.task.add_done_callback(lambda _done: self._over(image_id, build))
        build.followers += 1
        return build

    def leave(self, build: Build) -> None:
        """A follower is gone; the last one to leave ends the build."""
        build.followers -= 1
        if not build.followers and build.task is not None and not build.task.done():
            build.task.cancel()

    async def get(self, image_id: str) -> ImageBuilt:
        """Fault: not-found."""
        row = await self._store.get(image_id)
        if row is None:
            raise Fault(Code.NOT_FOUND, f"there is no image {image_id}")
        return ImageBuilt(image_id, True, row.config.python_version, row.seconds)

    async def all(self) -> list[ImageRow]:
        """Most recently used first."""
        return await self._store.all()

    async def forget(self, image_ids: list[str]) -> None:
        await self._store.delete(image_ids)

    async def _run(
        self,
        image_id: str,
        recipe: list[dict[str, Any]],
        ignore_cache: bool,
        force: bool,
        environment: str,
        build: Build,
    ) -> ImageBuilt:
        mounts = set(mounts_of(recipe))
        missing = mounts - await self._store.known_mounts(mounts) if mounts else set()
        if missing:
            raise Fault(Code.NOT_FOUND, f"there is no mount {min(missing)}: upload it first")
        secret_ids = sorted(_secrets_of(recipe))
        secrets = await self._secrets.values(secret_ids)
        steps = [step if step["kind"] in PINNED else {**step, "force": True} for step in recipe] if force else recipe
        try:
            built = await self._workers.build_image(image_id, steps, secrets, ignore_cache, build.add, environment)
        except Fault as fault:
            await self._logs.keep(image_id, build.lines, fault.text)
            raise
        await self._logs.keep(image_id, build.lines)
        kept = [{name: value for name, value in step.items() if name != "force"} for step in recipe]
        await self._store.put(image_id, kept, built.config, built.seconds)
        return ImageBuilt(image_id, built.cached, built.config.python_version, built.seconds)

    def _over(self, image_id: str, build: Build) -> None:
        if self._builds.get(image_id) is build:
            del self._builds[image_id]
        assert build.task is not None
        if not build.task.cancelled():
            build.task.exception()  # each follower hears of it; nobody may be left
        build.wake()

    def _whole(self, row: ImageRow) -> bool:
        """Whether its layers are still there, as far as this machine can tell."""
        if not self._layers.is_dir():
            return True
        return all(os.path.exists(self._layers / layer) for layer in row.config.layers)


def _secrets_of(recipe: list[dict[str, Any]]) -> set[str]:
    """Those of steps, and of the buckets that functions have."""
    found = {str(secret_id) for step in recipe for secret_id in step.get("secrets", ())}
    for step in recipe:
        supplies = step.get("supplies")
        for volume in supplies.get("volumes") or () if isinstance(supplies, dict) else ():
            if isinstance(volume, list) and len(volume) > 2 and volume[1] == "bucket" and volume[2]:
                found.add(str(volume[2]))
    return found


def check_recipe(recipe: list[dict[str, Any]]) -> None:
    """Fault(invalid) for what cannot be a recipe; the worker checks each step's fields."""
    if not recipe:
        raise Fault(Code.INVALID, "an image recipe needs a base step")
    if len(recipe) > MAX_STEPS:
        raise Fault(Code.INVALID, f"an image has at most {MAX_STEPS} steps, not {len(recipe)}")
    for number, step in enumerate(recipe):
        if not isinstance(step.get("kind"), str):
            raise Fault(Code.INVALID, f"step {number + 1} of the image recipe has no kind")
        secrets = step.get("secrets", [])
        if not isinstance(secrets, list):
            raise Fault(Code.INVALID, f"step {number + 1} of the image recipe: secrets must be a list")


def apart(recipe: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same steps under an id of its own: an image that is built beside the one that is cached."""
    return [*recipe[:-1], {**recipe[-1], "apart": os.urandom(8).hex()}]


def image_id_of(recipe: list[dict[str, Any]]) -> str:
    """`im-` and a hash of the recipe. What a step is carried out with is no part of what the image is."""
    return content_id("im", canonical([{k: v for k, v in step.items() if k not in PASSING} for step in recipe]))
