"""Real containers on the machine's own root as the only layer."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers import Containers, Exit, Launch, Limits, Running, enter_private_mounts, kernel
from tests.integration.containers.traces import traces_of

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


@dataclass
class Ran:
    exit: Exit
    out: str
    err: str


@pytest.fixture
async def containers(tmp_path: Path) -> AsyncIterator[Containers]:
    home = Home(tmp_path / "home")
    opened = Containers(home)
    await opened.open()
    yield opened
    await opened.close()
    assert traces_of(home.path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 24 MB."""
    enter_private_mounts()
    place = tmp_path / "small"
    place.mkdir()
    kernel.mount("tmpfs", str(place), "tmpfs", options="size=24m")
    yield place
    kernel.umount(str(place), kernel.MNT_DETACH)


def drain(fd: int, seconds: float = 200.0) -> str:
    """Everything until the end of file."""
    parts = []
    deadline = time.monotonic() + seconds
    while select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
        data = os.read(fd, 65536)
        if not data:
            return b"".join(parts).decode()
        parts.append(data)
    raise AssertionError("no end of file")


async def line_of(descriptor: int) -> str:
    """The next line of a container's output, without blocking the loop."""
    loop, found = asyncio.get_running_loop(), b""
    while not found.endswith(b"\n"):
        ready = asyncio.Event()
        loop.add_reader(descriptor, ready.set)
        try:
            await asyncio.wait_for(ready.wait(), 200)
        finally:
            loop.remove_reader(descriptor)
        found += os.read(descriptor, 1000)
    return found.decode().strip()


_numbers = iter(range(1_000_000))


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Launch]:
    """A launch with defaults: `launch("sh", "-c", "…", network="none")`."""

    def make(*argv: str, **fields: object) -> Launch:
        name = str(fields.pop("container_id", f"ta-test{next(_numbers)}"))
        values = {
            "layers": [Path("/")],
            "env": {},
            "directory": tmp_path / "home" / "containers" / name,
            "limits": Limits(),
            **fields,
        }
        return Launch(container_id=name, argv=list(argv), **values)  # type: ignore[arg-type]

    return make


@pytest.fixture
def run(containers: Containers, launch: Callable[..., Launch]) -> Callable[..., Awaitable[Ran]]:
    """Start, wait, read the output, close."""

    async def run_one(*argv: str, **fields: object) -> Ran:
        running = await containers.start(launch(*argv, **fields))
        return await finish(running)

    return run_one


async def finish(running: Running) -> Ran:
    ended = await running.wait()
    ran = Ran(ended, drain(running.stdout_fd), drain(running.stderr_fd))
    await running.close()
    return ran


@pytest.fixture
def python(run: Callable[..., Awaitable[Ran]]) -> Callable[..., Awaitable[Ran]]:
    """Run a Python program in a container."""

    async def run_program(program: str, **fields: object) -> Ran:
        return await run(PYTHON, "-I", "-c", program, **fields)

    return run_program
