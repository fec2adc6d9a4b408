"""The images of one worker: what is built, what is being built, and what containers need of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from intermodal.files import Files
from intermodal.home import Home
from intermodal.worker.containers.launch import Bind
from intermodal.worker.devices.edits import Edits
from intermodal.worker.images import recipe as recipes
from intermodal.worker.images.commands import ContainerStarter
from intermodal.worker.images.composing import Composing, copied
from intermodal.worker.images.failures import BuildFailed, DiskFull, StepError, is_disk_full
from intermodal.worker.images.host import HostSettings, own_settings
from intermodal.worker.images.jobs import Jobs, Log
from intermodal.worker.images.kinds import KINDS, Context, Instruction, Made, Making
from intermodal.worker.images.layers import Layer, LayerStore
from intermodal.worker.images.mending import mend_caches
from intermodal.worker.images.merge import merge
from intermodal.worker.images.mounts import MountStore
from intermodal.worker.images.platform import Platform, compile_command
from intermodal.worker.images.registry import Registry
from intermodal.worker.images.scrub import Scrub
from intermodal.worker.images.workshop import TOOLS, Workshop, new_container_id
from modal._protocol.errors import Code, Fault, ProtocolError
from modal._protocol.message import from_json, to_json
from modal._protocol.messages.file import FileEntry
from modal._protocol.messages.image import BuildLog, ImageConfig

MOST_LAYERS = 60  # above this, older layers are merged: each one costs every container's start
MERGED_AT_ONCE = 40
LITTLE_SPACE = 4 << 20  # bytes; a step that fails with less left failed for want of space

_IMAGE_ID = re.compile(r"im-[A-Za-z0-9]{1,80}\Z")

# What the keys of layers have besides in a build that ignores the cache: it finds nothing, and replaces nothing.
_salt: ContextVar[str] = ContextVar("salt", default="")
_context: ContextVar[Context] = ContextVar("context", default=Context())  # noqa: B039 - it is never changed

log = logging.getLogger(__name__)


class Images:
    """Builds images and tells what containers of them start with."""

    def __init__(self, home: Home, containers: ContainerStarter) -> None:
        self._home = home
        self._files = Files(home)
        self._layers = LayerStore(home)
        self._mounts = MountStore(home, self._files)
        self._platform = Platform(home)
        self.workshop = Workshop(home, containers, self._mounts, self.host, self.platform)
        self._jobs = Jobs()
        self._scrub = Scrub(self._layers)
        self._scrubbing: asyncio.Task[None] | None = None
        self.registry = Registry(home.cache / "registry", self)
        self._slots = asyncio.Semaphore(max(2, os.cpu_count() or 1))  # steps that run at once
        self._compiling = asyncio.Lock()
        self._syncing: set[asyncio.Task[None]] = set()
        self._settling: dict[str, asyncio.Task[Layer | None]] = {}  # layers on their way to the disk, by id

    async def open(self, suspect: float | None = None) -> None:
        """Remove what interrupted builds and uploads left. Call it once, before anything else.

        `suspect`: the machine was down; what has changed since this time may be half (see `boots`).
        """
        for path in (self._home.images, self._home.layers, self._home.mounts, self._home.files):
            path.mkdir(parents=True, exist_ok=True)
        if suspect is not None:
            await asyncio.to_thread(self._mend, suspect)
        await asyncio.to_thread(self._layers.clean)
        await asyncio.to_thread(self._mounts.clean)
        await asyncio.to_thread(self._files.clean)
        self._scrubbing = asyncio.create_task(self._scrub.run())

    def _mend(self, since: float) -> None:
        """All of this can be made or fetched again."""
        self._layers.mend()
        self._mounts.mend(since)
        self._platform.mend(since)
        mend_caches(self._home.cache, since)

    async def close(self) -> None:
        """End the builds that run, and wait until finished layers are on disk."""
        if self._scrubbing is not None:
            self._scrubbing.cancel()
        await self._jobs.close()
        if self._syncing:
            await asyncio.wait(self._syncing)
        self._layers.close()

    def host(self) -> HostSettings:
        """The settings of this machine that builds and containers share."""
        return own_settings()

    # -- what containers need ---------------------------------------------------------------------

    def config(self, image_id: str) -> ImageConfig | None:
        """What a container of the image starts with; None where the image, or a layer of it, is not here."""
        try:
            config = from_json(ImageConfig, json.loads(self._image_path(image_id).read_text())["config"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, ProtocolError) as error:
            log.warning("what is kept of image %s cannot be read (%s): it will be built again", image_id, error)
            return None
        return config if all(self._layers.exists(layer) for layer in config.layers) else None

    def layer_paths(self, config: ImageConfig) -> list[Path]:
        """The directories of the image's layers, lowest first."""
        return [self._layers.path(layer) for layer in config.layers]

    def has_mount(self, mount_id: str) -> bool:
        return self._mounts.has(mount_id)

    async def mount(self, mount_id: str, entries: list[FileEntry]) -> Path:
        """A set of files as a directory whose root is the container's `/`, made once.

        Raises Fault: invalid (an entry), not-found (a file that was never uploaded).
        """
        if self._mounts.has(mount_id):
            return self._mounts.path(mount_id)
        return await asyncio.to_thread(self._mounts.materialise, mount_id, entries)

    def nothing_runs(self) -> None:
        """No container of an earlier worker goes on: what only these had is not needed any more."""
        self._platform.alone = True

    def platform(self) -> list[Bind]:
        """The read-only binds that every container gets."""
        return self._platform.binds()

    async def prepare(self, config: ImageConfig) -> None:
        """Have the platform's bytecode ready for this image's Python. Free when it is; else about a second, once."""
        if self._scrub.untrusted(config.layers):
            self._keep(self._scrub.later(config.layers))
        minor = ".".join(config.python_version.split(".")[:2])
        if not config.python or not minor or self._platform.is_compiled(minor):
            return
        async with self._compiling:
            if self._platform.is_compiled(minor):
                return
            place = f"{TOOLS}/platform"
            with self._layers.stage() as stage:
                instruction = Instruction(0, "run", "compile the platform", {})
                making = Making(instruction, config, self.layer_paths(config), stage, {}, lambda _kind, _text: None)
                bind = Bind(self._platform.path(), place, read_only=False)
                try:
                    await self.workshop.run(making, compile_command(config.python, place), [bind])
                except StepError as error:
                    # Containers work without, each a little slower.
                    log.warning("could not compile the platform for Python %s: %s", minor, error)
                    return
            self._platform.mark_compiled(minor)

    # -- building ---------------------------------------------------------------------------------

    async def build(
        self,
        image_id: str,
        recipe: list[dict[str, Any]],
        secrets: dict[str, dict[str, str]],
        log: Callable[[BuildLog], None],
        ignore_cache: bool = False,
        environment: str = "",
    ) -> ImageConfig:
        """Build what is not there yet. Raises BuildFailed; Fault(invalid) for a recipe that makes no sense.

        `environment` is where names resolve for functions that run in the build.
        """
        path = self._image_path(image_id)
        instructions = recipes.parse(recipe)
        if not ignore_cache and not any(one.force for one in instructions):
            known = self.config(image_id)
            if known is not None:
                return known
        started = time.monotonic()
        salted = _salt.set(os.urandom(8).hex() if ignore_cache else "")
        context = _context.set(Context(environment, secrets))
        try:
            config = await self._build_layers(image_id, instructions, secrets, log)
        finally:
            _salt.reset(salted)
            _context.reset(context)
        await self.prepare(config)
        await self._settled(config.layers)
        await asyncio.to_thread(_write_json, path, {"config": to_json(config), "created": time.time()})
        log(BuildLog("done", f"Built image {image_id} in {time.monotonic() - started:.2f}s", 0, image_id))
        return config

    async def _build_layers(
        self,
        image_id: str,
        instructions: list[Instruction],
        secrets: dict[str, dict[str, str]],
        log: Callable[[BuildLog], None],
    ) -> ImageConfig:
        config, rebuild = ImageConfig(layers=[]), False
        for instruction in instructions:
            rebuild = rebuild or instruction.force

            def emit(kind: str, text: str, number: int = instruction.number) -> None:
                log(BuildLog(kind, text, number, image_id))

            if KINDS[instruction.kind].announced:
                emit("start", f"=> Step {instruction.number}: {instruction.title}")
            if not recipes.makes_layer(instruction):
                recipes.apply(config, instruction)
                continue
            values = _secret_values(instruction, secrets)
            try:
                if KINDS[instruction.kind].composite:
                    await KINDS[instruction.kind].compose(Composing(self, instruction, config, values, emit, rebuild))
                else:
                    again = instruction.force or (rebuild and not KINDS[instruction.kind].pinned)
                    await self.put(instruction, config, values, emit, again)
            except StepError as error:
                raise BuildFailed(instruction.number, instruction.title, error.reason, error.last_lines) from error
        return config

    # -- what steps that are made of other steps need (`composing.Builder`)

    async def put(
        self, instruction: Instruction, config: ImageConfig, secrets: dict[str, str], emit: Log, rebuild: bool
    ) -> None:
        """Put the layers of an instruction on the image. Raises StepError."""
        await KINDS[instruction.kind].prepare(self.workshop, instruction, emit)
        below = copied(config)
        for part in KINDS[instruction.kind].parts(instruction):
            on = below if KINDS[instruction.kind].side_by_side else config
            layer = await self._layer(part, on, secrets, emit, rebuild)
            _put_on(config, layer)
        while len(config.layers) > MOST_LAYERS:
            config.layers = await self._merged(config.layers)

    def find_layer(self, key: str) -> Layer | None:
        return self._layers.find(key)

    def layer_path(self, layer_id: str) -> Path:
        return self._layers.path(layer_id)

    def scratch(self) -> AbstractContextManager[Path]:
        """A directory for work that leaves no layer."""
        return self._layers.stage()

    async def _layer(
        self, instruction: Instruction, config: ImageConfig, secrets: dict[str, str], emit: Log, rebuild: bool
    ) -> Layer:
        """The layer of one instruction: found, or built once however many ask for it."""
        parent = config.layers[-1] if config.layers else ""
        # Layers of registries are named by their content alone: only all of them together say what is below.
        below_all = parent if len(config.layers) < 2 else hashlib.sha256("\n".join(config.layers).encode()).hexdigest()
        kind = KINDS[instruction.kind]
        inputs = kind.inputs(instruction, self.host()) + ("" if kind.pinned else _salt.get())
        if instruction.gpu:  # it may ask what there is
            inputs += f" gpu {' '.join(instruction.gpu)}"
        key = recipes.key(below_all, config, instruction, list(secrets), inputs)
        if not rebuild:
            found = self._layers.find(key)
            if found is not None:
                if await self._scrub.first_use(found):
                    return found
                emit("output", "what was kept of this step is damaged: it is built again\n")
        below = copied(config)

        async def make(shared: Log) -> Layer:
            async with self._devices(instruction, shared) as edits:
                return await make_with(edits, shared)

        async def make_with(edits: Edits, shared: Log) -> Layer:
            async def fill(stage: Path) -> Layer:
                layers = self.layer_paths(below)
                making = Making(instruction, below, layers, stage, secrets, shared, _context.get(), edits)
                made = await kind.make(self.workshop, making) or Made()
                return Layer(
                    key=key,
                    id=key,
                    parent=parent,
                    step=instruction.title,
                    env=made.env,
                    python=made.python,
                    python_version=made.python_version,
                    settings=made.settings,
                )

            return await self.make_layer(key, rebuild, fill)

        return await self._jobs.run(key, make, emit)

    @contextlib.asynccontextmanager
    async def _devices(self, instruction: Instruction, log: Log) -> AsyncIterator[Edits]:
        """The GPUs of a step that asks for some. Raises StepError."""
        if not instruction.gpu:
            yield Edits()
            return
        if self.workshop.lends is None:
            raise StepError(f"this worker has no GPU to lend ({' or '.join(instruction.gpu)}): leave gpu= out")
        async with self.workshop.lends.devices(new_container_id(), instruction.gpu, log) as edits:
            yield edits

    async def _merged(self, layers: list[str]) -> list[str]:
        """A shorter list of layers that shows the same: those next to the base become one."""
        old = layers[1 : MERGED_AT_ONCE + 1]
        key = hashlib.sha256("\n".join(["merge", *old]).encode()).hexdigest()[:40]
        found = self._layers.find(key)
        if found is None:

            async def make(_shared: Log) -> Layer:
                async def fill(stage: Path) -> Layer:
                    await asyncio.to_thread(merge, [self._layers.path(one) for one in old], stage / "upper")
                    return Layer(key=key, id=key, parent=layers[0], step=f"merge {len(old)} layers")

                return await self.make_layer(key, False, fill)

            found = await self._jobs.run(key, make, lambda _kind, _text: None)
        return [layers[0], found.id, *layers[MERGED_AT_ONCE + 1 :]]

    async def make_layer(self, key: str, rebuild: bool, fill: Callable[[Path], Awaitable[Layer]]) -> Layer:
        """Fill a stage and make it a layer, unless another process did so meanwhile."""
        async with self._slots, self._layers.locked(key):
            found = None if rebuild else self._layers.find(key)
            if found is not None:
                return found
            try:
                with self._layers.stage() as stage:
                    described = await fill(stage)
                    layer = await asyncio.to_thread(self._layers.adopt, stage / "upper", described)
            except (StepError, OSError) as error:
                raise self._explained(error) from error
        self._scrub.trust(layer)
        self._sync_later(layer)
        return layer

    def _explained(self, error: StepError | OSError) -> StepError:
        disk = os.statvfs(self._home.path)
        full = disk.f_bavail * disk.f_frsize < LITTLE_SPACE
        if full or (isinstance(error, OSError) and is_disk_full(error)):
            return DiskFull(str(self._home.path), error.last_lines if isinstance(error, StepError) else [])
        return error if isinstance(error, StepError) else StepError(f"{error.strerror}: {error.filename}")

    async def _settled(self, layers: list[str]) -> None:
        """Return when the disk has these layers: who is told of an image may rely on it."""
        if waited := [self._settling[layer] for layer in layers if layer in self._settling]:
            await asyncio.wait(waited)  # which a build that is cancelled leaves alone

    def _sync_later(self, layer: Layer) -> None:
        async def settle() -> Layer | None:
            try:
                return await asyncio.to_thread(self._layers.sync, layer)
            except OSError as error:
                log.warning("layer %s may not survive a crash of the machine: %s", layer.id, error)
                return None
            finally:
                self._settling.pop(layer.id, None)

        async def fingerprint() -> None:
            settled = await settling
            if settled is not None:
                try:
                    await asyncio.to_thread(self._layers.fingerprint, settled)
                except OSError as error:
                    log.warning("layer %s cannot be read: %s", layer.id, error)

        settling = self._settling[layer.id] = asyncio.create_task(settle())
        self._keep(fingerprint())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._syncing.add(task)
        task.add_done_callback(self._syncing.discard)

    def _image_path(self, image_id: str) -> Path:
        if not _IMAGE_ID.match(image_id):
            raise Fault(Code.INVALID, f"{image_id[:100]!r} is not the id of an image")
        return self._home.images / f"{image_id}.json"


def _put_on(config: ImageConfig, layer: Layer) -> None:
    config.layers = [*config.layers, layer.id]
    config.env = {**config.env, **layer.env}
    if layer.python:
        config.python = layer.python
        config.python_version = layer.python_version
    for name, value in layer.settings.items():
        setattr(config, name, value)


def _secret_values(instruction: Instruction, secrets: dict[str, dict[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for secret_id in instruction.secret_ids:
        if secret_id not in secrets:
            raise Fault(Code.NOT_FOUND, f"the secret {secret_id} of step {instruction.number} is not there")
        values.update(secrets[secret_id])
    return values


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{time.monotonic_ns()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
