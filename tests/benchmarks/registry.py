"""Pull and unpack an image of about 200 MB: ours, `skopeo copy` with `umoci unpack`, `buildah pull`, in turn.

    python -m tests.benchmarks.registry [--rounds 3]

Needs docker-registry, skopeo and umoci (and buildah, where it is installed). Each round starts with nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from intermodal.home import Home
from intermodal.worker.images import Images
from intermodal.worker.images.registry_reference import parse_reference
from tests.benchmarks.figures import OURS, Section, table
from tests.images_cache import _NoContainers
from tests.oci.bases import base_tar
from tests.oci.layouts import Layout, archive, file, gzipped
from tests.oci.registry_server import RegistryServer

PARTS = 6  # layers beside the base
PART_SIZE = 12 << 20  # bytes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.registry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="intermodal-bench-") as name, _served(Path(name)) as tag:
        section = Section("registry", f"Pull and unpack an image of {PARTS + 1} layers")
        pull = section.measure("pull", "s")
        for number in range(options.rounds):
            for who, run in (
                (OURS, _ours),
                ("skopeo + umoci", _umoci),
                *((("buildah", _buildah),) if shutil.which("buildah") else ()),
            ):
                place = Path(name) / f"{who.replace(' ', '')}-{number}"
                place.mkdir()
                began = time.perf_counter()
                run(tag, place)
                pull.add(who, time.perf_counter() - began)
                shutil.rmtree(place, ignore_errors=True)
        section.load = (os.getloadavg()[0], os.getloadavg()[0])
        print(table(section))
    return 0


@contextlib.contextmanager
def _served(place: Path) -> Iterator[str]:
    server = RegistryServer(place / "server")
    server.start()
    try:
        layout = Layout(place / "layout")
        half = os.urandom(PART_SIZE // 2) + b"text " * (PART_SIZE // 10)
        parts = [gzipped(archive(file(f"data/part-{number}", half + bytes([number])))) for number in range(PARTS)]
        layout.image("image", [gzipped(base_tar()), *parts])
        server.push(layout.path, "image", "bench/image:1")
        yield f"{server.host}/bench/image:1"
    finally:
        server.stop()


def _ours(tag: str, place: Path) -> None:
    async def pull() -> None:
        images = Images(Home(place), _NoContainers())
        await images.open()
        await images.registry.pull(parse_reference(tag), None, "", lambda _kind, _text: None)
        await images.close()

    asyncio.run(pull())


def _umoci(tag: str, place: Path) -> None:
    layout = place / "layout"
    _call("skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", f"docker://{tag}", f"oci:{layout}:x")
    _call("umoci", "unpack", "--image", f"{layout}:x", str(place / "bundle"))


def _buildah(tag: str, place: Path) -> None:
    store = ["--root", str(place / "root"), "--runroot", str(place / "run"), "--storage-driver", "overlay"]
    _call("buildah", *store, "pull", "-q", "--tls-verify=false", tag)
    subprocess.run(["umount", str(place / "root/overlay")], capture_output=True, check=False)


def _call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


if __name__ == "__main__":
    raise SystemExit(main())
