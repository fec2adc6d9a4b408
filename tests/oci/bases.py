"""The Debian base of the tests as one layer for registries: Python and a shell, and little else."""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from intermodal.home import Home
from intermodal.worker.images import registry_unpack
from intermodal.worker.images.layers import Layer
from intermodal.worker.images.registry import key_of
from intermodal.worker.images.registry_manifest import Blob
from tests.images_cache import base_config, cache_home
from tests.oci import layouts

LEFT_OUT = (
    *("usr/lib/gcc", "usr/include", "usr/share", "var/lib", "usr/libexec", "usr/local/lib/python3.11/dist-packages/s*"),
    *("usr/bin/*-linux-gnu-*", "usr/bin/perl*", "usr/lib/python3.11/config-*", "usr/lib/python3.11/test"),
    *(f"usr/lib/x86_64-linux-gnu/{name}" for name in ("*.a", "perl*", "gconv", "lib*san.so*", "libperl*", "libgprof*")),
    *(
        "usr/local/lib/python3.11/dist-packages/pkg_resources",
        "usr/lib/python3.11/idlelib",
        "usr/lib/python3.11/lib2to3",
    ),
)
SETTINGS = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]}


@functools.cache
def base_tar() -> bytes:
    """About 60 MB; the same bytes for the same base."""
    config = asyncio.run(base_config())
    root = cache_home().layers / config.layers[0]
    words = ["tar", "--sort=name", *(f"--exclude=./{one}" for one in LEFT_OUT), "-C", str(root), "-cf", "-", "."]
    return subprocess.run(words, capture_output=True, check=True).stdout


@functools.cache
def base_layer() -> layouts.LayerFile:
    return layouts.gzipped(base_tar())


@functools.cache
def _unpacked() -> tuple[Path, dict[str, object]]:
    directory = Path(tempfile.mkdtemp(prefix="intermodal-unpacked-"))
    atexit.register(shutil.rmtree, directory, True)
    blob = directory / "blob"
    blob.write_bytes(base_tar())
    root = directory / "root"
    root.mkdir(mode=0o755)
    answer = registry_unpack.unpack(str(blob), str(root))
    blob.unlink()
    return root, answer


def lend_unpacked(home: Home) -> None:
    """Make the base's layer a layer of `home` as if it had been pulled, without the work."""
    root, answer = _unpacked()
    layer = base_layer()
    blob = Blob(layouts.digest_of(layer.blob), len(layer.blob), layouts.digest_of(layer.tar))
    key = key_of(blob)
    home.layers.mkdir(parents=True, exist_ok=True)
    (home.layers / key).symlink_to(root)
    note = asdict(Layer(key=key, id=key, step="base", implied=list(answer["implied"])))  # type: ignore[call-overload]
    (home.layers / f"{key}.json").write_text(json.dumps(note))
