"""From a registry's image to the first output of a container: ours, unpacked and mounted, beside buildah.

    python -m tests.benchmarks.registry [--rounds 3] [--large]

An image of about 200 MB in 7 layers, or with --large one of about 1 GB and 16,000 files in 9. Needs docker-registry
and skopeo (and umoci and buildah, where they are installed). Each round starts with nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from intermodal.home import Home
from intermodal.worker.containers import Containers, enter_private_mounts
from intermodal.worker.images import Images, layer_mounts
from tests.benchmarks.figures import OURS, Section, table
from tests.oci.bases import SETTINGS, base_tar
from tests.oci.layouts import Layout, archive, directory, file, gzipped
from tests.oci.registry_server import RegistryServer

PARTS = 6  # layers beside the base
PART_SIZE = 12 << 20  # bytes
LARGE_PARTS = 8
LARGE_FILES = 2000  # in each
LARGE_FILE = 56 << 10  # bytes
PROGRAM = "import json, asyncio"  # what the first container runs

Taken = tuple[float, float]  # seconds until the image is there, and until its first container has ended


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.registry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--large", action="store_true", help="an image of about 1 GB")
    options = parser.parse_args()
    enter_private_mounts()
    who: dict[str, Callable[[str, Path], Taken]] = {f"{OURS}, layers unpacked": _unpacked}
    if not layer_mounts.problem(Path(tempfile.gettempdir())):
        who[OURS] = _mounted
    if shutil.which("umoci") and not options.large:
        who["skopeo + umoci"] = _umoci
    if shutil.which("buildah"):
        who["buildah"] = _buildah
    with tempfile.TemporaryDirectory(prefix="intermodal-bench-") as name, _served(Path(name), options.large) as tag:
        section = Section("registry", "Pull and unpack an image" + (" of about 1 GB" if options.large else ""))
        pull = section.measure("image there", "s")
        first = section.measure("first container done", "s")
        before = os.getloadavg()[0]
        for number in range(options.rounds):
            for one, run in who.items():
                place = Path(name) / f"{list(who).index(one)}-{number}"
                place.mkdir()
                os.sync()  # what others have written is not written while this one is measured
                there, done = run(tag, place)
                print(f"{one}: {there:.2f} s, {done:.2f} s", file=sys.stderr, flush=True)
                pull.add(one, there)
                if done:
                    first.add(one, done)
                shutil.rmtree(place, ignore_errors=True)
        section.load = (before, os.getloadavg()[0])
        print(table(section))
    return 0


@contextlib.contextmanager
def _served(place: Path, large: bool) -> Iterator[str]:
    server = RegistryServer(place / "server")
    server.start()
    try:
        layout = Layout(place / "layout")
        tars = (_large(number) for number in range(LARGE_PARTS)) if large else (_part(one) for one in range(PARTS))
        layout.image("image", [gzipped(base_tar()), *(gzipped(tar) for tar in tars)], SETTINGS)
        server.push(layout.path, "image", "bench/image:1")
        shutil.rmtree(layout.path)
        yield f"{server.host}/bench/image:1"
    finally:
        server.stop()


def _part(number: int) -> bytes:
    return archive(directory("data"), file(f"data/part-{number}", _content(number, PART_SIZE)))


def _large(number: int) -> bytes:
    name = f"data/p{number}"
    files = [file(f"{name}/{one}", _content(one, LARGE_FILE)) for one in range(LARGE_FILES)]
    return archive(directory("data"), directory(name), *files)


def _content(number: int, size: int) -> bytes:
    """Half of it cannot be compressed."""
    return os.urandom(size // 2) + b"text " * (size // 10) + bytes([number % 256])


def _unpacked(tag: str, place: Path) -> Taken:
    os.environ[layer_mounts.SETTING] = "0"
    return asyncio.run(_ours(tag, place))


def _mounted(tag: str, place: Path) -> Taken:
    os.environ.pop(layer_mounts.SETTING)
    return asyncio.run(_ours(tag, place))


async def _ours(tag: str, place: Path) -> Taken:
    home = Home(place)
    containers = Containers(home)
    await containers.open()
    images = Images(home, containers)
    await images.open()
    base = {"kind": "registry", "tag": tag}
    began = time.perf_counter()
    await images.build("im-1", [base], {}, lambda _entry: None)
    there = time.perf_counter() - began
    step = {"kind": "run", "commands": [f"python -c '{PROGRAM}'"]}
    await images.build("im-2", [base, step], {}, lambda _entry: None)
    done = time.perf_counter() - began
    await images.close()
    await containers.close()
    return there, done


def _umoci(tag: str, place: Path) -> Taken:
    layout = place / "layout"
    began = time.perf_counter()
    _call("skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", f"docker://{tag}", f"oci:{layout}:x")
    _call("umoci", "unpack", "--image", f"{layout}:x", str(place / "bundle"))
    return time.perf_counter() - began, 0.0


def _buildah(tag: str, place: Path) -> Taken:
    store = ["--root", str(place / "root"), "--runroot", str(place / "run"), "--storage-driver", "overlay"]
    began = time.perf_counter()
    _call("buildah", *store, "pull", "-q", "--tls-verify=false", tag)
    there = time.perf_counter() - began
    _call("buildah", *store, "from", "--name", "it", "--pull-never", tag)
    _call("buildah", *store, "run", "--isolation", "chroot", "it", "python", "-c", PROGRAM)
    done = time.perf_counter() - began
    _call("buildah", *store, "rm", "it")
    subprocess.run(["umount", str(place / "root/overlay")], capture_output=True, check=False)
    return there, done


def _call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


if __name__ == "__main__":
    raise SystemExit(main())
