"""Standalone builds of Python, fetched by uv when an image needs a version that this machine lacks."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from intermodal.worker.images.failures import StepError
from intermodal.worker.images.interpreters import SETTING, find, interpreters
from intermodal.worker.images.packages import uv_binary

FETCH_SECONDS = 300.0
OFF_SETTING = "UV_PYTHON_DOWNLOADS"  # uv's own: never
ADVICE = (
    "On the worker's machine, either run `uv python install {minor}` or `pyenv install {minor}` and build again; or "
    "set {setting} to a directory that holds it (bin/python{minor}, lib, include), or UV_PYTHON_INSTALL_MIRROR to a "
    "mirror of the releases of python-build-standalone, then `intermodal down` and build again"
)


async def ensure(minor: str, log: Callable[[str, str], None], others: tuple[str, ...] = (), besides: str = "") -> None:
    """Have an interpreter for "3.12" on this machine, fetched to where uv keeps them. Raises StepError.

    `others` are versions that images can have without one, `besides` another way out: both are for the error.
    """
    if find(minor) is not None:
        return
    uv = uv_binary()
    why = "uv, which fetches them, is not installed"
    if os.environ.get(OFF_SETTING, "").lower() in ("never", "manual"):
        why = f"{OFF_SETTING} forbids to fetch one"
    elif uv is not None:
        log("output", f"fetching a standalone build of Python {minor}\n")
        why = await _fetch(uv, minor)
        if find(minor) is not None:
            return
    here = {one.minor for one in interpreters()} | set(others)
    known = ", ".join(sorted(here, key=lambda one: int(one.split(".")[1]))) or "none"
    raise StepError(
        f"there is no Python {minor} for the image: {why}. Versions that this worker can put into images: {known}. "
        + ADVICE.format(minor=minor, setting=SETTING)
        + besides
    )


async def _fetch(uv: Path, minor: str) -> str:
    """Fetch it; the answer is why it failed, where it did."""
    words = [str(uv), "python", "install", "--no-bin", minor]
    guard = shutil.which("setpriv")
    process = await asyncio.create_subprocess_exec(
        *([guard, "--pdeathsig", "KILL"] if guard else []),
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1"},
        start_new_session=True,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), FETCH_SECONDS)
    except TimeoutError:
        return f"fetching one took more than {FETCH_SECONDS:.0f} seconds"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode == 0:
        return "what was fetched does not fit"
    lines = [line.strip() for line in out.decode(errors="replace").splitlines() if line.strip()]
    return f"fetching one failed ({(lines or ['no reason given'])[-1].removeprefix('cause: ')})"
