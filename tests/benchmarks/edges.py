"""The parts around the gateway beside what people use instead, in the same run, each in turns with its peer.

    python -m tests.benchmarks.edges [--rounds N]

From a save to the first answer of the new version: `modal serve` against `uvicorn --reload`. Through a tunnel: plain
against a direct connection to the container, TLS against `socat` that terminates TLS in front of the same port.
Prints one JSON object a row: name, figure, unit, the peer's figure, ratio. A peer that is not installed takes no part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.conftest import Platform, new_platform

SIZE = 256  # MiB through a tunnel
SERVED = """
import modal
app = modal.App("edges")
@app.function(min_containers=1)
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def page():
    async def serve(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"VERSION"})
    return serve
"""
PLAIN = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"VERSION"})
"""
SOURCE = """
import socket, threading, time, modal
app = modal.App("edges-source")

def pour(connection):
    with connection:
        for _ in range(int(connection.recv(100))):
            connection.sendall(bytes(1 << 20))

def accept(server):
    while True:
        threading.Thread(target=pour, args=(server.accept()[0],), daemon=True).start()

@app.function(timeout=600)
def source():
    server = socket.create_server(("0.0.0.0", 9000))
    threading.Thread(target=accept, args=(server,), daemon=True).start()
    with modal.forward(9000, unencrypted=True) as tunnel:
        own = socket.gethostbyname(socket.gethostname())
        print("addresses", *tunnel.tls_socket, tunnel.tcp_socket[1], own, flush=True)
        time.sleep(600)
"""


def row(name: str, figure: float, unit: str, peer: str, beside: float) -> None:
    ratio = figure / beside if beside else 0.0
    print(json.dumps({"name": name, "figure": figure, "unit": unit, "peer": peer, "beside": beside, "ratio": ratio}))


def answer(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return ""


def until_new(path: Path, program: str, version: str, url: str) -> float:
    """Seconds from a save to the first answer of what was saved."""
    path.write_text(program.replace("VERSION", version))
    began = time.monotonic()
    while answer(url) != version:
        time.sleep(0.005)
    return time.monotonic() - began


def live_updates(platform: Platform, folder: Path, rounds: int) -> None:
    if importlib.util.find_spec("uvicorn") is None:
        print("uvicorn is not installed: no row for live updates", file=sys.stderr)
        return
    served, plain = folder / "served.py", folder / "plain_app.py"
    served.write_text(SERVED.replace("VERSION", "v"))
    plain.write_text(PLAIN.replace("VERSION", "v"))
    ours = platform.start("modal", "serve", served, cwd=folder, env={"PYTHONUNBUFFERED": "1"})
    assert ours.stdout is not None
    found = None
    while found is None:
        line = ours.stdout.readline()
        assert line, f"modal serve ended: {ours.communicate()[1]}"
        found = re.search(r"=> http://(\S+?)\.\S+:(\d+)", line)
    threading.Thread(target=ours.stdout.read, daemon=True).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "plain_app:app", "--reload", "--port", str(port)]
    peer = subprocess.Popen([*command, "--log-level", "error"], cwd=folder)
    urls = [f"http://127.0.0.1:{found[2]}/_web/{found[1]}", f"http://127.0.0.1:{port}"]
    while "" in map(answer, urls):
        time.sleep(0.05)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for each, path, program, url in zip(times, (served, plain), (SERVED, PLAIN), urls, strict=True):
            time.sleep(1.0)  # what follows an update is no part of the next one
            each.append(until_new(path, program, f"v{number}", url))
    row("save to new version", *_medians(times[0], "s", "uvicorn --reload", times[1]))
    for process in (ours, peer):
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _medians(ours: list[float], unit: str, peer: str, beside: list[float]) -> tuple[float, str, str, float]:
    return statistics.median(ours), unit, peer, statistics.median(beside)


def through(address: tuple[str, int], context: ssl.SSLContext | None = None) -> float:
    """MiB a second."""
    began = time.monotonic()
    with socket.create_connection(address) as sock:
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname="localhost")
        with sock:
            sock.sendall(str(SIZE).encode())
            buffer, total = bytearray(1 << 20), 0
            while size := sock.recv_into(buffer):
                total += size
    assert total == SIZE << 20
    return SIZE / (time.monotonic() - began)


def tunnels(platform: Platform, folder: Path, rounds: int) -> None:
    path = folder / "source.py"
    path.write_text(SOURCE)
    process = platform.start("modal", "run", path, env={"INTERMODAL_TUNNEL_HOST": "localhost", "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    words: list[str] = []
    while words[:1] != ["addresses"]:
        line = process.stdout.readline()
        assert line, "modal run ended"
        words = line.split()
    _addresses, _host, tls, tcp, own = words
    trusting = ssl.create_default_context(cafile=str(platform.home / "tls" / "ca.pem"))
    ways: dict[str, Callable[[], float]] = {
        "direct": lambda: through((own, 9000)),
        "plain": lambda: through(("127.0.0.1", int(tcp))),
        "tls": lambda: through(("127.0.0.1", int(tls)), trusting),
    }
    peer = None
    if shutil.which("socat"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pem = folder / "socat.pem"
        pem.write_text("".join((platform.home / "tls" / name).read_text() for name in ("cert.pem", "key.pem")))
        listen = f"OPENSSL-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,verify=0,cert={pem}"
        peer = subprocess.Popen(["socat", "-b", "262144", listen, f"TCP:{own}:9000"])
        time.sleep(0.5)
        ways["socat"] = lambda: through(("127.0.0.1", port), trusting)
    else:
        print("socat is not installed: no row for TLS", file=sys.stderr)
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            figures[name].append(way())
    row("tunnel, plain", *_medians(figures["plain"], "MiB/s", "direct", figures["direct"]))
    if peer is not None:
        row("tunnel, TLS", *_medians(figures["tls"], "MiB/s", "socat", figures["socat"]))
        peer.terminate()
        peer.wait()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with new_platform() as platform:
        up = platform.intermodal("up")
        assert up.code == 0, up.text
        with tempfile.TemporaryDirectory() as name:
            live_updates(platform, Path(name), options.rounds)
            tunnels(platform, Path(name), options.rounds)


if __name__ == "__main__":
    main()
