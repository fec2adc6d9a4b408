"""The gateway beside uvicorn alone and beside Ray Serve, with the same FastAPI app. Needs wrk."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

from tests.benchmarks import processes
from tests.benchmarks.figures import OURS, Section
from tests.benchmarks.measurements import Bench, started
from tests.benchmarks.systems import HERE, DriverError, Intermodal, System, free_port

DRIVERS = HERE / "drivers"


class Uvicorn(System):
    name = "uvicorn"
    python = sys.executable
    modules = ("uvicorn", "fastapi", "uvloop", "httptools")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def _up(self) -> None:
        env = {**self.env, "PYTHONPATH": str(DRIVERS)}
        options = ("--port", str(self.port), "--log-level", "warning")
        self._spawn(str(self.python), "-m", "uvicorn", "web_app:web_app", *options, env=env)
        self._wait(lambda: _answers(self.url), "uvicorn")


class RayServe(System):
    name = "Ray Serve"
    modules = ("ray", "ray.serve", "fastapi")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env.update(RAY_DISABLE_IMPORT_WARNING="1", RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")

    def _up(self) -> None:
        self._spawn(str(self.python), str(DRIVERS / "serve_web.py"), str(self.port), str(self.folder))
        self._wait(lambda: _answers(self.url), "Ray Serve")


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/", timeout=5).text == "ok"
    except httpx.HTTPError:
        return False


@contextmanager
def _serving(
    bench: Bench, section: Section, *kinds: type[Uvicorn | RayServe]
) -> Iterator[dict[str, tuple[str, list[int]]]]:
    """Who takes part: where it answers, and the processes that are on a request's way."""
    if shutil.which("wrk") is None:
        raise DriverError("wrk is not installed (Debian, Ubuntu: apt-get install wrk)")
    url = deploy(bench.ours, "web")
    found = {OURS: (url, _on_the_way(bench.ours))}
    beside = started(bench, section, kinds)
    for system in beside.values():
        assert isinstance(system, (Uvicorn, RayServe))
        found[system.name] = (system.url, system.pids())
    try:
        yield found
    finally:
        for system in beside.values():
            system.stop()


def deploy(ours: Intermodal, function: str) -> str:
    """The address of a function of the program."""
    command = [str(ours.python), "-m", "modal", "deploy", "web_program.py"]
    done = subprocess.run(command, cwd=DRIVERS, env=ours.env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DriverError(f"modal deploy: {done.stderr.strip() or done.stdout.strip()}")
    found = re.search(rf"=> http://([^.]+-{function})\.localhost:(\d+)", done.stdout)
    if found is None:
        raise DriverError(f"modal deploy says no address: {done.stdout}")
    url = f"http://127.0.0.1:{found.group(2)}/_web/{found.group(1)}"
    if function == "web":
        httpx.get(f"{url}/", timeout=120).raise_for_status()
    return url


def _on_the_way(ours: Intermodal) -> list[int]:
    """The server, and the runners; the worker is not on it."""
    server = int((ours.home.path / "server.lock").read_text().split()[0])
    home = str(ours.home.path)
    return [server, *(pid for pid in ours.pids() if "start.py" in _command(pid) and home in _mounts(pid))]


def _command(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline"))


def _mounts(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/mountinfo"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _wrk(url: str, connections: int, seconds: int) -> tuple[float, float, int]:
    """Requests a second, p50 in ms, requests."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", f"{url}/"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise DriverError(f"not every answer was one:\n{text}")
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))  # type: ignore[union-attr]
    count = int(re.search(r"(\d+) requests in", text).group(1))  # type: ignore[union-attr]
    return rate, float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit], count


def web(bench: Bench, section: Section) -> None:
    """Requests to a warm no-op FastAPI app: 32 connections, and one alone"""
    rate = section.measure("requests a second", "/s", more_is_better=True)
    many = section.measure("p50, 32 connections", "ms")
    one = section.measure("p50, one connection", "ms")
    cost = section.measure("processor, a request", "µs")
    seconds = 1 if bench.quick else 4
    with _serving(bench, section, Uvicorn, RayServe) as systems:
        for url, _pids in systems.values():
            _wrk(url, 32, 1)
        for _ in range(bench.rounds):
            for name, (url, pids) in systems.items():
                before = processes.cpu_seconds(pids).own
                found, p50, count = _wrk(url, 32, seconds)
                rate.add(name, found)
                many.add(name, p50)
                cost.add(name, (processes.cpu_seconds(pids).own - before) / count * 1e6)
                one.add(name, _wrk(url, 1, seconds)[1])
    for peer in (peer for peer in systems if peer == Uvicorn.name):
        added = sorted(ours - theirs for ours, theirs in zip(one.samples[OURS], one.samples[peer], strict=True))
        section.notes.append(
            f"Added to {peer}'s p50 of one connection: {added[len(added) // 2]:.2f} ms (median of rounds)."
        )


def web_bodies(bench: Bench, section: Section) -> None:
    """Large bodies through an ASGI app"""
    size = 1 << (26 if bench.quick else 30)
    growth = section.measure("memory afterwards, growth", "MB")
    with _serving(bench, section, Uvicorn) as systems:
        for _ in range(bench.rounds):
            for name, (url, pids) in systems.items():
                before = processes.pss_mb(pids)
                for what, took in zip(("download", "upload"), _bodies(url, size), strict=True):
                    measure = section.measure(f"{what} of {size >> 20} MiB", "MB/s", more_is_better=True)
                    measure.add(name, size / took / 1e6)
                growth.add(name, processes.pss_mb(pids) - before)


def _bodies(url: str, size: int) -> tuple[float, float]:
    """Seconds for a download and for an upload."""
    with httpx.Client(timeout=600) as client:
        began = time.perf_counter()
        with client.stream("GET", f"{url}/download?size={size}") as response:
            got = sum(len(part) for part in response.iter_raw(1 << 20))
        down, began = time.perf_counter() - began, time.perf_counter()
        said = client.post(f"{url}/upload", content=(b"x" * (1 << 18) for _ in range(size >> 18))).json()
        up = time.perf_counter() - began
    if got != size or said != size:
        raise DriverError(f"bodies are not whole: {got}, {said} of {size}")
    return down, up


def web_open(bench: Bench, section: Section) -> None:
    """Open event streams and WebSockets through one container: memory of each on the server's side"""
    count = 200 if bench.quick else 2000
    with _serving(bench, section, Uvicorn) as systems:
        for name, (url, pids) in systems.items():
            stream, websocket = asyncio.run(_open(url, count, pids))
            section.measure("memory of one event stream", "KB").add(name, stream * 1e3)
            section.measure("memory of one WebSocket", "KB").add(name, websocket * 1e3)
    section.notes.append(f"{count:,} streams, and then as many WebSockets beside them; all of them must answer.")


async def _open(url: str, count: int, pids: list[int]) -> tuple[float, float]:
    """MB of each stream, and of each WebSocket."""
    async with AsyncExitStack() as stack:
        at_first = processes.pss_mb(pids)
        await _open_streams(url, count, stack)
        with_streams = processes.pss_mb(pids)
        await _open_sockets(url, count, stack)
        return (with_streams - at_first) / count, (processes.pss_mb(pids) - with_streams) / count


async def _open_streams(url: str, count: int, stack: AsyncExitStack) -> None:
    parts = httpx.URL(url)
    head = f"GET {parts.path.rstrip('/')}/events HTTP/1.1\r\nHost: {parts.host}\r\n\r\n".encode()
    readers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(parts.host, parts.port)
        stack.callback(writer.close)
        writer.write(head)
        readers.append(reader)
    for reader in readers:
        await asyncio.wait_for(reader.readuntil(b"data: 0\n\n"), 60)


async def _open_sockets(url: str, count: int, stack: AsyncExitStack) -> None:
    address = url.replace("http", "ws", 1) + "/ws"
    sockets = []
    for _ in range(count):
        opened = connect(address, compression=None, ping_interval=None, open_timeout=60)
        sockets.append(await stack.enter_async_context(opened))
    for number, socket in enumerate(sockets):
        await socket.send(str(number))
    for number, socket in enumerate(sockets):
        if await socket.recv() != str(number):
            raise DriverError("a WebSocket answered for another")


def web_cold(bench: Bench, section: Section) -> None:
    """Scale from zero: a request whose container has to be started, beside a call of the same class"""
    first = section.measure("first byte, or result", "ms")
    url = deploy(bench.ours, "cold-page")
    asked = DRIVERS / "web_cold_calls.py"
    rounds = 3 if bench.quick else bench.rounds * 5
    with subprocess.Popen(
        [str(bench.ours.python), str(asked)],
        env=bench.ours.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None
        for number in range(rounds + 1):
            began = time.perf_counter()
            httpx.get(f"{url}/?number={2 * number}", timeout=60).raise_for_status()
            took = (time.perf_counter() - began) * 1e3
            caller.stdin.write(f"{2 * number + 1}\n")
            caller.stdin.flush()
            called = float(caller.stdout.readline())
            if number:  # the first one makes the layers
                first.add(OURS, took)
                first.add("a call", called)
        caller.stdin.close()


ALL = {"web": web, "web-bodies": web_bodies, "web-open": web_open, "web-cold": web_cold}
