"""The whole system through its own commands: one started platform for all acceptance tests of a run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from intermodal.home import Home
from tests import reaper
from tests.images_cache import lend_base
from tests.leaks import RUNNING, Traces
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT.parent / "shared" / "spec" / "programs"
START_SECONDS = 60
GPUS = "T4,L4,A10G,A100-40GB:2,A100-80GB:2,L40S:2,H100:2"  # simulated: what documented programs ask for
RUN_SECONDS = 560  # less than a test has, so that what hangs is shown
BUILD_SECONDS = 1000  # of a command that builds large images
PATIENCE = 200.0  # seconds for what a test waits for: it only ends what hangs


def until(condition: Callable[[], object], what: str = "it did not come to pass") -> None:
    """Wait for what comes by itself."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def lines(self) -> list[str]:
        """Of stdout, without those that tell about progress."""
        told = ("✓", "├", "└", "│", "Building image", "Built image", "=> Step")
        return [line for line in self.out.splitlines() if line and not line.startswith(told)]


class Platform:
    """A state directory with a running server, and the two commands."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._started: list[subprocess.Popen[str]] = []
        self.open_port = free_port()  # of this machine, which containers may reach
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "INTERMODAL_"))},
            "INTERMODAL_HOME": str(home),
            "INTERMODAL_HOST_PORTS": str(self.open_port),
            "INTERMODAL_SIMULATED_GPUS": GPUS,
            "MODAL_CONFIG_PATH": str(home / "modal.toml"),
            "TERM": "dumb",
            "NO_COLOR": "1",
        }

    def command(self, module: str, *args: str | Path, env: dict[str, str] | None = None) -> list[str]:
        return [sys.executable, "-m", module, *map(str, args)]

    def start(
        self,
        module: str,
        *args: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        merged: bool = False,
    ) -> subprocess.Popen[str]:
        """A command that goes on while the test looks. It is ended with the platform at the latest.

        `merged`: what it and its children print comes by `stdout` alone, in the order in which it was printed.
        """
        return self._start(self.command(module, *args), cwd, env, merged=merged)

    def start_python(self, program: Path, *args: str, listens: bool = False) -> subprocess.Popen[str]:
        """As `start`: a program of the user's that is run with `python`. `listens`: it reads lines from `stdin`."""
        return self._start([sys.executable, str(program), *args], None, None, subprocess.PIPE if listens else None)

    def _start(
        self,
        command: list[str],
        cwd: Path | None,
        env: dict[str, str] | None,
        stdin: int | None = None,
        merged: bool = False,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end_commands(self, kept: int = 0) -> None:
        """Kill what a failed test has left: all but the first `kept`."""
        for process in self._started[kept:]:
            if process.poll() is None:
                process.kill()
            process.communicate()
        del self._started[kept:]

    @property
    def commands(self) -> int:
        """How many were started."""
        return len(self._started)

    def run(
        self,
        module: str,
        *args: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        seconds: float = RUN_SECONDS,
    ) -> Ran:
        process = self.start(module, *args, cwd=cwd, env=env)
        return self._end_of(process, f"{module} {' '.join(map(str, args))}", seconds)

    def python(self, text: str) -> Ran:
        """A program of the user's, given as text."""
        return self._end_of(self._start([sys.executable, "-c", text], None, None), text, RUN_SECONDS)

    def _end_of(self, process: subprocess.Popen[str], what: str, seconds: float) -> Ran:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"{what} did not end:\n{out}\n{err}")
        return Ran(process.returncode, out, err)

    def status(self) -> dict[str, Any]:
        """What `intermodal status --json` says."""
        ran = self.intermodal("status", "--json")
        assert ran.code == 0, ran.text
        found: dict[str, Any] = json.loads(ran.out)
        return found

    def modal(self, *args: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> Ran:
        """The command `modal`."""
        return self.run("modal", *args, cwd=cwd, env=env)

    def builds(self, *args: str | Path, cwd: Path | None = None) -> str:
        """What the command `modal` prints, which succeeds and has time for images to be built."""
        ran = self.run("modal", *args, cwd=cwd, seconds=BUILD_SECONDS)
        assert ran.code == 0, ran.out[-5000:] + ran.err[-5000:]
        return ran.out

    def intermodal(self, *args: str | Path) -> Ran:
        """The command `intermodal`."""
        return self.run("intermodal", *args)


@contextlib.contextmanager
def new_platform(size: str = "", on_disk: bool = False) -> Iterator[Platform]:
    """A state directory with the base image, not started; at the end it is ended, and nothing may be left.

    `size`: on a file system of its own, as large as `mount` understands; `on_disk`: an ext4 one, not in memory.
    """
    if os.geteuid() != 0 or shutil.which("crun") is None:
        pytest.skip("acceptance tests need root and crun")
    home = disk = Path(tempfile.mkdtemp(prefix="im-accept-", dir="/tmp"))
    reaper.tell("disk" if size else "home", disk)
    if size:
        _mount_ext4(disk, size) if on_disk else subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(disk)], check=True
        )
        home = disk / "h"  # others' mount namespaces have the disk too: what names it alone is not ours
        home.mkdir(mode=0o700)
        reaper.tell("home", home)
    traces = Traces(home)
    before = traces.now()
    RUNNING.add(home)
    asyncio.run(lend_base(Home(home)))
    it = Platform(home)
    try:
        yield it
    finally:
        it.end_commands()
        down = it.intermodal("down")
        RUNNING.discard(home)
        left = traces.after(before)
        shutil.rmtree(home, ignore_errors=True)
        if size:
            subprocess.run(["umount", "-l", str(disk)], check=True)
            disk.rmdir()
        reaper.tell("gone", home)
        reaper.tell("gone", disk)
    assert down.code == 0, down.text
    assert not left, "left behind:\n  " + "\n  ".join(left)


def _mount_ext4(place: Path, size: str) -> None:
    """In a sparse file that goes with the mount."""
    with tempfile.NamedTemporaryFile(prefix="im-accept-disk-", dir="/tmp") as file:
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", file.name, size], check=True)
        subprocess.run(["mount", "-o", "loop", file.name, str(place)], check=True)


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """The started platform that most tests share."""
    with new_platform() as it:
        up = it.intermodal("up")
        assert up.code == 0, up.text
        yield it


@pytest.fixture(autouse=True)
def no_commands_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a failed test has left running on the shared platform does not disturb the next one."""
    if "platform" not in request.fixturenames:
        yield
        return
    shared: Platform = request.getfixturevalue("platform")
    kept = shared.commands  # those of fixtures of wider scopes
    yield
    shared.end_commands(kept)


@pytest.fixture
def own_platform() -> Iterator[Platform]:
    """A platform for one test, not started: for tests that break it."""
    with new_platform() as it:
        yield it


@pytest.fixture
def program(tmp_path: Path) -> ProgramFinder:
    """Copies a documented program into the test's directory; skips where the documentation is not at hand."""
    return ProgramFinder(tmp_path)


class ProgramFinder:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, name: str, as_name: str = "") -> Path:
        source = PROGRAMS / f"{name}.py"
        if not source.exists():
            pytest.skip("the documented programs are not beside this checkout")
        target = self.directory / (as_name or source.name.replace("-", "_"))
        shutil.copyfile(source, target)
        return target
