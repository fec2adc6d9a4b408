"""Limits hold, and breaking one says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers import Containers, Limits
from tests.integration.containers.conftest import PYTHON, finish, line_of

pytestmark = pytest.mark.containers


async def test_more_memory_than_allowed(python):
    ran = await python("x = bytearray(300 << 20)\nprint('survived')", limits=Limits(memory=64))
    assert (ran.exit.reason, ran.exit.signal, ran.out) == ("out-of-memory", 9, "")
    assert "memory" in ran.exit.detail


async def test_memory_within_the_limit(python):
    ran = await python("x = bytearray(64 << 20)\nprint('survived')", limits=Limits(memory=256))
    assert (ran.exit.code, ran.out.strip()) == (0, "survived")


async def test_shared_memory_counts(python):
    ran = await python(
        "try: open('/dev/shm/x', 'wb').write(bytes(80 << 20))\nexcept OSError as error: print(error.strerror)",
        limits=Limits(memory=64),
    )
    assert "No space" in ran.out or ran.exit.reason == "out-of-memory"


async def test_an_outsiders_kill_is_not_taken_for_memory(python):
    ran = await python("import os; os.kill(os.getpid(), 9); import time; time.sleep(0.1); os._exit(0)")
    assert ran.exit.reason == "exited"  # a first process is deaf to its own SIGKILL


async def test_cpu_share(python):
    ran = await python(
        "import time\n"
        "began, used = time.monotonic(), time.process_time()\n"
        "while time.process_time() - used < 0.2: pass\n"
        "print((time.process_time() - used) / (time.monotonic() - began))",
        limits=Limits(cpu=0.25),
    )
    assert float(ran.out) < 0.4


async def test_processes(python):
    ran = await python(
        "import os, time\n"
        "count = 0\n"
        "try:\n"
        "    while count < 200:\n"
        "        if os.fork() == 0: time.sleep(30); os._exit(0)\n"
        "        count += 1\n"
        "except BlockingIOError: print(count)\n",
        limits=Limits(pids=50),
    )
    assert 40 <= int(ran.out) <= 50


async def test_usage(containers: Containers, launch):
    program = "x = bytearray(100 << 20)\nsum(range(3_000_000))\nprint(1, flush=True)\nimport time; time.sleep(100)"
    running = await containers.start(launch(PYTHON, "-I", "-c", program))
    assert await line_of(running.stdout_fd) == "1"
    cpu, memory = running.usage()
    assert 0.02 < cpu < 20
    assert 95 < memory < 200
    await running.close()


async def test_a_full_disk_is_named(small_disk: Path, launch):
    containers = Containers(Home(small_disk))
    await containers.open()
    directory = containers.home.containers / "ta-full"
    running = await containers.start(launch("sh", "-c", "head -c 60000000 /dev/zero >/srv/big", directory=directory))
    ran = await finish(running)
    assert (ran.exit.code, ran.exit.reason) == (1, "out-of-disk")
    assert "No space left" in ran.err
    await containers.close()
