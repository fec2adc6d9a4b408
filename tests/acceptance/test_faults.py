"""Processes that are killed in the middle, and what a user sees of it: a pause, nothing lost, nothing left behind."""

from __future__ import annotations

import collections
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, new_platform, until
from tests.ports import free_port

pytestmark = pytest.mark.acceptance

SLOW_MAP = """
import time, modal
app = modal.App("slow-map")

@app.function(max_containers=3)
def f(i):
    print(f"ran {i}", flush=True)
    time.sleep(0.1)
    return i * i

@app.local_entrypoint()
def main():
    got = 0
    for number, result in enumerate(f.map(range(60))):
        assert result == number * number
        got += 1
        print(f"got {got}", flush=True)
    print("all", got)
"""


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Read the command's output until a line matches."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if re.search(pattern, line):
            return lines
    assert process.stderr is not None
    pytest.fail("the command ended early:\n" + "\n".join(lines) + process.stderr.read())


def finish(process: subprocess.Popen[str], before: list[str]) -> list[str]:
    """The rest of the command's output; it must end well."""
    assert process.stdout is not None
    assert process.stderr is not None
    out = process.stdout.read()  # not `communicate`: it knows nothing of what has been read ahead
    err = process.stderr.read()
    process.wait(200)
    assert process.returncode == 0, "\n".join(before) + out + err
    return before + out.splitlines()


@pytest.mark.parametrize("victim", ["server", "worker"])
def test_kill_in_the_middle_of_a_map(own_platform: Platform, tmp_path: Path, victim: str) -> None:
    """kill -9, and a new start: the client goes on, and no input runs twice."""
    path = tmp_path / "slow_map.py"
    path.write_text(SLOW_MAP)
    assert own_platform.intermodal("up").code == 0
    process = own_platform.start("modal", "run", path)
    lines = wait_for_line(process, r"^got 5$")
    os.kill(_pid(own_platform, victim), signal.SIGKILL)
    assert own_platform.intermodal("up").code == 0
    lines = finish(process, lines)
    assert lines.count("all 60") == 1
    runs = collections.Counter(line for line in lines if line.startswith("ran "))
    assert len(runs) == 60, "a printed line was lost"
    assert set(runs.values()) == {1}, f"ran more than once: {[line for line, n in runs.items() if n > 1]}"


CHATTY = """
import time, modal
app = modal.App("chatty")

@app.function()
def talk():
    for number in range(2000):
        print("line", number)
        if number % 10 == 0:
            time.sleep(0.02)
    return "said it all"

@app.local_entrypoint()
def main():
    print(talk.remote())
"""


def test_every_printed_line_arrives_once_and_in_order(own_platform: Platform, tmp_path: Path) -> None:
    """Worker and server are killed while the container talks."""
    path = tmp_path / "chatty.py"
    path.write_text(CHATTY)
    assert own_platform.intermodal("up").code == 0
    process = own_platform.start("modal", "run", path)
    lines = wait_for_line(process, r"^line 100$")
    for victim in ("worker", "server", "worker"):
        os.kill(_pid(own_platform, victim), signal.SIGKILL)
        assert own_platform.intermodal("up").code == 0
    lines = finish(process, lines)
    assert [line for line in lines if line.startswith("line ")] == [f"line {number}" for number in range(2000)]
    assert "said it all" in lines


def _pid(platform: Platform, who: str) -> int:
    status = platform.status()
    if who == "server":
        return int(status["pid"])
    return int(status["workers"][0]["pid"])


def test_random_kills_leave_nothing_behind(own_platform: Platform, tmp_path: Path) -> None:
    """Server or worker die at random moments of starts, runs and stops; the next start copes, and `down` cleans up."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = tmp_path / "slow_map.py"
    path.write_text(SLOW_MAP)
    faults = 0
    for _round in range(4):
        assert own_platform.intermodal("up").code == 0
        victim = chance.choice(["server", "worker"])
        pid = _pid(own_platform, victim)
        process = own_platform.start("modal", "run", path)
        time.sleep(chance.uniform(0.0, 1.2))  # the moment is what is tried
        os.kill(pid, signal.SIGKILL)
        faults += 1
        up = own_platform.intermodal("up")
        assert up.code == 0, up.text
        lines = finish(process, [])
        assert "all 60" in lines
    print(f"{faults} faults injected")


def test_two_runs_at_once_start_one_server(own_platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "tiny.py"
    path.write_text("import modal\napp = modal.App()\n\n@app.function()\ndef f(): print('done')\n")
    both = [own_platform.start("modal", "run", path) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, out + err
        assert "done" in out
    # What the one server has just forked looks like a server until it has become another program.
    until(lambda: len(_servers_of(own_platform.home)) == 1, f"servers: {_servers_of(own_platform.home)}")


def _servers_of(home: Path) -> list[str]:
    return [one.name for one in Path("/proc").iterdir() if one.name.isdigit() and _is_server_of(one, home)]


def _is_server_of(entry: Path, home: Path) -> bool:
    try:
        return (
            b"intermodal.server" in (entry / "cmdline").read_bytes()
            and f"INTERMODAL_HOME={home}".encode() in (entry / "environ").read_bytes()
        )
    except OSError:
        return False


def test_client_that_vanishes_in_the_middle_of_a_map(own_platform: Platform, tmp_path: Path) -> None:
    """Its app stops after the grace; the platform stays usable meanwhile."""
    path = tmp_path / "slow_map.py"
    path.write_text(SLOW_MAP)
    assert own_platform.intermodal("up").code == 0
    process = own_platform.start("modal", "run", path)
    wait_for_line(process, r"^got 2$")
    process.kill()
    process.communicate()
    other = own_platform.modal("run", path)
    assert other.code == 0, other.text


def test_foreign_state_directory(own_platform: Platform, tmp_path: Path) -> None:
    (own_platform.home / "store.sqlite").write_text("this is no database at all, but somebody's file\n" * 100)
    up = own_platform.intermodal("up")
    assert up.code != 0
    assert str(own_platform.home) in up.text
    (own_platform.home / "store.sqlite").unlink()


def test_a_full_disk_is_named(tmp_path: Path, own_platform: Platform) -> None:
    """The state directory lies on a file system of 6 MiB: what cannot be stored is refused with the reason."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], check=True)
    try:
        env = {"INTERMODAL_HOME": str(small / "home")}
        up = own_platform.run("intermodal", "up", env=env)
        assert up.code == 0, up.text
        path = tmp_path / "big.py"
        path.write_text(
            "import modal\napp = modal.App()\n\n@app.function()\ndef f(x): return len(x)\n\n"
            "@app.local_entrypoint()\ndef main(): f.remote(b'x' * 20_000_000)\n"
        )
        ran = own_platform.modal("run", path, env=env)
        assert ran.code == 1
        assert re.search("No space left|disk|full", ran.text), ran.text
        assert own_platform.run("intermodal", "status", env=env).code == 0
        assert own_platform.run("intermodal", "down", env=env).code == 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


SPAWNS_WITHOUT_ROOM = """
import contextlib, os, sys
import modal

f = modal.Function.from_name("without-room", "f")
filler = sys.argv[1]
calls, refused = [], 0
with open(filler, "wb", buffering=0) as file:
    for size in (1 << 20, 1 << 12):
        with contextlib.suppress(OSError):
            while True:
                end = os.fstat(file.fileno()).st_size
                os.posix_fallocate(file.fileno(), end, size)
for _ in range(400):  # as large together as the disk
    try:
        calls.append(f.spawn(os.urandom(200_000)))
    except modal.exception.Error as error:
        assert "disk" in str(error), error
        refused += 1
        if refused == 20:
            break
os.unlink(filler)
for call in calls:
    call.cancel()
    try:
        assert call.get() == 200_000
    except (modal.exception.RemoteError, modal.exception.InputCancellation) as error:
        assert "cancel" in str(error) or "disk" in str(error) or "No space left" in str(error), error
assert f.spawn(b"more").get() == 4
print(f"{refused} refused, {len(calls)} known")
"""


def test_a_spawn_that_returned_is_known_though_the_disk_was_full(tmp_path: Path) -> None:
    app, program = tmp_path / "app.py", tmp_path / "program.py"
    app.write_text(
        "import modal\napp = modal.App('without-room')\n\n"
        "@app.function(max_containers=1, retries=3)\ndef f(data): return len(data)\n"
    )
    program.write_text(SPAWNS_WITHOUT_ROOM)
    with new_platform("80m") as platform:
        platform.env["INTERMODAL_WEB_LISTEN"] = f"127.0.0.1:{free_port()}"
        up = platform.intermodal("up")
        assert up.code == 0, up.text
        deployed = platform.modal("deploy", app)
        assert deployed.code == 0, deployed.text
        ran = platform.start_python(program, str(platform.home / "filler"))
        out, err = ran.communicate(timeout=300)
        assert ran.returncode == 0, out + err
        assert out.startswith("20 refused"), out
