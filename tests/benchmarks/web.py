"""The gateway beside uvicorn, with the same app: `python -m tests.benchmarks.web [--quick]`. Needs root, crun and wrk.

Requests a second and latency with wrk, CPU per request of all processes on the path, large bodies, and memory for
each open WebSocket. Ratios are taken in the same run; on a busy machine CPU per request says more than the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

from intermodal.home import Home
from tests.images_cache import lend_base

APP = """
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, StreamingResponse

web_app = FastAPI()

@web_app.get("/", response_class=PlainTextResponse)
async def noop():
    return "ok"

@web_app.get("/download")
async def download(size: int):
    async def parts():
        for _ in range(size >> 18):
            yield b"x" * (1 << 18)
    return StreamingResponse(parts())

@web_app.post("/upload")
async def upload(request: Request):
    size = 0
    async for part in request.stream():
        size += len(part)
    return size

@web_app.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass
"""
PROGRAM = """
import modal
app = modal.App("bench-web", image=modal.Image.debian_slim().pip_install("fastapi", "uvloop"))

@app.function(min_containers=1, max_containers=1, cpu=1.0, timeout=3600)
@modal.concurrent(max_inputs=4000)
@modal.asgi_app()
def web():
    from direct import web_app
    return web_app
"""
TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pids: list[int]) -> float:
    """Seconds that these processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICK


def memory_of(pids: list[int]) -> int:
    """Bytes that belong to these processes alone or in shares (PSS)."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1)) for text in texts) << 10  # type: ignore[union-attr]


def wrk(url: str, connections: int, seconds: int) -> tuple[float, float, int]:
    """Requests a second, p50 in ms, requests."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text:
        raise SystemExit(f"not every answer was one:\n{text}")
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))  # type: ignore[union-attr]
    count = int(re.search(r"(\d+) requests in", text).group(1))  # type: ignore[union-attr]
    return rate, float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit], count


def large_bodies(url: str, size: int) -> tuple[float, float]:
    """Seconds for a download and for an upload."""
    with httpx.Client(timeout=600) as client:
        began = time.perf_counter()
        with client.stream("GET", f"{url}/download?size={size}") as response:
            got = sum(len(part) for part in response.iter_raw(1 << 20))
        down, began = time.perf_counter() - began, time.perf_counter()
        said = client.post(f"{url}/upload", content=(b"x" * (1 << 18) for _ in range(size >> 18))).json()
        up = time.perf_counter() - began
    if got != size or said != size:
        raise SystemExit(f"bodies are not whole: {got}, {said} of {size}")
    return down, up


async def many_sockets(url: str, count: int, pids: list[int]) -> float:
    """Bytes of memory on the server's side for each open WebSocket; all of them must answer."""
    before = memory_of(pids)
    sockets = []
    try:
        while len(sockets) < count:
            sockets.append(await connect(url.replace("http", "ws") + "/ws", compression=None, ping_interval=None))
        for number, socket in enumerate(sockets):
            await socket.send(str(number))
        for number, socket in enumerate(sockets):
            if await socket.recv() != str(number):
                raise SystemExit("a WebSocket answered for another")
        return (memory_of(pids) - before) / count
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets), return_exceptions=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    folder = Path(tempfile.mkdtemp(prefix="im-web-", dir="/tmp"))
    env = {**os.environ, "INTERMODAL_HOME": str(folder / "home"), "INTERMODAL_WEB_LISTEN": "127.0.0.1:0"}
    (folder / "direct.py").write_text(APP)
    (folder / "program.py").write_text(PROGRAM.replace('"uvloop")', '"uvloop").add_local_python_source("direct")'))
    asyncio.run(lend_base(Home(folder / "home")))
    uvicorn = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "direct:web_app", "--port", "8898", "--log-level", "warning"], cwd=folder
    )
    try:
        command = [sys.executable, "-m", "modal", "deploy", "program.py"]
        said = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout
        name, port = re.search(r"=> http://([^.]+)\.localhost:(\d+)", said).groups()  # type: ignore[union-attr]
        ours, direct = f"http://127.0.0.1:{port}/_web/{name}", "http://127.0.0.1:8898"
        for url in (ours, direct):
            httpx.get(f"{url}/", timeout=60).raise_for_status()
        measure(ours, direct, _pids(env), uvicorn.pid, quick)
    finally:
        uvicorn.terminate()
        uvicorn.wait()
        subprocess.run([sys.executable, "-m", "intermodal", "down"], env=env, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _pids(env: dict[str, str]) -> list[int]:
    """The server, and the one runner: the processes on a request's path."""
    home = env["INTERMODAL_HOME"]
    lock = (Path(home) / "server.lock").read_text().split()
    runners = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit()
        and env["INTERMODAL_HOME"] in _read(path / "mountinfo")
        and "start.py" in _read(path / "cmdline")
    ]
    return [int(lock[0]), *runners]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def measure(ours: str, direct: str, pids: list[int], uvicorn: int, quick: bool) -> None:
    rounds, seconds = (1, 2) if quick else (3, 3)
    for _ in range(rounds):
        row = []
        for url, processes in ((direct, [uvicorn]), (ours, pids)):
            before = cpu_of(processes)
            rate, p50, count = wrk(f"{url}/", 32, seconds)
            cost = (cpu_of(processes) - before) / count * 1e6
            _rate, alone, _count = wrk(f"{url}/", 1, seconds)
            row.append((rate, p50, cost, alone))
        (rate_d, p50_d, cost_d, alone_d), (rate, p50, cost, alone) = row
        print(
            f"requests/s {rate:,.0f} (uvicorn {rate_d:,.0f}, ratio {rate / rate_d:.2f}) · CPU {cost:.0f} µs "
            f"(uvicorn {cost_d:.0f}) · p50 of 32 {p50:.2f} ms ({p50_d:.2f}) · alone {alone:.2f} ms ({alone_d:.2f})",
            flush=True,
        )
    size = 1 << (26 if quick else 30)
    before = memory_of(pids)
    for name, direct_s, ours_s in zip(
        ("download", "upload"), large_bodies(direct, size), large_bodies(ours, size), strict=True
    ):
        print(f"{name} of {size >> 20} MiB: {ours_s:.2f} s (uvicorn {direct_s:.2f} s, ratio {direct_s / ours_s:.2f})")
    print(f"memory after large bodies: {(memory_of(pids) - before) / (1 << 20):+.1f} MiB")
    count = 200 if quick else 2000
    each = asyncio.run(many_sockets(ours, count, pids))
    each_direct = asyncio.run(many_sockets(direct, count, [uvicorn]))
    print(f"{count} open WebSockets: {each / 1024:.1f} KiB each (uvicorn {each_direct / 1024:.1f} KiB)")


if __name__ == "__main__":
    sys.exit(main())
