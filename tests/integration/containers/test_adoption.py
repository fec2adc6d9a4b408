"""A worker is killed at any moment; the next one adopts what runs and removes the rest."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers import Containers
from intermodal.worker.containers.processes import Process
from tests.integration.containers.conftest import drain, line_of
from tests.integration.containers.traces import traces_of

pytestmark = pytest.mark.containers

WORKER = """
import asyncio, os, sys
from pathlib import Path
from intermodal.home import Home
from intermodal.worker.containers import Containers, Launch, enter_private_mounts

enter_private_mounts()

async def main():
    home = Home(sys.argv[1])
    containers = Containers(home)
    await containers.open()
    await containers.adopt()
    async def one(number):
        name = f"ta-{os.getpid()}-{number}"
        return await containers.start(Launch(
            name, [Path("/")], ["sh", "-c", sys.argv[2]], {}, home.containers / name,
            outlives_worker=sys.argv[4] == "keep",
        ))
    for running in await asyncio.gather(*map(one, range(int(sys.argv[3])))):
        print(running.container_id, running.pid, flush=True)
    print("all", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""
COMMAND = "trap 'echo told; exit 5' TERM; echo begun; while :; do sleep 0.02; done"


def worker(home: Path, count: int = 1, keep: str = "keep", command: str = COMMAND) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(home), command, str(count), keep], stdout=subprocess.PIPE, text=True
    )


def await_all(process: subprocess.Popen[str]) -> dict[str, int]:
    assert process.stdout is not None
    started = {}
    for line in process.stdout:
        if line.strip() == "all":
            return started
        name, pid = line.split()
        started[name] = int(pid)
    raise AssertionError("the worker ended")


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


async def test_a_new_worker_adopts_what_runs(tmp_path: Path):
    home = tmp_path / "home"
    process = worker(home, 2)
    started = await_all(process)
    kill(process)
    containers = Containers(Home(home))
    await containers.open()
    adopted = {running.container_id: running for running in await containers.adopt()}
    assert {name: running.pid for name, running in adopted.items()} == started
    for running in adopted.values():
        assert running.adopted
        assert running.usage()[1] > 0
        assert await line_of(running.stdout_fd) == "begun"  # before that, it is deaf to signals
        running.signal(signal.SIGTERM)
        ended = await running.wait()
        assert (ended.code, ended.reason) == (5, "exited")
        assert drain(running.stdout_fd) == "told\n"
        await running.close()
    assert await containers.adopt() == []
    await containers.close()
    assert traces_of(home) == []


async def test_an_end_that_no_worker_saw_is_told(tmp_path: Path):
    home = tmp_path / "home"
    process = worker(home, 1, command="sleep 0.3; exit 9")
    started = await_all(process)
    kill(process)
    for pid in started.values():
        while os.path.exists(f"/proc/{pid}"):
            await asyncio.sleep(0.01)
    containers = Containers(Home(home))
    await containers.open()
    (running,) = await containers.adopt()
    assert (await asyncio.wait_for(running.wait(), 200)).code == 9
    await containers.close()
    assert traces_of(home) == []


async def test_builds_are_not_adopted(tmp_path: Path):
    home = tmp_path / "home"
    process = worker(home, 2, keep="drop")
    started = await_all(process)
    kill(process)
    containers = Containers(Home(home))
    await containers.open()
    assert await containers.adopt() == []
    assert not any(Process.of(pid) for pid in started.values())
    assert list(containers.home.containers.iterdir()) == []
    await containers.close()
    assert traces_of(home) == []


async def test_a_worker_that_ends_in_peace_may_leave_its_containers(tmp_path: Path, launch):
    first = Containers(Home(tmp_path / "home"))
    await first.open()
    running = await first.start(launch("sh", "-c", COMMAND, container_id="ta-stays"))
    pid, address = running.pid, running.address
    await first.close(keep_containers=True)
    assert os.path.exists(f"/proc/{pid}")
    second = Containers(Home(tmp_path / "home"))
    await second.open()
    (adopted,) = await second.adopt()
    assert (adopted.container_id, adopted.pid, adopted.address) == ("ta-stays", pid, address)
    assert adopted.exit is None
    await second.close()
    assert Process.of(pid) is None
    assert traces_of(tmp_path / "home") == []


async def test_state_of_another_boot_is_void(tmp_path: Path, launch):
    directory = tmp_path / "home" / "containers" / "ta-old"
    directory.mkdir(parents=True)
    (directory / "state.json").write_text('{"version": 1, "boot": "another", "monitor": {"pid": 1, "started": 1}}')
    (directory / "pid").write_text("1")
    torn = tmp_path / "home" / "containers" / "ta-torn"
    torn.mkdir()
    (torn / "state.json").write_text('{"version": 1,')
    containers = Containers(Home(tmp_path / "home"))
    await containers.open()
    assert await containers.adopt() == []
    assert not directory.exists()
    assert not torn.exists()
    await containers.close()


@pytest.mark.slow
async def test_killed_at_any_moment(tmp_path: Path):
    """Each worker is killed while it starts containers; each next one begins on what is left."""
    chance = random.Random(5)
    home = tmp_path / "home"
    for round in range(20):
        process = worker(home, 4)
        time.sleep(0.15 + chance.random() * 0.25)
        kill(process)
        if round % 4 == 3:
            containers = Containers(Home(home))
            await containers.open()
            for running in await containers.adopt():
                ended = None
                if running.pid:
                    assert os.path.exists(f"/proc/{running.pid}")
                    await running.kill()
                ended = await running.wait()
                assert ended.code != 0
            await containers.close()
            assert traces_of(home) == []
