"""What containers do with a volume, timed inside: `modal run volume_app.py --volume NAME …` prints one JSON object."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time

import modal

app = modal.App("bench-volumes")
name = os.environ.get("BENCH_VOLUME", "bench")
volume = modal.Volume.from_name(name, create_if_missing=True)
secret = modal.Secret.from_dict({"BENCH_VOLUME": name})
DATA = pathlib.Path("/data")
CHUNK = 1 << 20


def read(path: str, cached: bool) -> float:
    """Seconds for one sequential read, with or without what the page cache holds of the file."""
    fd = os.open(path, os.O_RDONLY)
    if not cached:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    while os.read(fd, CHUNK):
        pass
    os.close(fd)
    return time.perf_counter() - began


@app.function(volumes={DATA: volume}, secrets=[secret], max_containers=1)
def write(number: int) -> float:
    (DATA / "d0" / "0").write_text(f"changed {number}")
    began = time.perf_counter()
    volume.commit()
    return time.perf_counter() - began


@app.function(volumes={DATA: volume}, secrets=[secret], max_containers=1)
def reload() -> float:
    began = time.perf_counter()
    volume.reload()
    return time.perf_counter() - began


@app.function(volumes={DATA: volume}, secrets=[secret], max_inputs=1)
def with_volume() -> int:
    return len(os.listdir(DATA))


@app.function(secrets=[secret], max_inputs=1)
def without_volume() -> int:
    return 0


@app.function(volumes={DATA: volume}, secrets=[secret], timeout=600, max_inputs=1)
def first(_round: int) -> tuple[float, float]:
    """(the first read of a file in this container, a copy of it to the local disk), with nothing in the page cache."""
    source, target = str(DATA / "large"), "/var/tmp/copy"
    took = read(source, False)
    fd = os.open(source, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    began = time.perf_counter()
    subprocess.run(["cp", source, target], check=True)
    copied = time.perf_counter() - began
    os.unlink(target)
    return took, copied


@app.function(volumes={DATA: volume}, secrets=[secret], timeout=600, max_containers=1)
def one_read(cached: bool) -> float:
    """From the volume."""
    return read(str(DATA / "large"), cached)


def reads(local: str, rounds: int, cached: bool) -> list[tuple[float, float]]:
    """(from the volume in a container, from a file of the machine's disk) each, one right after the other.

    Not from the container's own disk: that is a loop device, whose file the page cache holds when the file on it was
    dropped, so that "uncached" would not be true.
    """
    found = []
    for number in range(rounds + 1):
        actions = [lambda: one_read.remote(cached), lambda: read(local, cached)]
        times = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            times[which] = actions[which]()
        found.append((times[0], times[1]))
    return found[1:]


def _timed(function: modal.Function) -> float:
    began = time.perf_counter()
    function.remote()
    return time.perf_counter() - began


@app.local_entrypoint()
def main(rounds: int, large: str = "") -> None:
    if large:
        found = {"cached": reads(large, rounds, True), "uncached": reads(large, rounds, False)}
        print(json.dumps({**found, "first": [first.remote(number) for number in range(rounds)]}))
        return
    starts = [(_timed(with_volume), _timed(without_volume)) for _ in range(rounds + 1)][1:]
    reload.remote()
    syncs = [(write.remote(number), reload.remote()) for number in range(rounds + 1)][1:]
    print(json.dumps({"starts": starts, "syncs": syncs}))
