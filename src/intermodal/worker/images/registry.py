"""Images from registries: each layer is fetched, checked and unpacked once, and shared by all images that have it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from intermodal.disk import sync
from intermodal.worker.images import layer_mounts, registry_index, registry_unpack
from intermodal.worker.images.failures import DiskFull, StepError
from intermodal.worker.images.layers import Layer
from intermodal.worker.images.mending import TAGS
from intermodal.worker.images.registry_manifest import Blob, Description, architecture, choose, describe, parse_json
from intermodal.worker.images.registry_reference import Reference
from intermodal.worker.images.registry_settle import needs_settling, settle
from intermodal.worker.images.registry_transport import Login, Transport
from intermodal.worker.images.trees import remove_tree
from modal._protocol.errors import ProtocolError
from modal._protocol.message import from_json, to_json
from modal._protocol.messages.image import ImageConfig

REVISION = 1  # change it when layers are unpacked in another way
WORTH_MOUNTING = 1 << 20  # bytes; a smaller layer is unpacked sooner than it is mounted at every start
LOOK_SECONDS = 0.03  # between looks at what has arrived
STALL_SECONDS = 180.0  # without a byte: the registry is gone
LOCK_SECONDS = 0.1  # between tries for an image that another process fetches

Log = Callable[[str, str], None]  # takes a kind of BuildLog, and text


class LayerMaker(Protocol):
    """What pulling needs of the images of this worker."""

    def find_layer(self, key: str) -> Layer | None: ...

    def layer_path(self, layer_id: str) -> Path: ...

    async def make_layer(self, key: str, rebuild: bool, fill: Callable[[Path], Awaitable[Layer]]) -> Layer: ...


class Corrupted(StepError):
    """A layer does not have the content that its digest promises."""

    def __init__(self, blob: Blob, why: str) -> None:
        super().__init__(f"layer {blob.digest[:19]} arrived damaged ({why})")
        self.blob = blob


@dataclass
class Base:
    """An image as a registry has it, unpacked."""

    config: ImageConfig
    onbuild: list[str]


class Registry:
    """Pulls images into the layer store of one home."""

    def __init__(self, cache: Path, layers: LayerMaker) -> None:
        self._cache = cache  # what is kept of tags, and of interrupted pulls
        self._layers = layers
        self._pulls: dict[str, asyncio.Lock] = {}

    async def pull(self, reference: Reference, login: Login | None, scope: str, log: Log, again: bool = False) -> Base:
        """The image, with its layers in the store. Raises StepError.

        A tag is looked up once and then stays what it is here until `again`, as in any build cache. `scope`
        tells apart who may see what: an image that was pulled with a secret is not shown to who lacks it.
        """
        name = hashlib.sha256(json.dumps([REVISION, str(reference), scope, architecture()]).encode()).hexdigest()[:40]
        async with self._pulls.setdefault(name, asyncio.Lock()):
            note = self._cache / TAGS / f"{name}.json"
            if not again:
                known = self._known(note)
                if known is not None:
                    return known
            base = await self._pull(Transport(reference, login), log)
            note.parent.mkdir(parents=True, exist_ok=True)
            temporary = note.with_name(f".{note.name}-{os.getpid()}")
            temporary.write_text(json.dumps({"config": to_json(base.config), "onbuild": base.onbuild}))
            await asyncio.to_thread(sync, temporary)  # see `mending`
            temporary.rename(note)
            return base

    def _known(self, note: Path) -> Base | None:
        try:
            found = json.loads(note.read_text())
            base = Base(from_json(ImageConfig, found["config"]), list(found["onbuild"]))
        except (OSError, ValueError, KeyError, TypeError, ProtocolError):
            return None  # not pulled yet, or not readable: pull it
        return base if all(self._layers.layer_path(layer).is_dir() for layer in base.config.layers) else None

    async def _pull(self, transport: Transport, log: Log) -> Base:
        name, wanted = str(transport.reference), architecture()
        digest, description = await self._describe(transport, name, wanted)
        async with self._directory(digest) as directory:
            try:
                layers = await self._layers_of(description, transport, digest, directory, log)
            except Corrupted as error:
                log("output", f"{error.reason}: fetching it again\n")
                layers = await self._layers_of(description, transport, digest, directory, log)
            except DiskFull:
                await asyncio.to_thread(remove_tree, directory)  # else what has arrived would keep the disk full
                raise
            await asyncio.to_thread(remove_tree, directory)
        config_here = description.config
        config_here.layers = [layer.id for layer in await self._settled(layers)]
        return Base(config_here, description.onbuild)

    async def _describe(self, transport: Transport, name: str, wanted: str) -> tuple[str, Description]:
        """The digest of the manifest for this machine, and what it says. Raises StepError."""
        answers = await asyncio.gather(transport.manifest(), transport.config(), return_exceptions=True)
        manifest, config = [answer if isinstance(answer, bytes) else b"" for answer in answers]
        if isinstance(answers[0], BaseException):
            raise answers[0]
        digest = choose(parse_json(manifest, f"the manifest of {name}"), name, wanted)
        if digest:
            manifest = await transport.manifest(digest)
            if digest_of(manifest) != digest:
                raise StepError(f"the manifest of {name} is not what its digest says: the registry is damaged")
        digest = digest or digest_of(manifest)
        parsed = parse_json(manifest, f"the manifest of {name}")
        wanted_config = (parsed.get("config") or {}).get("digest", "")
        if digest_of(config) != wanted_config:  # the tag has moved meanwhile, or the first answer was an error
            config = await transport.config(digest)
            if digest_of(config) != wanted_config:
                raise StepError(f"the configuration of {name} is not what its digest says: the registry is damaged")
        settings = parse_json(config, f"the configuration of {name}")
        return digest, describe(parsed, settings, name, wanted)

    async def _layers_of(
        self, description: Description, transport: Transport, digest: str, directory: Path, log: Log
    ) -> list[Layer]:
        """Unpack what is not there, each layer as soon as it has arrived."""
        missing = [blob for blob in description.blobs if self._layers.find_layer(key_of(blob)) is None]
        if missing:
            fetch = _Fetch(description.blobs, missing, transport, digest, directory, log)
            await fetch.run(self._unpack)
        layers = [self._layers.find_layer(key_of(blob)) for blob in description.blobs]
        return [layer for layer in layers if layer is not None]

    async def _unpack(self, blob: Blob, path: Path) -> None:
        """Make the layer of a blob that has arrived at `path`, which goes in the end."""

        async def fill(stage: Path) -> Layer:
            answer: dict[str, Any] = {"reason": "unsuited"}
            if blob.size >= WORTH_MOUNTING and not layer_mounts.problem(stage):
                archive, index = [stage / f"layer{suffix}" for suffix in layer_mounts.SUFFIXES]
                answer = await _carried_out(registry_index.__file__, path, archive, index)
                if "error" not in answer and not layer_mounts.can_mount(archive, index):
                    answer = {"reason": "unsuited"}
                if "reason" in answer:
                    archive.unlink(missing_ok=True)
                    index.unlink(missing_ok=True)
            if answer.get("reason") == "unsuited":
                answer = await _carried_out(registry_unpack.__file__, path, stage / "upper")
            if "error" in answer:
                reason, text = answer.get("reason"), str(answer["error"])
                if reason == "corrupt":
                    path.unlink(missing_ok=True)
                    raise Corrupted(blob, text)
                if reason == "disk":
                    raise DiskFull
                raise StepError(f"layer {blob.digest[:19]} cannot be unpacked: {text}")
            if answer["digest"] != blob.diff_id:
                path.unlink(missing_ok=True)
                raise Corrupted(blob, f"its content is {answer['digest'][:19]}, not {blob.diff_id[:19]}")
            key = key_of(blob)
            return Layer(key=key, id=key, step=f"layer {blob.diff_id[:19]}", implied=list(answer["implied"]))

        await self._layers.make_layer(key_of(blob), False, fill)
        path.unlink(missing_ok=True)

    async def _settled(self, layers: list[Layer]) -> list[Layer]:
        """The layers on top of each other: what one takes for granted is as the ones below it have it."""
        done: list[Layer] = []
        for layer in layers:
            below = [self._layers.layer_path(one.id) for one in done]
            if layer.implied and below:
                unlike = await asyncio.to_thread(needs_settling, list(layer.implied), below)
                if unlike:
                    layer = await self._settle(layer, [one.id for one in done], below)
            done.append(layer)
        return done

    async def _settle(self, layer: Layer, parents: list[str], below: list[Path]) -> Layer:
        key = hashlib.sha256("\n".join([f"settled {REVISION}", layer.id, *parents]).encode()).hexdigest()[:40]

        async def fill(stage: Path) -> Layer:
            source = self._layers.layer_path(layer.id)
            await asyncio.to_thread(settle, source, stage, layer.implied, below)
            return Layer(key=key, id=key, parent=parents[-1], step=layer.step)

        return self._layers.find_layer(key) or await self._layers.make_layer(key, False, fill)

    @contextlib.asynccontextmanager
    async def _directory(self, digest: str) -> AsyncIterator[Path]:
        """Where the layers of this image arrive; what an interrupted pull left there is used. One pull at a time."""
        pulls = self._cache / "pulls"
        pulls.mkdir(parents=True, exist_ok=True)
        directory = pulls / digest.partition(":")[2]
        fd = os.open(f"{directory}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(LOCK_SECONDS)
            yield directory
        finally:
            os.close(fd)


class _Fetch:
    """One run of skopeo, with layers taken over while it goes on."""

    def __init__(
        self,
        blobs: list[Blob],
        missing: list[Blob],
        transport: Transport,
        digest: str,
        directory: Path,
        log: Log,
    ) -> None:
        self._missing = missing
        self._transport = transport
        self._digest = digest
        self._layout = directory / "layout"
        self._store = directory / "blobs"
        self._sums = self._store / "sha256"
        self._log = log
        self._blobs = blobs
        self._total = sum(blob.size for blob in missing) or 1
        self._arrived: set[str] = set()
        self._began = time.monotonic()
        self._told = 0  # percent

    async def run(self, unpack: Callable[[Blob, Path], Awaitable[None]]) -> None:
        """Raises StepError; Corrupted where a layer that skopeo took for good has not the content it should have."""
        await asyncio.to_thread(self._prepare)
        jobs: list[asyncio.Task[None]] = []
        try:
            async with self._transport.copying(self._digest, self._layout, self._store) as copy:
                await self._follow(copy, unpack, jobs)
            self._progress(100)
            started = time.monotonic()
            self._log("output", "Copying image...\n")
            compressed = self._compressed_here()
            for blob in self._missing:
                if blob.digest not in self._arrived:
                    path = compressed.get(blob.digest) or self._sums / blob.digest.partition(":")[2]
                    jobs.append(asyncio.ensure_future(unpack(blob, path)))
            await asyncio.gather(*jobs)
            self._log("output", f"Copied image in {time.monotonic() - started:.2f}s\n")
        finally:
            for job in jobs:
                job.cancel()
            if jobs:
                await asyncio.wait(jobs)

    def _prepare(self) -> None:
        """Keep whole layers of an interrupted pull; stand-ins keep skopeo from fetching what is unpacked already."""
        self._sums.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._layout, ignore_errors=True)
        wanted = {blob.digest.partition(":")[2]: blob.size for blob in self._missing}
        for path in self._sums.iterdir():
            found = path.stat()
            if wanted.get(path.name) != found.st_size or (found.st_blocks == 0 and found.st_size):
                path.unlink()
        for blob in self._blobs:
            name = blob.digest.partition(":")[2]
            if name not in wanted:
                with (self._sums / name).open("wb") as file:
                    file.truncate(blob.size)

    async def _follow(
        self,
        copy: asyncio.Task[None],
        unpack: Callable[[Blob, Path], Awaitable[None]],
        jobs: list[asyncio.Task[None]],
    ) -> None:
        have, since = -1, time.monotonic()
        while not copy.done():
            await asyncio.wait([copy], timeout=LOOK_SECONDS)
            for blob in self._missing:
                path = self._sums / blob.digest.partition(":")[2]
                if blob.digest not in self._arrived and path.exists():
                    self._arrived.add(blob.digest)
                    jobs.append(asyncio.ensure_future(unpack(blob, path)))
            for job in jobs:
                if job.done():
                    job.result()
            now = self._bytes()
            if now != have:
                have, since = now, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS and all(job.done() for job in jobs):
                raise StepError(
                    f"{self._transport.reference.host} has sent nothing for {STALL_SECONDS:.0f} seconds: build again "
                    "when it works; what has arrived is kept"
                )
            self._progress(min(99, 100 * now // self._total))
        copy.result()

    def _bytes(self) -> int:
        """Compressed bytes of the missing layers that have arrived."""
        done = sum(blob.size for blob in self._missing if blob.digest in self._arrived)
        partial = 0
        for root in (self._layout, self._store):
            with contextlib.suppress(OSError), os.scandir(root) as entries:
                for entry in entries:
                    if entry.name.startswith("oci-put-blob"):
                        partial += entry.stat().st_size
        return min(done + partial, self._total)

    def _progress(self, percent: int) -> None:
        if percent // 10 > self._told // 10:
            self._told = percent
            elapsed = time.monotonic() - self._began
            self._log("output", f"Progress: {percent}% complete... ({elapsed:.2f}s elapsed)\n")

    def _compressed_here(self) -> dict[str, Path]:
        """Where layers are that the registry keeps uncompressed: skopeo compresses them on the way."""
        try:
            index = json.loads((self._layout / "index.json").read_text())
            name = str(index["manifests"][0]["digest"]).partition(":")[2]
            layers = json.loads((self._sums / name).read_text())["layers"]
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise StepError(f"{self._transport.reference}: skopeo left no manifest ({error})") from None
        pairs = zip(self._blobs, layers, strict=False)
        return {
            blob.digest: self._sums / str(layer["digest"]).partition(":")[2]
            for blob, layer in pairs
            if layer["digest"] != blob.digest
        }


def key_of(blob: Blob) -> str:
    """The key of a layer: what is in it, however it was compressed."""
    return hashlib.sha256(f"registry {REVISION} {blob.diff_id}".encode()).hexdigest()[:40]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def _carried_out(*program_and_paths: str | Path) -> dict[str, Any]:
    """Run the unpacking, or what takes its place, in a process that ends with us."""
    guard = shutil.which("setpriv")
    program = [sys.executable, "-I", "-S", *map(str, program_and_paths)]
    process = await asyncio.create_subprocess_exec(
        *([guard, "--pdeathsig", "KILL"] if guard else []),
        *program,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    try:
        answer: dict[str, Any] = json.loads(out)
        return answer
    except ValueError:
        last = err.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        return {"error": last[0], "reason": "tool"}
