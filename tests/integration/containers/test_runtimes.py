"""The other ways to run: runc, no isolation at all, and without root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers import Containers, Limits
from intermodal.worker.containers.launch import StartFailed
from intermodal.worker.containers.runtimes import find_binary
from tests.integration.containers.conftest import finish
from tests.integration.containers.traces import traces_of

pytestmark = pytest.mark.containers

SOURCE = Path(__file__).parents[3] / "src"


async def test_a_machine_without_containers_says_so_and_starts_nothing(tmp_path: Path, launch, capfd):
    containers = Containers(Home(tmp_path / "home"), "host")
    await containers.open()
    assert not containers.works()
    assert "NO CONTAINERS" in containers.problems[0]
    assert "NO CONTAINERS" in capfd.readouterr().err
    with pytest.raises(StartFailed, match="this machine can run no containers"):
        await containers.start(launch("true"))
    await containers.close()
    assert traces_of(tmp_path / "home") == []


@pytest.mark.skipif(find_binary("runc") is None, reason="runc is not installed")
async def test_runc(tmp_path: Path, launch):
    containers = Containers(Home(tmp_path / "home"), "runc")
    await containers.open()
    ran = await finish(await containers.start(launch("sh", "-c", "echo $$; grep Seccomp: /proc/self/status; exit 3")))
    assert (ran.exit.code, ran.out.split()) == (3, ["1", "Seccomp:", "2"])
    ran = await finish(
        await containers.start(launch("python3", "-c", "x = bytearray(300 << 20)", limits=Limits(memory=64)))
    )
    assert ran.exit.reason == "out-of-memory"
    await containers.close()
    assert traces_of(tmp_path / "home") == []


ROOTLESS = """
import asyncio, json, os, sys
from pathlib import Path
from intermodal.home import Home
from intermodal.worker.containers import Bind, Containers, Launch, Limits, enter_private_mounts

home = Home(sys.argv[1])
skeleton = home.path / "skeleton"
for name in ("usr", "etc", "root", "tmp", "srv", "proc", "sys", "dev"):
    (skeleton / name).mkdir(parents=True, exist_ok=True)
for name in ("bin", "lib", "lib64", "sbin"):
    (skeleton / name).symlink_to("usr/" + name)

problem = enter_private_mounts()

async def main():
    containers = Containers(home)
    await containers.open()
    answers = {"mounts": problem, "runtime": containers.runtime, "problems": containers.problems}
    async def one(key, command, **fields):
        running = await containers.start(Launch(
            "ta-" + key, [skeleton], ["sh", "-c", command], {}, home.containers / ("ta-" + key),
            binds=[Bind(Path("/usr"), "/usr")], **fields,
        ))
        ended = await running.wait()
        outputs = [os.read(fd, 65536).decode() for fd in (running.stdout_fd, running.stderr_fd)]
        answers[key] = [ended.code, *outputs]
        await running.close()
    status = "grep -E '(Seccomp|NoNewPrivs):' /proc/self/status"
    await one("who", f"id -u; echo $$; touch /srv/x && ls /srv; {status}; exit 6")
    await one("none", "ls /sys/class/net; cat /proc/net/dev | wc -l", network="none")
    await one("memory", "python3 -c 'bytearray(300 << 20)'", limits=Limits(memory=100))
    running = await containers.start(Launch(
        "ta-killed", [skeleton], ["sh", "-c", "sleep 1000"], {}, home.containers / "ta-killed",
        binds=[Bind(Path("/usr"), "/usr")],
    ))
    await running.kill()
    answers["killed"] = running.exit.reason
    await containers.close()
    answers["left"] = os.listdir(home.containers)
    print(json.dumps(answers))

asyncio.run(main())
"""


@pytest.fixture
def nobodys_place() -> Iterator[Path]:
    """A directory of an unprivileged user, with the source, which that user may not otherwise be able to read."""
    place = Path(tempfile.mkdtemp(prefix="intermodal-rootless-"))
    for package in ("intermodal", "modal"):
        shutil.copytree(SOURCE / package, place / "src" / package, ignore=shutil.ignore_patterns("__pycache__"))
    place.chmod(0o755)
    (place / "home").mkdir()
    os.chown(place / "home", 65534, 65534)
    yield place
    shutil.rmtree(place)


def _system_python() -> str | None:
    """One that any user may run."""
    for name in ("/usr/bin/python3", sys.executable):
        test = [name, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(test, user=65534, group=65534, extra_groups=[], check=False, cwd="/").returncode == 0:
                return name
        except OSError:
            continue
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone can")
def test_without_root(nobodys_place: Path):
    python = _system_python()
    if python is None:
        pytest.skip("no Python 3.11 that every user may run")
    done = subprocess.run(
        [python, "-c", ROOTLESS, str(nobodys_place / "home")],
        user=65534,
        group=65534,
        extra_groups=[],
        env={"PYTHONPATH": str(nobodys_place / "src"), "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    if answers["mounts"]:
        pytest.skip(f"no user namespaces for nobody here: {answers['mounts']}")
    assert answers["runtime"] == "crun"
    assert any("network" in problem for problem in answers["problems"])
    code, out, err = answers["who"]
    assert (code, out.split()) == (6, ["0", "1", "x", "NoNewPrivs:", "1", "Seccomp:", "2"]), err
    assert answers["none"][1].split()[-1] == "3"  # two lines of heading, and lo
    assert "MemoryError" in answers["memory"][2]
    assert answers["killed"] == "killed"
    assert answers["left"] == []
    done = subprocess.run(
        [python, "-m", "intermodal.worker.containers.trial", str(nobodys_place / "home")],
        user=65534,
        group=65534,
        extra_groups=[],
        env={"PYTHONPATH": str(nobodys_place / "src"), "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trial = json.loads(done.stdout)
    assert trial["user_namespace"]
    assert trial["milliseconds"] > 0, trial
    assert trial["runtimes"]["crun"] == ""
