"""Base images for tests: built once on this machine, then lent to the state directory of any test.

`await lend_base(home)` makes `Image.debian_slim("3.11")` a matter of milliseconds for a server or
worker on that home. The cache is `$INTERMODAL_TEST_CACHE`, else ~/.cache/intermodal-tests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from intermodal.home import Home
from intermodal.image_builder import DEFAULT
from intermodal.worker.containers.containers import Containers
from intermodal.worker.containers.launch import Launch, StartFailed
from intermodal.worker.images import Images
from intermodal.worker.images.commands import RunningContainer
from modal._protocol.messages.image import ImageConfig

PYTHON = "3.11"  # the one whose base tests use: a Debian release has it


_built: dict[str, tuple[ImageConfig, ImageConfig]] = {}  # by Python: what this process found, bare and whole


class _NoContainers:
    async def start(self, launch: Launch) -> RunningContainer:
        raise StartFailed("a Debian base needs no container")


def cache_home() -> Home:
    """The state directory that keeps the bases between test runs."""
    chosen = os.environ.get("INTERMODAL_TEST_CACHE")
    return Home(chosen or Path.home() / ".cache/intermodal-tests")


async def base_config(python: str = PYTHON) -> ImageConfig:
    """The base in the cache; building it takes about half a minute, once."""
    home = cache_home()
    home.path.mkdir(parents=True, exist_ok=True)
    images = Images(home, _NoContainers())
    await images.open()
    try:
        image_id = f"im-base{python.replace('.', '')}"
        recipe = [{"kind": "debian_slim", "python_version": python}]
        config = await images.build(image_id, recipe, {}, lambda _entry: None)
        # The image's record may be of an older base: let the recipe decide.
        (home.images / f"{image_id}.json").unlink(missing_ok=True)
        return config
    finally:
        await images.close()


async def builder_config(python: str = PYTHON) -> ImageConfig | None:
    """The base that programs get: with the packages of the default builder version. None where nothing can run."""
    if os.geteuid() != 0 or shutil.which("crun") is None:
        return None
    cache = cache_home()
    with tempfile.TemporaryDirectory(prefix="im-base-", dir=cache.path) as folder:  # where the layers are
        # A state directory of its own, because a process that opens one sweeps what containers it finds there.
        home = Home(folder)
        for place, kept in ((home.layers, cache.layers), (home.cache, cache.cache)):
            kept.mkdir(parents=True, exist_ok=True)
            place.symlink_to(kept)
        containers = Containers(home)
        await containers.open()
        images = Images(home, containers)
        try:
            await images.open()
            recipe = [{"kind": "debian_slim", "python_version": python, "builder_version": DEFAULT}]
            return await images.build("im-base", recipe, {}, lambda _entry: None)
        finally:
            await images.close()
            await containers.close()


async def lend_base(home: Home, python: str = PYTHON) -> ImageConfig:
    """Give a test's home the base, and the caches of package downloads, as links to the cache."""
    if python not in _built:
        config = await base_config(python)
        _built[python] = config, await builder_config(python) or config
    config, programs = _built[python]
    cache = cache_home()
    home.layers.mkdir(parents=True, exist_ok=True)
    for layer in programs.layers:
        if not (home.layers / layer).exists():
            (home.layers / layer).symlink_to(cache.layers / layer)
            shutil.copyfile(cache.layers / f"{layer}.json", home.layers / f"{layer}.json")
    home.cache.mkdir(parents=True, exist_ok=True)
    for name in ("uv-cache", "pip-cache"):
        (cache.cache / name).mkdir(parents=True, exist_ok=True)
        if not (home.cache / name).exists():
            (home.cache / name).symlink_to(cache.cache / name)
    return config
