"""Benchmarks of volumes: files up and down beside an S3 server, reads beside the local disk, commits and reloads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.figures import OURS, Section
from tests.benchmarks.systems import HERE, PEERS_PYTHON, DriverError, Intermodal

if TYPE_CHECKING:
    from tests.benchmarks.measurements import Bench

S3 = "S3 (moto), boto3, 10 threads"
DISK = "a copy on the machine's disk"
COPY = "a local copy (cp)"
SYNCED = "a local copy that is on the disk (dd conv=fsync)"
FILE_BYTES = 1000
DRIVERS = HERE / "drivers"


def files(bench: Bench, section: Section) -> None:
    """Many small files: `modal volume put` and `get` beside per-file transfers to an S3 server of this machine"""
    count = 1_000 if bench.quick else 10_000
    ours = bench.ours
    source = _tree(bench.folder / "small", count)
    with _s3(bench.folder) as port:
        for number in range(bench.rounds):
            name = f"bench-files-{number}"
            _modal(ours, "volume", "create", name)
            for action, arguments in (("put", [source, "/f"]), ("get", ["/f", _fresh(bench.folder / "ours")])):
                took = _timed(lambda a=action, b=arguments, n=name: _modal(ours, "volume", a, n, *b))
                section.measure(f"{action} of {count:,} files", "s").add(OURS, took)
                if port:
                    where = source if action == "put" else _fresh(bench.folder / "theirs")
                    command = [str(PEERS_PYTHON), str(DRIVERS / "peer_s3.py"), str(port), action, str(where), name]
                    section.measure(f"{action} of {count:,} files", "s").add(S3, float(_output(command, ours.env)))
            again = _timed(lambda n=name: _modal(ours, "volume", "put", "-f", n, source, "/f"))
            section.measure("put again, nothing changed", "s").add(OURS, again)
            _modal(ours, "volume", "delete", "-y", name)
    if not port:
        section.notes.append("The S3 server does not take part: moto and boto3 are not installed in .bench-venv.")
    section.notes.append("Ours includes the start of the command (0.2 s); the peer's time begins with its first file.")


def large(bench: Bench, section: Section) -> None:
    """One large file: its way into a volume, and sequential reads in a container"""
    size = (64 if bench.quick else 2048) << 20
    ours, path = bench.ours, bench.folder / "large"
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    name = "bench-large"
    _modal(ours, "volume", "create", name)
    took = section.measure(f"{size >> 20} MiB into the volume", "s")
    for _ in range(bench.rounds):
        with path.open("r+b") as file:  # another file each time
            file.write(os.urandom(16))
        took.add(OURS, _timed(lambda: _modal(ours, "volume", "put", "-f", name, path, "/large")))
        took.add(COPY, _timed(lambda: subprocess.run(["cp", str(path), f"{path}.copy"], check=True)))
        dd = ["dd", f"if={path}", f"of={path}.synced", "bs=1M", "conv=fsync", "status=none"]
        took.add(SYNCED, _timed(lambda dd=dd: subprocess.run(dd, check=True)))  # type: ignore[misc]
        Path(f"{path}.synced").unlink()
    found = _app(ours, name, bench.rounds * 2, "--large", f"{path}.copy")
    for what in ("cached", "uncached"):
        for from_volume, from_disk in found[what]:
            rate = section.measure(f"sequential read in a container, {what}", "MB/s", more_is_better=True)
            rate.add(OURS, size / 1e6 / from_volume)
            rate.add(DISK, size / 1e6 / from_disk)
    for read, copied in found["first"]:
        first = section.measure(f"first read of {size >> 20} MiB in a new container", "s")
        first.add(OURS, read)
        first.add(COPY, copied)
    for leftover in bench.folder.glob("large*"):
        leftover.unlink()
    _modal(ours, "volume", "delete", "-y", name)


def mounts(bench: Bench, section: Section) -> None:
    """Volumes of many files in containers: start, commit of one changed file, reload"""
    ours = bench.ours
    for count in (1_000, 20_000) if bench.quick else (1_000, 20_000, 50_000):
        source = _tree(bench.folder / f"tree-{count}", count)
        name = f"bench-{count}"
        _modal(ours, "volume", "create", name)
        _modal(ours, "volume", "put", name, source, "/.")
        found = _app(ours, name, 2 if bench.quick else bench.rounds * 3)
        for with_volume, without in found["starts"]:
            section.measure(f"start, {count:,} files: more than without a volume", "ms").add(
                OURS, (with_volume - without) * 1e3
            )
        for commit, reload in found["syncs"]:
            section.measure(f"commit of one file among {count:,}", "ms").add(OURS, commit * 1e3)
            section.measure(f"reload after it, {count:,} files", "ms").add(OURS, reload * 1e3)
        _modal(ours, "volume", "delete", "-y", name)
        shutil.rmtree(source)


ALL: dict[str, Any] = {"volume-files": files, "volume-large": large, "volume-mounts": mounts}


def _tree(root: Path, count: int) -> Path:
    for number in range(count):
        folder = root / f"d{number // 1000}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / str(number)).write_bytes(f"{number:0>20}".encode() * (FILE_BYTES // 20))
    return root


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    return path


def _timed(action: Any) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _output(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DriverError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _modal(ours: Intermodal, *arguments: str | Path) -> str:
    return _output([str(Path(sys.executable).with_name("modal")), *map(str, arguments)], ours.env)


def _app(ours: Intermodal, volume: str, rounds: int, *options: str) -> Any:
    program = str(DRIVERS / "volume_app.py")
    command = [str(Path(sys.executable).with_name("modal")), "run", "-q", program, "--rounds", str(rounds), *options]
    return json.loads(_output(command, {**ours.env, "BENCH_VOLUME": volume}).splitlines()[-1])


@contextlib.contextmanager
def _s3(folder: Path) -> Iterator[int]:
    """The port of an S3 server; 0 where there is none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    if not PEERS_PYTHON.exists():
        yield 0
        return
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            [str(PEERS_PYTHON), "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log, cwd=folder
        )
    try:
        yield port if _answers(port, server) else 0
    finally:
        server.kill()
        server.wait()


def _answers(port: int, server: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=1).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False
