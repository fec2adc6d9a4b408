"""A volume that is being committed while its container, the worker or the server is killed, and on a full disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE, Platform, new_platform, until

pytestmark = pytest.mark.acceptance

ROUNDS = int(os.environ.get("INTERMODAL_SOAK_ROUNDS", "8"))  # hundreds for a soak
FILES = 5  # in each generation
PARTS = ("worker", "server")

WRITER = f"""
import os, pathlib, shutil
import modal

app = modal.App("writer")
vol = modal.Volume.from_name("faults", create_if_missing=True)
nfs = modal.NetworkFileSystem.from_name("faults", create_if_missing=True)
DATA = pathlib.Path("/data")

def acknowledge(name, number):
    pathlib.Path(f"/nfs/{{name}}.new").write_text(str(number))
    os.replace(f"/nfs/{{name}}.new", f"/nfs/{{name}}")

@app.function(volumes={{"/data": vol}}, network_file_systems={{"/nfs": nfs}}, timeout=600, max_containers=1)
def write():
    number = max([int(p.name[4:]) for p in DATA.glob("gen-*")], default=0)
    while True:
        number += 1
        new = DATA / f"new-{{number}}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for i in range({FILES}):
            (new / str(i)).write_text(str(number) * 1000 * (i + 1))
        new.rename(DATA / f"gen-{{number}}")
        old = DATA / f"gen-{{number - 3}}"
        if old.exists():
            old.rename(DATA / f"trash-{{number}}")
            shutil.rmtree(DATA / f"trash-{{number}}")
        vol.commit()
        acknowledge("written", number)

@app.function(volumes={{"/data": vol}}, network_file_systems={{"/nfs": nfs}}, timeout=600, max_containers=1)
def read():
    while True:
        before = int(pathlib.Path("/nfs/written").read_text())
        vol.reload()
        newest = max(int(p.name[4:]) for p in DATA.glob("gen-*"))
        assert newest >= before, (newest, before)
        for i in range({FILES}):
            assert (DATA / f"gen-{{newest}}" / str(i)).read_text() == str(newest) * 1000 * (i + 1)
        acknowledge("seen", newest)
"""


class Faults:
    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        home = platform.home
        self.ack = home / "network-files"

    def spawn(self, *names: str) -> None:
        calls = "; ".join(f"modal.Function.from_name('writer', {name!r}).spawn()" for name in names)
        program = f"import modal; {calls}"
        subprocess.run([sys.executable, "-c", program], env=self.platform.env, check=True, timeout=PATIENCE)

    def acknowledged(self, what: str = "written") -> int:
        found = list(self.ack.glob(f"*/{what}"))
        return int(found[0].read_text()) if found else 0

    def wait_for(self, number: int, *what: str) -> None:
        until = time.monotonic() + PATIENCE
        for one in what:
            while self.acknowledged(one) < number:
                if time.monotonic() > until:
                    pytest.fail(f"{one} stays at {self.acknowledged(one)}, {number} is awaited\n{self.said()}")
                time.sleep(0.02)

    def said(self) -> str:
        """The last of what the containers, the worker and the server have said."""
        process = self.platform.start("modal", "app", "logs", "writer")
        with contextlib.suppress(subprocess.TimeoutExpired):  # it follows
            process.wait(5)
        process.kill()
        logs = [process.communicate()[0], *(self.platform.home.joinpath(f"{n}.log").read_text() for n in PARTS)]
        return "\n---\n".join(text[-3000:] for text in logs)

    def kill(self, victim: str) -> None:
        if victim == "everything":
            status = self.platform.status()
            for process in (status["pid"], status["workers"][0]["pid"]):
                os.kill(process, signal.SIGKILL)
        if victim in ("container", "everything"):
            for pid in (self.platform.home / "containers").glob("ta-*/pid"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the end of one that was killed
                    os.kill(int(pid.read_text()), signal.SIGKILL)
            return
        status = self.platform.status()
        os.kill(status["pid"] if victim == "server" else status["workers"][0]["pid"], signal.SIGKILL)

    def check(self) -> int:
        """Every version that is kept is whole; the newest generation in the newest one."""
        store = sqlite3.connect(f"file:{self.platform.home / 'volumes.sqlite'}?mode=ro", uri=True)
        try:
            store.execute("BEGIN")
            rows = store.execute("SELECT parent, name, kind, content FROM volume_files").fetchall()
            old = store.execute("SELECT content FROM volume_changes WHERE kind = 1").fetchall()
        finally:
            store.close()
        objects = self.platform.home / "volumes/objects"
        for content in {row[3] for row in rows if row[2] == 1} | {row[0] for row in old}:
            digest = content.decode()
            data = (objects / digest[:2] / digest).read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest
        tree = {(parent.decode(), name.decode()): content.decode() for parent, name, _kind, content in rows}
        generations = sorted(int(name[4:]) for parent, name in tree if not parent and name.startswith("gen-"))
        for number in generations:
            files = {name: digest for (parent, name), digest in tree.items() if parent == f"gen-{number}"}
            wanted = {str(i): hashlib.sha256((str(number) * 1000 * (i + 1)).encode()).hexdigest() for i in range(FILES)}
            assert files == wanted, f"generation {number} is a mix"
        return generations[-1] if generations else 0


def test_kills_at_random_moments(own_platform: Platform, tmp_path: Path) -> None:
    platform = own_platform
    program = tmp_path / "writer.py"
    program.write_text(WRITER)
    assert platform.modal("deploy", program).code == 0
    faults = Faults(platform)
    faults.spawn("write")
    faults.wait_for(1, "written")
    faults.spawn("read")
    faults.wait_for(1, "seen")
    chance = random.Random(os.environ.get("INTERMODAL_SOAK_SEED", "volumes"))
    for number in range(ROUNDS):
        victim = ("container", "worker", "server", "everything")[number % 4]
        time.sleep(chance.random() * 0.3)  # the moment is the point
        before = faults.acknowledged()
        faults.kill(victim)
        newest = faults.check()
        assert newest >= before, f"generation {before} was acknowledged, and is lost with the {victim}"
        if victim in ("server", "everything"):
            assert platform.intermodal("up").code == 0
        if victim == "container":
            faults.spawn("write", "read")
        faults.wait_for(max(before, newest) + 2, "written", "seen")
    acknowledged = faults.acknowledged()
    assert faults.check() >= acknowledged


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


FULL = """
import os, pathlib, time
import modal

app = modal.App("full")
vol = modal.Volume.from_name("full", create_if_missing=True)

@app.function(volumes={"/data": vol}, max_containers=1)
def fill():
    (pathlib.Path("/data") / "x").write_text("old")
    vol.commit()
    with open("/data/large", "wb") as file:
        file.write(os.urandom(40 << 20))
    try:
        vol.commit()
    except OSError as error:
        print(error)
    os.unlink("/data/large")
    pathlib.Path("/data/x").write_text("new")
    vol.commit()

@app.function(volumes={"/data": vol}, max_containers=1, timeout=600)
def fill_and_wait():
    with open("/data/large", "wb") as file:
        file.write(os.urandom(40 << 20))
    time.sleep(600)

@app.local_entrypoint()
def main():
    fill.remote()
    print([e.path for e in vol.listdir("/")], b"".join(vol.read_file("x")))
"""


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    with new_platform() as platform:
        # The volumes' part of the state directory is small; images and the rest are elsewhere.
        (platform.home / "volumes").symlink_to(small_disk)
        program = tmp_path / "full.py"
        program.write_text(FULL)
        ran = platform.modal("run", program)
        assert ran.code == 0, ran.text
        said, listed = [line for line in ran.lines() if "is not committed: " not in line]  # in the background
        assert "no space is left" in said.lower()
        assert listed == "['x'] b'new'"
        left = [path.name for path in (small_disk / "objects/.incoming").iterdir()]
        assert left == []
        # Whoever leaves commits to the background is told in the logs, while there is time to make room.
        process = subprocess.Popen(
            platform.command("modal", "run", f"{program}::fill_and_wait"),
            env=platform.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "is not committed" in line:
                break
        assert "what was written to the volume at /data is not committed: " in said, said
        assert "no space is left" in said.lower()
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_two_commits_of_one_file_at_once(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "both.py"
    program.write_text("""
import pathlib, time
import modal

app = modal.App("both")
vol = modal.Volume.from_name("both", create_if_missing=True)

@app.function(volumes={"/data": vol}, max_containers=2, timeout=60)
def write(number, until):
    pathlib.Path("/data/same").write_text(str(number) * 100_000)
    pathlib.Path(f"/data/own-{number}").write_text(str(number))
    time.sleep(max(0, until - time.time()))
    vol.commit()
    return number

@app.local_entrypoint()
def main():
    until = time.time() + 3
    calls = [write.spawn(number, until) for number in range(2)]
    assert sorted(call.get() for call in calls) == [0, 1]
    names = [e.path for e in vol.listdir("/")]
    content = b"".join(vol.read_file("same"))
    assert names == ["own-0", "own-1", "same"], names
    assert content in (b"0" * 100_000, b"1" * 100_000)
    print("done")
""")
    ran = platform.modal("run", program)
    assert ran.code == 0, ran.text
    assert ran.lines() == ["done"]


def test_what_a_worker_leaves_is_committed_by_the_next(own_platform: Platform, tmp_path: Path) -> None:
    """Worker and container die together, nothing of the last changes is committed: they are on the disk."""
    platform = own_platform
    program = tmp_path / "left.py"
    program.write_text("""
import pathlib, time
import modal

app = modal.App("left")
vol = modal.Volume.from_name("left", create_if_missing=True)

@app.function(volumes={"/data": vol}, timeout=600)
def write():
    pathlib.Path("/data/x").write_text("kept")
    time.sleep(600)
""")
    assert platform.modal("deploy", program).code == 0
    spawn = "import modal; modal.Function.from_name('left', 'write').spawn()"
    subprocess.run([sys.executable, "-c", spawn], env=platform.env, check=True, timeout=PATIENCE)
    mounts = platform.home / "volumes/mounts"
    until(lambda: [path.read_text() for path in mounts.glob("ta-*/0/upper-0/x")] == ["kept"])
    worker = platform.status()["workers"][0]["pid"]
    (pid,) = (platform.home / "containers").glob("ta-*/pid")
    os.kill(worker, signal.SIGKILL)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    until(lambda: platform.modal("volume", "get", "left", "x", "-").out == "kept")
    assert platform.modal("app", "stop", "left").code == 0
    until(lambda: not any(mounts.iterdir()))
