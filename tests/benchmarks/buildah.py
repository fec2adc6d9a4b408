"""buildah as a peer of image builds: the same base, layers kept, no isolation that would cost it time."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

NAME = "buildah"


class Buildah:
    """Builds Dockerfiles `FROM localhost/base`, which is made of a directory."""

    def __init__(self, folder: Path, base: list[Path]) -> None:
        self._store = folder / "buildah"
        self._store.mkdir()
        container = self._run("from", "scratch").strip()
        for layer in base:
            self._run("add", "--quiet", container, f"{layer}/", "/")
        self._run("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self._run("commit", "--quiet", "--rm", container, "localhost/base")

    def build(self, dockerfile: str, context: Path, *, cached: bool) -> float:
        """Seconds that a build takes."""
        (context / "Dockerfile").write_text(dockerfile)
        options = ["--layers"] if cached else ["--layers", "--no-cache"]
        began = time.perf_counter()
        self._run(
            "bud", "--quiet", "--isolation", "chroot", "--pull-never", *options, "-t", "localhost/it", str(context)
        )
        return time.perf_counter() - began

    def close(self) -> None:
        self._run("rmi", "--all", "--force")
        shutil.rmtree(self._store, ignore_errors=True)

    def _run(self, *words: str) -> str:
        places = ["--root", str(self._store / "root"), "--runroot", str(self._store / "run")]
        done = subprocess.run(
            [NAME, *places, "--storage-driver", "overlay", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"buildah {words[0]}: {done.stderr.strip()}")
        return done.stdout


def is_there() -> bool:
    return shutil.which(NAME) is not None
