"""The base that `debian_slim` begins with, built from Debian's packages.

Slow (a minute, and Debian's mirror): set INTERMODAL_SLOW_TESTS=1.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers.launch import Launch, StartFailed
from intermodal.worker.images import Images
from intermodal.worker.images.commands import RunningContainer
from modal._protocol.messages.image import BuildLog

pytestmark = pytest.mark.skipif(
    os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1"
)


class NoContainers:
    async def start(self, launch: Launch) -> RunningContainer:
        raise StartFailed("a Debian base needs no container")


async def test_a_build_where_only_its_owner_gets_in(tmp_path: Path) -> None:
    """As state directories are: apt's own user cannot write there. Nobody is warned of that, and the image is to
    have apt work as it does elsewhere."""
    tmp_path.chmod(0o700)
    home = Home(tmp_path)
    said: list[BuildLog] = []
    images = Images(home, NoContainers())
    await images.open()
    try:
        config = await images.build("im-base", [{"kind": "debian_slim", "python_version": "3.11"}], {}, said.append)
    finally:
        await images.close()
    assert said
    assert not [entry.text for entry in said if entry.text.startswith(("W: ", "E: ", "Warning"))]
    (layer,) = config.layers
    settings = home.layers / layer / "etc/apt"
    assert (settings / "apt.conf.d/99mmdebstrap").exists()  # what mmdebstrap was told for good
    told = [path.read_text() for path in settings.rglob("*") if path.is_file() and path.suffix != ".gpg"]
    assert not [text for text in told if "Sandbox" in text]
