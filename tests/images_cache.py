"""Base images for tests: built once on this machine, then lent to the state directory of any test.

`await lend_base(home)` makes `Image.debian_slim("3.11")` a matter of milliseconds for a server or
worker on that home. The cache is `$INTERMODAL_TEST_CACHE`, else ~/.cache/intermodal-tests.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from intermodal.home import Home
from intermodal.worker.containers.launch import Launch, StartFailed
from intermodal.worker.images import Images
from intermodal.worker.images.commands import RunningContainer
from modal._protocol.messages.image import ImageConfig

PYTHON = "3.11"  # the one whose base tests use: a Debian release has it


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


async def lend_base(home: Home, python: str = PYTHON) -> ImageConfig:
    """Give a test's home the base, and the caches of package downloads, as links to the cache."""
    config = await base_config(python)
    cache = cache_home()
    home.layers.mkdir(parents=True, exist_ok=True)
    for layer in config.layers:
        if not (home.layers / layer).exists():
            (home.layers / layer).symlink_to(cache.layers / layer)
            shutil.copyfile(cache.layers / f"{layer}.json", home.layers / f"{layer}.json")
    home.cache.mkdir(parents=True, exist_ok=True)
    for name in ("uv-cache", "pip-cache"):
        (cache.cache / name).mkdir(parents=True, exist_ok=True)
        if not (home.cache / name).exists():
            (home.cache / name).symlink_to(cache.cache / name)
    return config
