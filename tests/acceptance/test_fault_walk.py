"""A random walk of faults: everything is killed or held up in the middle of everything, again and again.

`INTERMODAL_FAULT_SECONDS` says for how long (CI: some seconds), `INTERMODAL_FAULT_SEED` repeats a walk's choices.
Afterwards every call that was answered was answered right, every spawned input has exactly one result or one
documented error, and nothing runs.
"""

from __future__ import annotations

import collections
import contextlib
import json
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

from modal._protocol.messages.call import Status
from tests.acceptance.conftest import Platform, new_platform

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(0)]

SECONDS = float(os.environ.get("INTERMODAL_FAULT_SECONDS", "12"))
SEED = int(os.environ.get("INTERMODAL_FAULT_SEED", random.randrange(1 << 32)))
CLIENTS = 3
# Seconds for everything to come to rest when no more faults are injected: a container that was frozen before its first
# input is missed after 300.
PATIENCE = 400.0
DISK = "256m"  # that of the state directory, which is filled up now and then
FAULTS = {  # and how often each is chosen
    "runner": 3,  # the main process of a container
    "container": 3,  # all that runs in one
    "stop": 1,  # one does not answer any more
    "server": 2,
    "worker": 2,
    "client": 2,
    "pause_server": 1,  # for a while
    "pause_worker": 1,
    "pause_client": 2,  # a slow one
    "disk": 1,  # full, for a while
}

APP = """
import asyncio, random, time
import modal

app = modal.App("walk")
limits = dict(timeout=10, retries=3, scaledown_window=2)

@app.function(max_containers=2, **limits)
def work(i):
    time.sleep(random.uniform(0, 0.05))
    return i * i

@app.function(max_containers=2, timeout=20, scaledown_window=2)
def count(n):
    for i in range(n):
        if i % 50 == 0:
            time.sleep(0.02)
        yield i

@app.function(max_containers=1, timeout=20, scaledown_window=2)
def fill(n):
    for i in range(n):
        yield i, bytes(20_000)

@app.function(max_containers=1, **limits)
@modal.batched(max_batch_size=8, wait_ms=50)
def batch(xs):
    time.sleep(0.02)
    return [x * x for x in xs]

@app.function(max_containers=1, **limits)
@modal.concurrent(max_inputs=20)
async def concurrent(i):
    await asyncio.sleep(random.uniform(0, 0.1))
    return i * i
"""

CLIENT = """
import faulthandler, json, os, random, signal, sys, time
import modal

faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does

seed, until, journal = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
chance = random.Random(seed)
work, count, fill, batch, concurrent = [
    modal.Function.from_name("walk", name) for name in ("work", "count", "fill", "batch", "concurrent")
]

def tell(*said):
    print(json.dumps(said), flush=True)

def remote():
    for i in range(10):
        assert work.remote(i) == i * i, i

def map():
    n = chance.randrange(200)
    assert list(work.map(range(n))) == [i * i for i in range(n)]

def spawn():
    calls = []
    for i in range(10):
        call = work.spawn(i)
        with open(journal, "a") as file:  # the server has said that it is safe
            file.write(json.dumps([call.object_id, i]) + "\\n")
        calls.append((i, call))
    for i, call in calls:
        assert call.get() == i * i, i

def spawn_map():
    work.spawn_map(range(50))
    with open(journal, "a") as file:
        file.write(json.dumps(["spawn_map", 50]) + "\\n")

def generator():
    n = chance.randrange(2000)
    assert list(count.remote_gen(n)) == list(range(n))

def slow_generator():
    n = chance.randrange(400)
    for number, (i, data) in enumerate(fill.remote_gen(n)):
        assert (i, len(data)) == (number, 20_000), (i, number)
        time.sleep(0.005)

def slow_map():
    n = chance.randrange(300)
    for number, got in enumerate(work.map(range(n))):
        assert got == number * number, (got, number)
        time.sleep(0.005)
    assert number == n - 1 if n else True

def batched():
    n = chance.randrange(60)
    assert list(batch.map(range(n))) == [i * i for i in range(n)]

def concurrently():
    n = chance.randrange(200)
    assert sorted(concurrent.map(range(n), order_outputs=False)) == [i * i for i in range(n)]

kinds = dict(remote=remote, map=map, spawn=spawn, spawn_map=spawn_map, generator=generator, batch=batched,
             concurrent=concurrently, slow_generator=slow_generator, slow_map=slow_map)
while time.time() < until:
    kind = chance.choice(list(kinds))
    tell("begin", kind)
    try:
        kinds[kind]()
    except modal.exception.FunctionTimeoutError as error:  # its container had been stopped, three times over
        tell("documented", kind, type(error).__name__, str(error))
    except modal.exception.Error as error:
        full = "disk" in str(error) or "No space left" in str(error)
        tell("documented" if full else "wrong", kind, type(error).__name__, str(error))
        if not full:
            raise
    except BaseException as error:
        tell("wrong", kind, type(error).__name__, str(error))
        raise
    else:
        tell("right", kind)
"""

CHECK = """
import collections, json, sys
import modal

found = collections.Counter()
for line in open(sys.argv[1]):
    call_id, i = json.loads(line)
    if call_id == "spawn_map":
        continue
    try:
        got = modal.FunctionCall.from_id(call_id).get(timeout=350)
    except modal.exception.FunctionTimeoutError:
        found["documented error"] += 1
    except BaseException as error:
        found[f"{type(error).__name__}: {error}"] += 1
    else:
        found["right" if got == i * i else f"wrong: {i} gave {got}"] += 1
print(json.dumps(found))
"""


class Walk:
    """The platform under fire."""

    def __init__(self, platform: Platform, folder: Path, chance: random.Random) -> None:
        self.platform = platform
        self.faults: collections.Counter[str] = collections.Counter()
        self.said: list[list[str]] = []
        self.journal = folder / "journal"
        self.journal.touch()
        self._folder = folder
        self._chance = chance
        self._until = time.time() + SECONDS
        self._clients: list[subprocess.Popen[str]] = []
        self._paused: dict[int, float] = {}  # process -> when it may go on
        (folder / "client.py").write_text(CLIENT)

    # -- clients
    def start_client(self) -> None:
        number = len(list(self._folder.glob("client-*.out")))
        with (
            (self._folder / f"client-{number}.out").open("w") as out,
            (self._folder / f"client-{number}.err").open("w") as err,
        ):
            self._clients.append(
                subprocess.Popen(
                    [
                        sys.executable, str(self._folder / "client.py"), str(self._chance.randrange(1 << 32)),
                        str(self._until), str(self.journal),
                    ],
                    env=self.platform.env, stdout=out, stderr=err, text=True,
                )
            )  # fmt: skip

    def end(self) -> None:
        self.go_on()
        for process in self._clients:
            if process.poll() is None:
                process.kill()
            process.wait()

    # -- faults
    def step(self) -> None:
        """One fault of any kind."""
        self.go_on(time.monotonic())
        fault = self._chance.choices(list(FAULTS), list(FAULTS.values()), k=1)[0]
        if getattr(self, f"_{fault}")():
            self.faults[fault] += 1
        self._start_what_is_missing()

    def _runner(self) -> bool:
        return self._signal_any(signal.SIGKILL)

    def _container(self) -> bool:
        pids = list(self.runners())
        if not pids:
            return False
        try:
            group = Path(f"/proc/{self._chance.choice(pids)}/cgroup").read_text().rpartition("::")[2].strip()
            (Path("/sys/fs/cgroup") / group.lstrip("/") / "cgroup.kill").write_text("1")
        except OSError:
            return False  # it has ended meanwhile
        return True

    def _stop(self) -> bool:
        """A container that stops answering: it is frozen for good."""
        return self._signal_any(signal.SIGSTOP)

    def _signal_any(self, number: signal.Signals) -> bool:
        pids = list(self.runners())
        if not pids:
            return False
        return _kill(self._chance.choice(pids), number)

    def _server(self) -> bool:
        return self._kill_part("intermodal.server")

    def _worker(self) -> bool:
        return self._kill_part("intermodal.worker")

    def _kill_part(self, module: str) -> bool:
        pids = list(self._parts(module))
        return bool(pids) and _kill(pids[0], signal.SIGKILL)

    def _pause_server(self) -> bool:
        return self._pause(list(self._parts("intermodal.server")))

    def _pause_worker(self) -> bool:
        return self._pause(list(self._parts("intermodal.worker")))

    def _pause_client(self) -> bool:
        return self._pause([process.pid for process in self._clients if process.poll() is None])

    def _pause(self, pids: list[int]) -> bool:
        """Hold one of these processes up."""
        if not pids:
            return False
        pid = self._chance.choice(pids)
        self._paused[pid] = time.monotonic() + self._chance.uniform(0.3, 4.0)
        return _kill(pid, signal.SIGSTOP)

    def go_on(self, now: float = float("inf")) -> None:
        """Let those that have been held up for long enough go on."""
        for pid, until in list(self._paused.items()):
            if until <= now:
                del self._paused[pid]
                _kill(pid, signal.SIGCONT)

    def _disk(self) -> bool:
        """No byte more can be written, for a while."""
        filler = self.platform.home / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                for size in (1 << 20, 1 << 12):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(size))
            time.sleep(self._chance.uniform(0.1, 2.0))
        finally:
            filler.unlink(missing_ok=True)
        return True

    def _client(self) -> bool:
        alive = [process for process in self._clients if process.poll() is None]
        if not alive:
            return False
        self._chance.choice(alive).kill()
        return True

    def _start_what_is_missing(self) -> None:
        held_up = set(self._paused) & {*self._parts("intermodal.server"), *self._parts("intermodal.worker")}
        if not held_up and self._chance.random() < 0.7:  # else a client may start it, or it stays away for a while
            up = self.platform.intermodal("up")
            assert up.code == 0, up.text
        while sum(process.poll() is None for process in self._clients) < CLIENTS and time.time() < self._until:
            self.start_client()

    # -- who is there
    def runners(self) -> Iterator[int]:
        """Main processes of containers of this platform."""
        for pid, command in _processes():
            if b"intermodal/runner/start.py" in command:
                try:
                    if bytes(self.platform.home) in Path(f"/proc/{pid}/mountinfo").read_bytes():
                        yield pid
                except OSError:
                    continue

    def _parts(self, module: str) -> Iterator[int]:
        for pid, command in _processes():
            if module.encode() in command:
                try:
                    environment = Path(f"/proc/{pid}/environ").read_bytes()
                except OSError:
                    continue
                if f"INTERMODAL_HOME={self.platform.home}".encode() in environment:
                    yield pid

    # -- what came of it
    def outcome(self) -> collections.Counter[tuple[str, str]]:
        """(what, kind) -> how often. Fails where a client saw what it should not have."""
        found: collections.Counter[tuple[str, str]] = collections.Counter()
        for path in sorted(self._folder.glob("client-*.out")):
            for line in path.read_text().splitlines():
                try:
                    what, kind, *more = json.loads(line)
                except ValueError:
                    continue  # killed in the middle of a line
                assert what != "wrong", f"{kind}: {more}\n{path.with_suffix('.err').read_text()[-4000:]}"
                found[what, kind] += 1
                if what == "documented":
                    print(f"{kind}: {more[0]}: {more[1][:300]}")
        return found

    def wait_for_clients(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for process in self._clients:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f"a client hangs: {self._where_it_hangs(process)}")

    def _where_it_hangs(self, process: subprocess.Popen[str]) -> str:
        number = self._clients.index(process)
        process.send_signal(signal.SIGUSR1)
        time.sleep(1.0)
        said = [(self._folder / f"client-{number}.{what}").read_text()[-4000:] for what in ("out", "err")]
        logs = [(self.platform.home / name).read_text()[-4000:] for name in ("server.log", "worker.log")]
        return "\n".join([f"client {number}", *said, self.platform.intermodal("status").text, *logs])


def _kill(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _processes() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes()
            except OSError:
                continue


@pytest.fixture
def small_platform() -> Iterator[Platform]:
    """On a disk that can be filled up."""
    with new_platform(DISK) as it:
        yield it


def test_random_faults(small_platform: Platform, tmp_path: Path) -> None:
    own_platform = small_platform
    print(f"seed {SEED}, {SECONDS:g} seconds")
    path = tmp_path / "walk.py"
    path.write_text(APP)
    assert own_platform.intermodal("up").code == 0
    deployed = own_platform.modal("deploy", path)
    assert deployed.code == 0, deployed.text
    chance = random.Random(SEED)
    walk = Walk(own_platform, tmp_path, chance)
    try:
        for _ in range(CLIENTS):
            walk.start_client()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until or walk.faults.total() < SECONDS / 5:  # a slow machine has fewer in that time
            time.sleep(chance.uniform(0.1, 1.5))  # the moment is what is tried
            walk.step()
        walk.go_on()
        assert own_platform.intermodal("up").code == 0
        walk.wait_for_clients()
        outcome = walk.outcome()
        checked = _check(walk)
        _comes_to_rest(own_platform)
        spawned = _spawned(walk)
    finally:
        walk.end()
    print(f"{walk.faults.total()} faults injected: {dict(walk.faults)}")
    print("calls:", {f"{kind} {what}": count for (what, kind), count in sorted(outcome.items())})
    print("spawned inputs that were asked for:", checked)
    print("all spawned inputs:", spawned)
    assert set(checked) <= {"right", "documented error"}, checked


def _check(walk: Walk) -> dict[str, int]:
    """Every input whose spawn was acknowledged has a result, or an error that is documented."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(walk.journal)],
        env=walk.platform.env, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _spawned(walk: Walk) -> dict[str, int]:
    """How all spawned inputs ended, as the store has it: no row twice by its key, and nothing without an output."""
    with contextlib.closing(_store(walk.platform)) as store:
        found = dict(store.execute("SELECT status, count(*) FROM outputs GROUP BY status").fetchall())
    acknowledged = sum(
        1 if call != "spawn_map" else n for call, n in map(json.loads, walk.journal.read_text().splitlines())
    )
    assert sum(found.values()) >= acknowledged
    assert set(found) <= {Status.SUCCESS, Status.TIMEOUT}, found
    return {"right" if status == Status.SUCCESS else "timed out": count for status, count in found.items()}


def _store(platform: Platform) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{platform.home / 'store.sqlite'}?mode=ro", uri=True, timeout=30)


def _comes_to_rest(platform: Platform) -> None:
    """No input waits or runs, and the containers end.

    Both at once: between a container that was lost and the next attempt there is none, and an input that waits.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        listed = platform.modal("container", "list", "--json")
        assert listed.code == 0, listed.text
        with contextlib.closing(_store(platform)) as store:
            (waiting,) = store.execute("SELECT count(*) FROM inputs").fetchone()
        if not waiting and not json.loads(listed.out):
            return
        if time.monotonic() > deadline:
            logs = [(platform.home / name).read_text()[-4000:] for name in ("server.log", "worker.log")]
            left = f"{waiting} spawned inputs have no output; containers: {listed.out}"
            pytest.fail("\n".join([left, platform.intermodal("status").text, *logs]))
        time.sleep(1.0)
