"""The platform under fire: what kills and holds up its parts and its clients, for the walks of faults."""

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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

SECONDS = float(os.environ.get("INTERMODAL_FAULT_SECONDS", "12"))
SEED = int(os.environ.get("INTERMODAL_FAULT_SEED", random.randrange(1 << 32)))
CLIENTS = 3
# Seconds for everything to come to rest when no more faults are injected: a container that was frozen before its first
# input is missed after 300.
PATIENCE = 400.0
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


class Walk:
    """The platform under fire.

    `client`: the program that is run again and again, with a seed, the time at which it shall end, and a file to note
    in what was acknowledged. `more`: further faults, by name with how often each is chosen.
    """

    def __init__(
        self,
        platform: Platform,
        folder: Path,
        chance: random.Random,
        client: str,
        more: dict[str, tuple[int, Callable[[], bool]]] | None = None,
    ) -> None:
        self.platform = platform
        self.faults: collections.Counter[str] = collections.Counter()
        self.said: list[list[str]] = []
        self.journal = folder / "journal"
        self.journal.touch()
        self._folder = folder
        self._chance = chance
        self._until = time.monotonic() + SECONDS
        self._clients: list[subprocess.Popen[str]] = []
        self._steady: set[int] = set()
        self._paused: dict[int, float] = {}  # process -> when it may go on
        self._faults = {name: (often, getattr(self, f"_{name}")) for name, often in FAULTS.items()} | (more or {})
        (folder / "client.py").write_text(client)

    # -- clients
    def start_client(self, steady: bool = False) -> None:
        """`steady`: it is never killed, and told so by one more argument."""
        number = len(list(self._folder.glob("client-*.out")))
        with (
            (self._folder / f"client-{number}.out").open("w") as out,
            (self._folder / f"client-{number}.err").open("w") as err,
        ):
            self._clients.append(
                subprocess.Popen(
                    [
                        sys.executable, str(self._folder / "client.py"), str(self._chance.randrange(1 << 32)),
                        str(self._until), str(self.journal), *(["steady"] if steady else []),
                    ],
                    env=self.platform.env, stdout=out, stderr=err, text=True,
                )
            )  # fmt: skip
        if steady:
            self._steady.add(self._clients[-1].pid)

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
        often = [often for often, _inject in self._faults.values()]
        fault = self._chance.choices(list(self._faults), often, k=1)[0]
        if self._faults[fault][1]():
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

    def power(self) -> bool:
        """Server, worker and all containers, together."""
        pids = [*self._parts("intermodal.server"), *self._parts("intermodal.worker"), *self.runners()]
        return sum(_kill(pid, signal.SIGKILL) for pid in pids) > 0

    def term(self) -> bool:
        """Server or worker are asked to end."""
        pids = [*self._parts("intermodal.server"), *self._parts("intermodal.worker")]
        return bool(pids) and _kill(self._chance.choice(pids), signal.SIGTERM)

    def _pause_server(self) -> bool:
        return self._pause(list(self._parts("intermodal.server")))

    def _pause_worker(self) -> bool:
        return self._pause(list(self._parts("intermodal.worker")))

    def _pause_client(self) -> bool:
        return self._pause([process.pid for process in self._clients if process.poll() is None])

    def pause_part(self, seconds: float) -> bool:
        """Server or worker, for longer."""
        return self._pause([*self._parts("intermodal.server"), *self._parts("intermodal.worker")], seconds)

    def _pause(self, pids: list[int], seconds: float = 0.0) -> bool:
        """Hold one of these processes up."""
        if not pids:
            return False
        pid = self._chance.choice(pids)
        self._paused[pid] = time.monotonic() + (seconds or self._chance.uniform(0.3, 4.0))
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
                size = 0
                for more in (64 << 20, 1 << 20, 1 << 12):
                    with contextlib.suppress(OSError):
                        while True:
                            os.posix_fallocate(file.fileno(), size, more)
                            size += more
            time.sleep(self._chance.uniform(0.1, 2.0))
        finally:
            filler.unlink(missing_ok=True)
        return True

    def _client(self) -> bool:
        alive = self._alive()
        if not alive:
            return False
        self._chance.choice(alive).kill()
        return True

    def _alive(self) -> list[subprocess.Popen[str]]:
        """Clients that may be killed."""
        return [one for one in self._clients if one.pid not in self._steady and one.poll() is None]

    def _start_what_is_missing(self) -> None:
        held_up = set(self._paused) & {*self._parts("intermodal.server"), *self._parts("intermodal.worker")}
        if not held_up and self._chance.random() < 0.7:  # else a client may start it, or it stays away for a while
            up = self.platform.intermodal("up")
            assert up.code == 0, up.text
        while len(self._alive()) < CLIENTS and time.monotonic() < self._until:
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

    def go(self) -> None:
        """One fault after the other until the time is over; then everything is up."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until or self.faults.total() < SECONDS / 5:  # a slow machine has fewer in that time
            time.sleep(self._chance.uniform(0.1, 1.5))  # the moment is what is tried
            self.step()
        self.go_on()
        up = self.platform.intermodal("up")
        assert up.code == 0, up.text

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


def store_of(platform: Platform) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{platform.home / 'store.sqlite'}?mode=ro", uri=True, timeout=30)


def comes_to_rest(platform: Platform) -> None:
    """No input waits or runs, and the containers end.

    Both at once: between a container that was lost and the next attempt there is none, and an input that waits.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        listed = platform.modal("container", "list", "--json")
        assert listed.code == 0, listed.text
        with contextlib.closing(store_of(platform)) as store:
            (waiting,) = store.execute("SELECT count(*) FROM inputs").fetchone()
        if not waiting and not json.loads(listed.out):
            return
        if time.monotonic() > deadline:
            logs = [(platform.home / name).read_text()[-4000:] for name in ("server.log", "worker.log")]
            left = f"{waiting} spawned inputs have no output; containers: {listed.out}"
            pytest.fail("\n".join([left, platform.intermodal("status").text, *logs]))
        time.sleep(1.0)
