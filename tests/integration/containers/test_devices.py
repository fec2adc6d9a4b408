"""Device nodes in containers: those that a container was given work, others are not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from intermodal.worker.containers import Bind, Device
from tests.integration.containers.conftest import PYTHON

pytestmark = pytest.mark.containers

LOOK = """
import os, stat
for name in ('nvidia0', 'nvidia1'):
    try:
        file = os.open(f'/dev/{name}', os.O_RDWR)
        print(name, os.major(os.fstat(file).st_rdev), os.minor(os.fstat(file).st_rdev))
    except OSError as error:
        print(name, error.strerror)
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """The device of tunnels or of file systems under another name: no container may open it unless it is told to."""
    found = next(name for name in ("/dev/net/tun", "/dev/fuse", "/dev/loop-control") if os.path.exists(name))
    node = tmp_path / "nvidia0"
    os.mknod(node, 0o600 | stat.S_IFCHR, os.stat(found).st_rdev)
    return node


async def test_a_stand_in_device_is_there_for_the_container_that_has_it(python, stand_in: Path):
    ran = await python(LOOK, devices=[Device(stand_in, "/dev/nvidia0")])
    number = stand_in.stat().st_rdev
    assert ran.out == f"nvidia0 {os.major(number)} {os.minor(number)}\nnvidia1 No such file or directory\n"
    ran = await python(LOOK)
    assert ran.out == "nvidia0 No such file or directory\nnvidia1 No such file or directory\n"


async def test_the_control_group_refuses_a_device_that_was_not_given(python, stand_in: Path):
    """Also where a node of it has got into the container."""
    program = "try: open('/dev/given', 'rb', 0)\nexcept OSError as error: print(error.strerror)"
    ran = await python(program, binds=[Bind(stand_in, "/dev/given")])
    assert ran.out == "Permission denied\n"  # by the group, or because binds carry no devices


async def test_hooks_run_before_the_program(run, tmp_path: Path):
    note = tmp_path / "hook-ran"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat >/dev/null; echo yes >{note}"]}
    ran = await run(PYTHON, "-c", "print(1)", hooks={"createRuntime": [hook]})
    assert (ran.out, note.read_text()) == ("1\n", "yes\n")
