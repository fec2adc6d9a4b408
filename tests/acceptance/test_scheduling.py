"""Who runs where, on what, and what happens when a new version comes: through the real command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, ProgramFinder, until

pytestmark = pytest.mark.acceptance


def write(directory: Path, text: str, name: str = "program.py") -> Path:
    path = directory / name
    path.write_text(textwrap.dedent(text))
    return path


# -- new versions

VERSION = """
import time
import modal

app = modal.App("accept-versions")
{fault}

@app.function(max_containers=2)
def f():
    time.sleep(0.02)
    return "{name}"
"""

CALLER = """
import json, sys, threading, time
import modal

f = modal.Function.from_name("accept-versions", "f")
seen, failed, over = [], [], threading.Event()

def call():
    while not over.is_set():
        try:
            seen.append(f.remote())
        except BaseException as error:
            failed.append(repr(error))

threads = [threading.Thread(target=call) for _ in range(4)]
f.remote()
for thread in threads:
    thread.start()
print("calling", flush=True)
sys.stdin.readline()
seen.append(f.remote())  # the threads may be in calls that began long ago
over.set()
for thread in threads:
    thread.join()
print(json.dumps([seen, failed]))
"""

BROKEN = 'if not modal.is_local(): raise RuntimeError("this version is broken")'


def deploy(platform: Platform, directory: Path, name: str, fault: str = "") -> None:
    ran = platform.modal("deploy", write(directory, VERSION.format(name=name, fault=fault)))
    assert ran.code == 0, ran.text


class Caller:
    """Calls without pause, from four threads, until it is told to stop."""

    def __init__(self, platform: Platform, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, write(directory, CALLER, "caller.py")],
            env=platform.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "calling\n"

    def end(self) -> tuple[list[str], list[str]]:
        out, _err = self._process.communicate("\n", timeout=200)
        seen, failed = json.loads(out)
        return seen, failed


def app_line(platform: Platform) -> str:
    ran = platform.modal("app", "list", "--json")
    assert ran.code == 0, ran.text
    return json.dumps([row for row in json.loads(ran.out) if "accept-versions" in row.values()])


def await_version(platform: Platform, directory: Path, name: str) -> None:
    """Calls end up on this version."""
    script = "import modal, sys; sys.stdout.write(modal.Function.from_name('accept-versions', 'f').remote())"

    def answers() -> bool:
        done = subprocess.run(
            [sys.executable, "-c", script], env=platform.env, capture_output=True, text=True, check=True, cwd=directory
        )
        return done.stdout == name

    until(answers, f"version {name} never answered")


def test_no_call_fails_while_versions_change(platform: Platform, tmp_path: Path) -> None:
    deploy(platform, tmp_path, "one")
    caller = Caller(platform, tmp_path)
    deploy(platform, tmp_path, "two")
    await_version(platform, tmp_path, "two")
    seen, failed = caller.end()
    assert failed == []
    assert set(seen) == {"one", "two"}

    caller = Caller(platform, tmp_path)
    deploy(platform, tmp_path, "three", BROKEN)
    until(lambda: "the new version of f crash-loops" in app_line(platform))
    rolled = platform.modal("app", "rollback", "accept-versions")
    assert "rolled back to v2: that is now v4" in rolled.out, rolled.text
    seen, failed = caller.end()
    assert failed == []
    assert set(seen) == {"two"}, "a version that does not start changes nothing"
    assert "crash-loops" not in app_line(platform)
    history = platform.modal("app", "history", "accept-versions", "--json")
    assert [row["Version"] for row in json.loads(history.out)] == ["v4", "v3", "v2", "v1"], history.text
    wrong = platform.modal("app", "rollback", "accept-versions", "v9")
    assert wrong.code == 1
    assert "there is no earlier version v9; it has v1, v2, v3" in wrong.err
    assert platform.modal("app", "stop", "accept-versions").code == 0


def test_what_does_not_build_changes_nothing(platform: Platform, tmp_path: Path) -> None:
    deploy(platform, tmp_path, "one")
    image = "app.image = modal.Image.debian_slim('3.11').run_commands('echo it fails; exit 3')"
    failed = platform.modal("deploy", write(tmp_path, VERSION.format(name="two", fault=image)))
    assert failed.code != 0
    await_version(platform, tmp_path, "one")
    assert platform.modal("app", "stop", "accept-versions").code == 0


# -- resources

LIMITS = """
import modal

app = modal.App("accept-limits")

@app.function(ephemeral_disk=64)
def fill():
    try:
        with open("/srv/big", "wb") as file:
            for _ in range(200):
                file.write(bytes(1 << 20))
    except OSError as error:
        return error.strerror

@app.function(memory=(64, 128), retries=0)
def eat():
    return len(bytearray(300 << 20))

@app.function(gpu=["B200", "A100:2"])
def two_gpus():
    import os
    return os.environ["NVIDIA_VISIBLE_DEVICES"]

@app.local_entrypoint()
def main():
    print(fill.remote())
    print(two_gpus.remote())
    try:
        eat.remote()
    except modal.exception.Error as error:
        print(type(error).__name__, error)
"""


def test_limits_of_a_container(platform: Platform, tmp_path: Path) -> None:
    ran = platform.modal("run", write(tmp_path, LIMITS))
    assert ran.code == 0, ran.text
    disk, devices, memory = ran.lines()[:1] + ran.lines()[1:2] + ran.lines()[-1:]
    assert disk == "No space left on device"
    assert devices == "void", "the devices of this platform are simulated"
    assert re.match(r"ExecutionError eat was killed because it ran out of memory.* limit of 128 MiB", memory), ran.text


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ('gpu="H100:8"', r"f: gpu='H100:8' was asked for, and this machine has .*H100"),
        ("cpu=10000", r"f: cpu=10000 was asked for, and this machine has \d+ cores"),
        ("memory=100_000_000", r"f: memory=100000000 \(MiB\) was asked for, and this machine has \d+ MiB"),
        ("ephemeral_disk=3_145_729", r"ephemeral_disk \(MiB\) must be between 1 and 3145728"),
    ],
)
def test_what_no_machine_can_hold_is_refused(platform: Platform, tmp_path: Path, option: str, complaint: str) -> None:
    text = f"import modal\napp = modal.App('accept-large')\n@app.function({option})\ndef f(): pass\n"
    ran = platform.modal("run", write(tmp_path, text))
    assert ran.code == 1
    assert re.search(complaint, ran.text), ran.text


# -- preemption

PREEMPTED = """
import time
import modal

app = modal.App("accept-preempted")
seen = modal.Dict.from_name("accept-preempted", create_if_missing=True)

@app.cls(max_containers=1)
class Slow:
    @modal.method()
    def work(self, x):
        first = seen.put("begun", True, skip_if_exists=True)
        print("begins", flush=True)
        if first:
            time.sleep(600)
        return x + 1

    @modal.exit()
    def end(self):
        print("exit handler", flush=True)

@app.local_entrypoint()
def main():
    print("result", Slow().work.remote(1))
"""


def test_the_input_of_a_stopped_container_runs_again_elsewhere(platform: Platform, tmp_path: Path) -> None:
    process = platform.start("modal", "run", write(tmp_path, PREEMPTED))
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.strip() == "begins":
            break
    (container,) = [one for one in platform.status()["containers"] if one["app_name"] == "accept-preempted"]
    stopped = platform.modal("container", "stop", container["container_id"])
    assert stopped.code == 0, stopped.text
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    lines += [line.strip() for line in out.splitlines()]
    assert lines.count("begins") == 2
    assert "result 2" in lines
    assert "exit handler" in lines[: lines.index("result 2")], "before the input's end, so of the first container"
    assert platform.modal("dict", "delete", "accept-preempted", "--yes").code == 0


# -- documented programs


@pytest.mark.parametrize(
    "name",
    [
        "cold-start-performance__1",
        "reserving-cpu-and-memory__1",
        "reserving-cpu-and-memory__2",
        "parametrized-functions__j1",
        "scaling-out__1",
        "scaling-out__j2",
    ],
)
def test_documented_programs_that_print_nothing(platform: Platform, program: ProgramFinder, name: str) -> None:
    ran = platform.modal("run", program(f"guide/{name}"))
    assert ran.code == 0, ran.text
    assert "Traceback" not in ran.text


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("container-lifecycle-hooks__1", "FileNotFoundError: [Errno 2] No such file or directory: 'model.pickle'"),
        ("container-lifecycle-hooks__2", "NameError: name 'load_cache' is not defined"),
        ("container-lifecycle-hooks__3", "ModuleNotFoundError: No module named 'psycopg2'"),
    ],
)
def test_documented_hooks_that_fail(platform: Platform, program: ProgramFinder, name: str, error: str) -> None:
    ran = platform.modal("run", program(f"guide/{name}"))
    assert ran.code == 1
    assert error in ran.text


def test_documented_parameters_on_the_command_line(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/parametrized-functions__1")
    ran = platform.modal("run", f"{path}::MyClass.baz", "--foo", "hedgehog", "--bar", "7")
    assert ran.code == 0, ran.text


def test_documented_restricted_functions(platform: Platform, program: ProgramFinder) -> None:
    ran = platform.modal("run", program("guide/running-untrusted-code-in-functions__1"), "--code-input", "1+1")
    assert ran.code == 0, ran.text
    ran = platform.modal("run", program("guide/running-untrusted-code-in-functions__2"))
    assert ran.lines() == ["Result: 55"], ran.text


def test_documented_warm_pool(platform: Platform, program: ProgramFinder) -> None:
    path = program("guide/cold-start-performance__2")
    assert platform.modal("deploy", "--name", "accept-warm", path).code == 0

    def states() -> list[str]:
        return [one["state"] for one in platform.status()["containers"] if one["app_name"] == "accept-warm"]

    until(lambda: states().count("running") >= 3)
    assert states() == ["running"] * 3, "buffer_containers count only while there are inputs"
    assert platform.modal("app", "stop", "accept-warm").code == 0
