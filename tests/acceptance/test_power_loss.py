"""Loss of power: what was acknowledged is there, whatever a disk with a cache has kept of the rest.

A platform works in a state directory on a disk that notes every write and every flush (`power_disk`). Then the disk is
made anew as it may be after a loss of power at some moment (`power_states`), the kernel mounts and repairs it, and a
server starts there as if nothing had been (`power_work` says what must be found).

`INTERMODAL_POWER_STATES=300` makes so many states of each file system, `INTERMODAL_POWER_SECONDS` says how long the
platform works, `INTERMODAL_POWER_SEED` repeats the choices, `INTERMODAL_POWER_FILE_SYSTEMS=ext4,xfs` chooses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.home import Home
from tests import reaper
from tests.acceptance import power_disk, power_work
from tests.acceptance.conftest import Platform
from tests.acceptance.power_states import LOSSES, Recording
from tests.images_cache import lend_base

pytestmark = [pytest.mark.acceptance, pytest.mark.containers, pytest.mark.timeout(0)]

STATES = int(os.environ.get("INTERMODAL_POWER_STATES", "8"))
SECONDS = float(os.environ.get("INTERMODAL_POWER_SECONDS", "8"))
SEED = int(os.environ.get("INTERMODAL_POWER_SEED", random.randrange(1 << 32)))
WHOLE = 4  # one state of so many is looked at from containers too
SIZE = 1 << 30  # bytes of the disk
FILE_SYSTEMS = {  # how to make and how to mount them
    "ext4": (["mkfs.ext4", "-q", "-F"], "noauto_da_alloc"),
    # Names get to the disk before what they name: what other file systems may do, and what is hardest to stand.
    "ext4-writeback": (["mkfs.ext4", "-q", "-F"], "data=writeback,noauto_da_alloc,commit=1"),
    "xfs": (["mkfs.xfs", "-q", "-f"], "nouuid"),
}
CHOSEN = os.environ.get("INTERMODAL_POWER_FILE_SYSTEMS", "ext4-writeback").split(",")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
PARTS = 240.0  # seconds that a part may take that takes seconds


class Rebooted(Platform):
    """`boot`: what the kernel calls the time since the machine was started, where that is not the truth."""

    boot: Path | None = None

    def command(self, module: str, *args: str | Path, env: dict[str, str] | None = None) -> list[str]:
        command = super().command(module, *args, env=env)
        if self.boot is None:
            return command
        return ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {BOOT_ID} && exec "$@"', str(self.boot), *command]


class Machine:
    """One that can lose its power: where its disk is mounted, and where what is known of it is kept."""

    def __init__(self, folder: Path, place: Path, file_system: str) -> None:
        self._make, self._options = FILE_SYSTEMS[file_system]
        self._folder = folder
        self._place = place
        self.base, self._image, self._log, self._count, self._file = (
            folder / name for name in ("base", "image", "log", "count", "file")
        )
        self.platform = Rebooted(place / "h")
        self.platform.env["POWER_FOLDER"] = str(folder)

    def prepare(self) -> None:
        """The disk as it is before anything is noted."""
        # The first time it starts containers, after which this process has mounts of its own.
        asyncio.run(lend_base(Home(self._folder / "lent")))
        with self.base.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run([*self._make, str(self.base)], check=True)
        with self.mounted(self.base):
            self.platform.home.mkdir(mode=0o700)
            asyncio.run(lend_base(Home(self.platform.home)))
        subprocess.run(["cp", "--sparse=always", str(self.base), str(self._image)], check=True)
        self._count.write_bytes(bytes(power_disk.COUNT.size))
        self._file.touch()

    @contextlib.contextmanager
    def mounted(self, image: Path) -> Iterator[None]:
        """Raises CalledProcessError where the kernel cannot read it."""
        subprocess.run(["mount", "-o", f"loop,{self._options}", str(image), str(self._place)], check=True)
        try:
            yield
        finally:
            self._unmount()

    def _unmount(self) -> None:
        if subprocess.run(["umount", str(self._place)], check=False, capture_output=True).returncode:
            subprocess.run(["umount", "-l", str(self._place)], check=True)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """The disk, with all that is done to it noted."""
        program = [sys.executable, power_disk.__file__, *map(str, (self._image, self._log, self._count, self._file))]
        process = subprocess.Popen(program)
        try:
            while self._file.stat().st_size != SIZE:
                assert process.poll() is None, "the disk in user space does not start"
                time.sleep(0.01)
            with self.mounted(self._file):
                yield
        finally:
            subprocess.run(["umount", "-l", str(self._file)], check=False)
            process.wait(PARTS)

    def work(self, seconds: float) -> list[str]:
        """Let the platform work; the ledgers of what was done."""
        ledgers = {name: str(self._folder / f"{name}.ledger") for name in power_work.WORKS}
        with self._running(True) as problem:
            assert not problem, problem
            self._work(seconds, ledgers)
            time.sleep(1.5)  # what is written behind
        return list(ledgers.values())

    def _work(self, seconds: float, ledgers: dict[str, str]) -> None:
        workers = {}
        for name, ledger in ledgers.items():
            workers[name] = self.platform.start_python(
                Path(power_work.__file__), "work", name, ledger, str(self._count), str(seconds), str(SEED)
            )
            if name == power_work.FIRST:
                said = workers[name].stdout
                assert said is not None
                if not said.readline():
                    pytest.fail(f"{name}: {workers[name].communicate()[1]}")
        for name, worker in workers.items():
            out, err = worker.communicate(timeout=PARTS + seconds)
            assert worker.returncode == 0, f"{name}: {out}{err}"

    def recording(self) -> Recording:
        return Recording(self.base, self._log)

    # -- after a loss of power
    def found_wrong(self, moment: int, whole: bool, ledgers: list[str]) -> list[str]:
        """Start on what is mounted, without help; what is not as it must be."""
        self.platform.boot = self._folder / "boot"
        self.platform.boot.write_text(f"{uuid.uuid4()}\n")
        said = ""
        with self._running(whole) as problem:
            if problem:
                return [problem, *self._logs()]
            checker = self.platform.start_python(
                Path(power_work.__file__), "check", str(moment), "all" if whole else "server", *ledgers
            )
            said, err = checker.communicate(timeout=PARTS * 2)
            lines = said.splitlines()
            if checker.returncode or not lines or json.loads(lines[-1])[0] != "checked":
                return [*lines, err, *self._logs()]
            return [*lines[:-1], *(self._logs() if lines[1:] else ())]

    def _logs(self) -> list[str]:
        found = []
        for name in ("server.log", "worker.log"):
            with contextlib.suppress(OSError):
                found.append(f"{name}:\n{(self.platform.home / name).read_text(errors='replace')[-3000:]}")
        return found

    @contextlib.contextmanager
    def _running(self, whole: bool) -> Iterator[str]:
        """Server, and worker; why not, if not."""
        if whole:
            up = self.platform.intermodal("up")
            try:
                yield up.text if up.code else ""
            finally:
                down = self.platform.intermodal("down")
                assert down.code == 0, down.text
            return
        read, write = os.pipe()
        with (self.platform.home / "server.log").open("a") as log:
            server = subprocess.Popen(
                self.platform.command("intermodal.server", "--no-worker", "--ready-fd", str(write)),
                env=self.platform.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=[write],
            )  # fmt: skip
        os.close(write)
        try:
            with os.fdopen(read) as ready:
                told = ready.readline().strip()
            yield "" if told == "ready" else f"the server does not start: {told}"
        finally:
            server.terminate()
            try:
                server.wait(PARTS)
            finally:
                server.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where there is room."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 6 << 30
    with tempfile.TemporaryDirectory(prefix="im-power-", dir=memory if roomy else "/tmp") as path:
        yield Path(path)


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="im-power-", dir="/tmp"))
    reaper.tell("disk", path)
    reaper.tell("home", path / "h")
    yield path
    reaper.tell("gone", path / "h")
    reaper.tell("gone", path)
    path.rmdir()


def _missing(file_system: str) -> str:
    if os.geteuid() != 0 or shutil.which("crun") is None:
        return "needs root and crun"
    if not Path("/dev/fuse").exists() or not Path("/dev/loop-control").exists():
        return "needs FUSE and loop devices"
    kernel = file_system.partition("-")[0]
    if f"\t{kernel}\n" not in Path("/proc/filesystems").read_text():
        return f"this kernel has no {kernel}"
    program = FILE_SYSTEMS[file_system][0][0]
    return "" if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") else f"needs {program}"


def chosen(recording: Recording, ledgers: list[str], chance: random.Random) -> list[int]:
    """Of any moment as many as of those right after an acknowledgement, of which each kind has its share."""
    acknowledged = power_work.Past(ledgers, len(recording) + 1).moments()
    found = chance.choices(range(1, len(recording) + 1), k=STATES // 2)
    kinds = list(acknowledged)
    chance.shuffle(kinds)
    for number in range(STATES - len(found)):
        found.append(chance.choice(acknowledged[kinds[number % len(kinds)]]))
    return sorted(found)


@pytest.mark.parametrize("file_system", CHOSEN)
def test_what_was_acknowledged_survives_a_loss_of_power(file_system: str, folder: Path, place: Path) -> None:
    if reason := _missing(file_system):
        pytest.skip(reason)
    machine = Machine(folder, place, file_system)
    machine.prepare()
    with machine.noting():
        ledgers = machine.work(SECONDS)
    recording = machine.recording()
    print(f"{file_system}: seed {SEED}, {len(recording)} records, {recording.flushes} flushes")
    chance = random.Random(SEED)
    moments = chosen(recording, ledgers, chance)
    wrong: list[str] = []
    for number, moment in enumerate(moments):
        loss = LOSSES[number % len(LOSSES)] if STATES <= len(LOSSES) * 2 else chance.choice(LOSSES)
        whole = number % WHOLE == WHOLE - 1
        state = folder / "state"
        recording.make(state, moment, loss, chance)
        began = time.monotonic()
        with machine.mounted(state):
            found = machine.found_wrong(moment, whole, ledgers)
        state.unlink()
        lost = recording.unflushed(moment)
        print(f"state {number} at {moment}, {loss} of {lost} lost{', whole' if whole else ''}: "
              f"{'wrong' if found else 'right'} ({time.monotonic() - began:.1f} s)", flush=True)  # fmt: skip
        if found:
            wrong.append("\n".join([f"-- {file_system}, state {number} at record {moment}, {loss} lost:", *found]))
            print(wrong[-1], flush=True)
    recording.close()
    assert not wrong, f"{len(wrong)} of {STATES} states (seed {SEED}):\n" + "\n".join(wrong)
