"""The layers of one home: directories that overlay mounts stack, and what is known of each.

A layer is found by its key, a hash of its parent, its step and the step's inputs. The directory
`layers/<id>` holds what the step changed, in the form that overlayfs gives an upper directory;
`layers/<key>.json` is written after it, by rename, so that a layer is there wholly or not at all.
The id is the key until a forced rebuild, which takes a new id, because containers may still run on
the old directory.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from intermodal.boots import boot_id
from intermodal.disk import sync, sync_file_system
from intermodal.home import Home
from intermodal.worker.images.layer_mounts import SUFFIXES, LayerMounts
from intermodal.worker.images.stages import clean_stages, new_stage
from intermodal.worker.images.trees import remove_tree, survey

LOCK_POLL = 0.1  # seconds between tries for a layer that another process builds
ORPHANED = 3600.0  # seconds after which an archive without its layer is nobody's

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """What is known of one layer."""

    key: str
    id: str  # name of its directory
    parent: str = ""  # id of the layer below it
    step: str = ""  # the step as the build log shows it
    size: int = 0  # bytes
    files: int = 0
    created: float = 0.0  # seconds since the epoch
    env: dict[str, str] = field(default_factory=dict)  # of a base: variables that its containers get
    python: str = ""  # of a base: path of the interpreter
    python_version: str = ""  # of a base: "3.11.2"
    settings: dict[str, Any] = field(default_factory=dict)  # other fields of ImageConfig that it sets
    shape: str = ""  # a hash of all names and properties: what can be checked without reading every file
    digest: str = ""  # a hash of the content too, once the disk has it
    implied: list[str] = field(default_factory=list)  # directories that a registry's layer takes for granted
    boot: str = ""  # the boot that wrote it, until the disk has it for certain


class LayerStore:
    """Finds, makes and keeps layers."""

    def __init__(self, home: Home) -> None:
        self._root = home.layers
        self._boot = boot_id()
        self._mounts = LayerMounts(home.layers)
        self._known: dict[str, Layer] = {}

    def path(self, layer_id: str) -> Path:
        """The layer's directory, with its content."""
        self._mounts.ready(layer_id)
        return self._root / layer_id

    def find(self, key: str) -> Layer | None:
        """The layer of this key, None where it is not there or was damaged (and must be built again)."""
        layer = self._known.get(key)
        if layer is None:
            layer = self._read(key)
            if layer is None:
                return None
            self._known[key] = layer
        if not self.exists(layer.id):
            log.warning("layer %s has lost its directory %s: it will be built again", key, layer.id)
            self._known.pop(key, None)
            return None
        return layer

    def exists(self, layer_id: str) -> bool:
        """Whether the layer is there; if it is, its directory has its content from now on."""
        return os.path.isdir(self._root / layer_id) and self._mounts.ready(layer_id)

    def close(self) -> None:
        """Unmount what was mounted."""
        self._mounts.close()

    def _read(self, key: str) -> Layer | None:
        path = self._root / f"{key}.json"
        try:
            layer = Layer(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            log.warning("%s cannot be read (%s): the layer will be built again", path, error)
            return None
        if layer.boot and layer.boot != self._boot:
            log.warning("the machine went down before layer %s was on disk: it will be built again", key)
            return None
        return layer

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """A directory for a layer in the making; whatever is left of it goes at the end of the block.

        The layer itself is built in its subdirectory `upper`.
        """
        path = new_stage(self._root)
        path.mkdir(parents=True)
        upper = path / "upper"
        upper.mkdir()
        upper.chmod(0o755)
        try:
            yield path
        finally:
            try:
                remove_tree(path)
            except OSError as error:
                log.warning("%s could not be removed; the next start of the worker tries again: %s", path, error)

    def adopt(self, upper: Path, layer: Layer) -> Layer:
        """Make a finished directory a layer. A layer that had this key before keeps its directory."""
        layer_id = layer.key
        if os.path.lexists(self._root / layer_id):
            layer_id = f"{layer.key}-{secrets.token_hex(4)}"
        packed = [upper.with_name(f"layer{suffix}") for suffix in SUFFIXES]
        if all(path.exists() for path in packed):
            self._mounts.forget(layer_id)
            for path, final in zip(packed, self._mounts.files(layer_id), strict=True):
                os.rename(path, final)
            os.rename(upper, self._root / layer_id)
            if not self._mounts.ready(layer_id):
                raise OSError(errno.ENOTSUP, "the layer cannot be mounted", str(self._root / layer_id))
            upper = self._root / layer_id
        found = survey(upper)
        layer = replace(
            layer,
            id=layer_id,
            size=found.size,
            files=found.files,
            shape=found.shape,
            created=time.time(),
            boot=self._boot,
        )
        if upper != self._root / layer_id:
            os.rename(upper, self._root / layer_id)
        self._write(layer)
        return layer

    def sync(self, layer: Layer) -> Layer:
        """Wait until the disk has the layer; until then only this boot of the machine trusts it. Blocking."""
        sync_file_system(self._root)
        settled = replace(layer, boot="")
        if self._known.get(layer.key) == layer:
            self._write(settled, durably=True)
        return settled

    def fingerprint(self, layer: Layer) -> None:
        """Note a hash of all that is in a layer which the disk has. Blocking."""
        digest = survey(self.path(layer.id), content=True).digest
        if self._known.get(layer.key) == layer:
            self._write(replace(layer, digest=digest), durably=True)

    def mend(self) -> None:
        """After a loss of power: remove the layers that the disk did not have for certain. Blocking."""
        for path in self._root.glob("*.json"):
            if path.name.startswith("."):
                continue
            try:
                layer = Layer(**json.loads(path.read_text()))
            except (ValueError, TypeError):
                path.unlink()
                continue
            if layer.boot and layer.boot != self._boot:
                log.info("the machine went down before layer %s was on disk: it is removed", layer.id)
                self.discard(layer)

    def all(self) -> list[Layer]:
        """Every layer that is there."""
        keys = sorted(path.stem for path in self._root.glob("*.json") if not path.name.startswith("."))
        return [layer for layer in map(self.find, keys) if layer is not None]

    def about(self, layer: Layer) -> Path:
        """The file that says what is known of a layer; its time is when the layer was last read as a whole."""
        return self._root / f"{layer.key}.json"

    def checked_at(self, layer: Layer) -> float:
        """Seconds since the epoch."""
        try:
            return self.about(layer).stat().st_mtime
        except OSError:
            return time.time()  # it has just gone

    def is_sound(self, layer: Layer, content: bool = False) -> bool:
        """Whether a layer is as it was made: all names and properties, or every byte of it. Blocking."""
        try:
            found = survey(self.path(layer.id), content=content and bool(layer.digest))
        except OSError as error:
            log.warning("layer %s cannot be read: %s", layer.id, error)
            return False
        if layer.shape and found.shape != layer.shape:
            return False
        return not (content and layer.digest) or found.digest == layer.digest

    def discard(self, layer: Layer) -> None:
        """Take a damaged layer out of use; containers that run on it keep it until they end. Blocking."""
        self._known.pop(layer.key, None)
        (self._root / f"{layer.key}.json").unlink(missing_ok=True)
        self._mounts.remove(layer.id)
        gone = new_stage(self._root)
        try:
            os.rename(self.path(layer.id), gone)
        except FileNotFoundError:
            return
        if not gone.is_symlink():
            remove_tree(gone)

    def _write(self, layer: Layer, durably: bool = False) -> None:
        path = self._root / f"{layer.key}.json"
        temporary = new_stage(self._root, ".json")
        temporary.write_text(json.dumps(asdict(layer), indent=1))
        if durably:
            sync(temporary)
        temporary.rename(path)
        if durably:
            sync(self._root)
        self._known[layer.key] = layer

    def clean(self) -> None:
        """Remove the half layers that builds of ended processes left."""
        clean_stages(self._root)
        for path in [one for suffix in SUFFIXES for one in self._root.glob(f"*{suffix}")]:
            # The directory is the last that a mounted layer gets, and the first that it loses.
            with suppress(FileNotFoundError):
                if not path.with_suffix("").exists() and time.time() - path.stat().st_ctime > ORPHANED:
                    path.unlink()

    @asynccontextmanager
    async def locked(self, key: str) -> AsyncIterator[None]:
        """Only one process builds a layer: the others wait here."""
        directory = self._root / ".locks"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / key
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(path) and os.fstat(fd).st_ino == os.stat(path).st_ino:
                    break
                os.close(fd)  # the holder removed this file while we opened it
            except BlockingIOError:
                os.close(fd)
                await asyncio.sleep(LOCK_POLL)
        try:
            self._known.pop(key, None)  # another process may have built it meanwhile
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)
