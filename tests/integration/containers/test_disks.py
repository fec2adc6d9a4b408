"""A container fills its own disk, and no other's."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from intermodal.worker.containers import Containers, Limits
from intermodal.worker.containers.disks import DEFAULT_SIZE, Disks, unmount
from tests.integration.containers.conftest import PYTHON, drain, finish

pytestmark = pytest.mark.containers

FILL = """
import errno, os
written = 0
try:
    with open('/srv/big', 'wb', 0) as file:
        while written < 200 << 20:
            written += file.write(bytes(1 << 20))
except OSError as error:
    print(errno.errorcode[error.errno], written >> 20)
else:
    print('no limit')
"""


async def test_a_full_disk_is_an_error_of_the_program(python):
    ran = await python(FILL, limits=Limits(disk=48))
    word, size = ran.out.split()
    assert word == "ENOSPC"
    assert 32 <= int(size) <= 48
    assert ran.exit.code == 0, "it may go on"


async def test_a_program_that_ends_because_of_it_says_so(run):
    ran = await run("sh", "-c", "head -c 60000000 /dev/zero >/srv/big", limits=Limits(disk=32))
    assert (ran.exit.code, ran.exit.reason, ran.exit.detail) == (1, "out-of-disk", "its disk of 32 MiB is full")


async def test_what_is_deleted_makes_room(run):
    script = "for i in 1 2 3 4 5; do head -c 20000000 /dev/zero >/srv/big && rm /srv/big || exit 9; done; echo ok"
    assert (await run("sh", "-c", script, limits=Limits(disk=48))).out == "ok\n"


async def test_small_files_have_a_limit_too(python):
    program = (
        "import os\nos.mkdir('/srv/d')\ntry:\n    for i in range(100_000): open(f'/srv/d/{i}', 'w').close()\n"
        "except OSError as error: print(error.strerror)"
    )
    assert (await python(program, limits=Limits(disk=64))).out == "No space left on device\n"


async def test_nothing_is_left_of_a_disk(containers: Containers, launch, run, tmp_path: Path):
    running = await containers.start(launch("true"))
    await finish_closing(running)
    before = _loops(tmp_path)
    running = await containers.start(launch(PYTHON, "-c", "print(1)", limits=Limits(disk=64)))
    assert _loops(tmp_path) - before
    drain(running.stdout_fd)
    await finish_closing(running)
    assert len(_loops(tmp_path)) <= len(before) + 3, "those that wait for the next containers"
    # Empty ones are as large as they look to whoever reads the state directory, so they have no name either.
    assert not [path for path in containers.disks.directory.rglob("*") if path.is_file()]


async def finish_closing(running) -> None:
    await running.wait()
    await running.close()


async def test_a_disk_of_the_usual_size_is_made_ahead(containers: Containers, run, launch):
    first = await containers.start(launch("sh", "-c", "df -m / | tail -1", limits=Limits(disk=DEFAULT_SIZE)))
    ran = await finish(first)
    assert int(ran.out.split()[1]) > 180_000
    for _attempt in range(5):
        assert (await run("true", limits=Limits(disk=DEFAULT_SIZE))).exit.code == 0
        assert (await run("true", limits=Limits(disk=32))).exit.code == 0


async def test_an_adopted_container_has_its_disk_still(containers: Containers, launch, tmp_path: Path):
    program = "import sys; open('/srv/a', 'w').write('kept'); print(1, flush=True); input = sys.stdin; import time\n"
    program += "time.sleep(1); print(open('/srv/a').read())"
    running = await containers.start(launch(PYTHON, "-c", program, limits=Limits(disk=64)))
    unmount(running.places.disk)  # as when the mount namespace of the worker that made it is gone
    ran = await finish(running)
    assert ran.out == "1\nkept\n"


def test_where_no_disk_can_be_made_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda *_args, **_named: None)
    disks = Disks(tmp_path / "disks")
    disks.open()
    assert disks.problem == (
        "disks of containers have no limit: mkfs.ext4 is missing (`apt-get install e2fsprogs` adds it)"
    )


def _loops(below: Path) -> set[str]:
    """Loop devices whose files lie, or lay, below a directory."""
    found = set()
    for name in os.listdir("/sys/block"):
        with contextlib.suppress(OSError):
            if Path(f"/sys/block/{name}/loop/backing_file").read_text().startswith(str(below)):
                found.add(name)
    return found
