"""Us and our peers as systems that can be started, called and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intermodal.home import Home
from tests.benchmarks import processes
from tests.benchmarks.figures import OURS
from tests.images_cache import lend_base

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEERS_PYTHON = ROOT / ".bench-venv" / "bin" / "python"
START_SECONDS = 90.0  # that a system may take to start
ANSWER_SECONDS = 600.0  # that one measurement of a driver may take


class NotThereError(Exception):
    """This peer cannot take part; the text says why."""


class DriverError(Exception):
    """A measurement failed; the text says how."""


class Driver:
    """A client process of one system (`drivers/driver.py`)."""

    def __init__(self, python: Path | str, peer: str, options: dict[str, Any], env: dict[str, str], log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [str(python), str(HERE / "drivers" / "driver.py"), peer, json.dumps(options)],
                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, cwd=HERE / "drivers",
            )  # fmt: skip
        self._log = log
        self.pid = self._process.pid
        self._answer()

    def ask(self, do: str, **arguments: Any) -> Any:
        """One measurement. Raises DriverError."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise DriverError(f"the client ended with {self._process.returncode}:\n{tail(self._log)}")
        answer = json.loads(line)
        if "error" in answer:
            raise DriverError(answer["error"])
        return answer["ok"]

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class System:
    """`start` brings it up from nothing and returns the seconds until it took work. `stop` leaves nothing."""

    name = ""
    python: Path | str = PEERS_PYTHON
    modules: tuple[str, ...] = ()  # that its Python must have

    def __init__(self, folder: Path) -> None:
        self.folder = folder / (self.name.split()[0].lower().strip(",") + "-" + uuid.uuid4().hex[:6])
        self.folder.mkdir(parents=True)
        self.mark = uuid.uuid4().hex
        self.env = {**_clean_environment(), processes.MARK: self.mark}
        self.log = self.folder / "log"
        self._driver: Driver | None = None
        self._sessions: set[int] = set()

    def check(self) -> None:
        """Raises NotThereError where it cannot run on this machine."""
        if not self.modules:
            return
        if not Path(self.python).exists():
            raise NotThereError(f"{self.python} is not there: start the benchmarks with scripts/bench")
        code = (
            "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))"
        )
        if subprocess.run([str(self.python), "-c", code, *self.modules], check=False).returncode:
            raise NotThereError(f"not installed in .bench-venv: {', '.join(self.modules)}")

    def start(self) -> float:
        began = time.perf_counter()
        self._up()
        return time.perf_counter() - began

    def _up(self) -> None:
        """Start it; return when it takes work."""

    def _down(self) -> None:
        """In order, where it has an order."""

    @property
    def driver(self) -> Driver:
        """A client of it, started when it is first needed."""
        if self._driver is None:
            # A mark of its own: what the client takes is not what the system takes.
            env = {**self.env, processes.MARK: self.mark + "-client"}
            self._driver = Driver(self.python, self.name.split()[0].lower().strip(","), self._options(), env, self.log)
        return self._driver

    def _options(self) -> dict[str, Any]:
        return {}

    def pids(self) -> list[int]:
        """The processes of the system itself, without its clients."""
        return processes.belonging(self.mark, self._sessions)

    def stop(self) -> None:
        try:
            if self._driver is not None:
                self._driver.close()
                self._driver = None
            self._down()
        finally:
            processes.end_all(self.mark + "-client", set())
            processes.end_all(self.mark, self._sessions)
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- for those who start processes
    def _spawn(self, *command: str, env: dict[str, str] | None = None) -> None:
        self._sessions.add(processes.start(list(command), env or self.env, self.log, self.folder))

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                raise NotThereError(f"{what} does not answer:\n{tail(self.log)}")
            time.sleep(0.01)


class Intermodal(System):
    name = OURS
    python = sys.executable

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.home = Home(self.folder / "home")
        self.home.path.mkdir(mode=0o700)
        self.env["INTERMODAL_HOME"] = str(self.home.path)
        self.env["MODAL_CONFIG_PATH"] = str(self.folder / "modal.toml")
        asyncio.run(lend_base(self.home))

    def _up(self) -> None:
        self.command("up")

    def _down(self) -> None:
        self.command("down")

    def command(self, *args: str) -> None:
        """`intermodal …`. Raises NotThereError."""
        done = subprocess.run(
            [str(self.python), "-m", "intermodal", *args],
            env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        if done.returncode:
            raise NotThereError(f"intermodal {args[0]}: {done.stderr.strip() or done.stdout.strip()}")

    def _options(self) -> dict[str, Any]:
        return {"address": self.home.address}


class Ray(System):
    name = "Ray"
    modules = ("ray",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.env.update(RAY_DISABLE_IMPORT_WARNING="1", RAY_USAGE_STATS_ENABLED="0")
        # Its clients keep to the loopback interface too, where no token is needed.
        self.env.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="disabled")
        self.port = free_port()

    def _up(self) -> None:
        ray = str(Path(self.python).with_name("ray"))
        self._spawn(
            ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={self.port}", "--num-cpus=2",
            "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={self.folder}",
        )  # fmt: skip
        self._wait(lambda: b"Ray runtime started" in self.log.read_bytes(), "ray start")

    def _options(self) -> dict[str, Any]:
        return {"address": f"127.0.0.1:{self.port}"}


class Celery(System):
    name = "Celery + Redis"
    modules = ("celery", "redis")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.env.update(BENCH_REDIS=f"redis://127.0.0.1:{self.port}/0", C_FORCE_ROOT="1")  # its tasks are ours

    def check(self) -> None:
        super().check()
        if shutil.which("redis-server") is None:
            raise NotThereError("redis-server is not installed (Debian, Ubuntu: apt-get install redis-server)")

    def _up(self) -> None:
        self._spawn("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        env = {**self.env, "PYTHONPATH": str(HERE / "drivers")}
        celery = str(Path(self.python).with_name("celery"))
        self._spawn(celery, "-A", "celery_tasks", "worker", "-c", "2", "--without-gossip", "--loglevel=INFO", env=env)
        self._wait(lambda: b" ready." in self.log.read_bytes(), "the Celery worker")


class Dask(System):
    name = "Dask"
    modules = ("distributed",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"

    def _up(self) -> None:
        dask = str(Path(self.python).with_name("dask"))
        self._spawn(dask, "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        for number in range(2):
            self._spawn(
                dask, "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                "--name", str(number), "--local-directory", str(self.folder),
            )  # fmt: skip
        self._wait(lambda: self.log.read_bytes().count(b"Registered to:") >= 2, "dask")

    def _options(self) -> dict[str, Any]:
        return {"address": self.address}


class Pool(System):
    """Has no server: its processes are the client's own."""

    name = "Pool (ProcessPoolExecutor)"
    python = sys.executable

    def pids(self) -> list[int]:
        return processes.belonging(self.mark + "-client", set())


ALL: tuple[type[System], ...] = (Intermodal, Ray, Celery, Dask, Pool)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _clean_environment() -> dict[str, str]:
    told = ("MODAL_", "INTERMODAL_", "RAY_", "CELERY_", "DASK_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(told)}
