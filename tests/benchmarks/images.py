"""Image builds beside buildah, and `pip_install` beside uv on the same cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from tests.benchmarks import buildah
from tests.benchmarks.figures import OURS, Section
from tests.benchmarks.systems import HERE, Intermodal
from tests.images_cache import cache_home

Steps = list[list[str]]
TEN = 10
FILES = 10_000
PIP_ROUNDS = 7  # at least: one round says little where a disk takes part
SETTLE_SECONDS = 60.0
UV = "uv, in a virtual environment"
PACKAGES = (
    "numpy pandas requests fastapi uvicorn pydantic httpx click rich pyyaml jinja2 sqlalchemy pillow matplotlib "
    "scikit-learn tqdm boto3 aiohttp beautifulsoup4 lxml"
).split()


def ten_steps(tag: str, middle: str) -> Steps:
    """What a typical recipe has: settings, small commands, files that are copied, packed, removed."""
    return [
        ["env", "TAG", tag],
        ["workdir", "/work"],
        ["run", "echo one > one"],
        ["run", "mkdir -p sub && seq 10000 > sub/numbers"],
        ["run", "cp -a /usr/lib/python3.11/json ."],
        ["run", f"echo {middle} > middle"],
        ["run", 'python3 -c \'import json; json.dump(list(range(10000)), open("list.json", "w"))\''],
        ["run", "tar cf all.tar sub json"],
        ["run", "sha256sum all.tar > sum"],
        ["run", "rm -r sub"],
    ]


def dockerfile(steps: Steps) -> str:
    lines = ["FROM localhost/base"]
    for kind, *words in steps:
        lines.append({"env": "ENV {0}={1}", "workdir": "WORKDIR {0}", "run": "RUN {0}"}[kind].format(*words))
    return "\n".join([*lines, ""])


def build(ours: Intermodal, steps: Steps, *options: str) -> tuple[float, str]:
    """Seconds of a process that builds an image, and what it printed."""
    command = [sys.executable, str(HERE / "programs/build.py"), json.dumps(steps), *options]
    began = time.perf_counter()
    done = subprocess.run(command, env=ours.env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - began, done.stdout


def images(bench: Any, section: Section) -> None:
    """Building ten steps"""
    cases = [section.measure(name, "s") for name in ("all new", "all cached", "one in the middle changed")]
    cached = section.measure("what a cached image adds to a program that runs", "ms")
    ours = bench.ours
    peer = buildah.Buildah(bench.folder, _base(ours)) if buildah.is_there() else None
    context = bench.folder / "context"
    context.mkdir()
    build(ours, [["run", f"echo {uuid.uuid4().hex}"]])
    for number in range(bench.rounds):
        tag = uuid.uuid4().hex
        for case, middle in zip(cases, ("a", "a", f"b{number}"), strict=True):
            steps = ten_steps(tag, middle)
            took, printed = build(ours, steps, *(["--twice"] if case is cases[1] else []))
            # The second image of the process costs what a cached image adds to a program: no start, no connection.
            case.add(OURS, took - float(printed or 0.0))
            if printed:
                cached.add(OURS, float(printed) * 1e3)
            if peer is not None:
                case.add(buildah.NAME, peer.build(dockerfile(steps), context, cached=case is not cases[0]))
    if peer is None:
        section.notes.append("buildah is not installed, so there is no peer (Debian, Ubuntu: apt-get install buildah)")
    else:
        peer.close()


def _base(ours: Intermodal) -> list[Path]:
    """The layers that debian_slim has."""
    layers = sorted(ours.home.layers.glob("*.json"), key=lambda path: -json.loads(path.read_text())["size"])
    return [(ours.home.layers / path.stem).resolve() for path in layers]


def copy(bench: Any, section: Section) -> None:
    """A tree of 10,000 files of which one has changed, copied into an image"""
    took = section.measure("one file changed", "s")
    tree = bench.folder / "tree"
    for directory in range(100):
        (tree / f"d{directory}").mkdir(parents=True)
        for number in range(FILES // 100):
            (tree / f"d{directory}" / f"m{number}.py").write_text(f"# {directory} {number}\n" + "x = 1\n" * 50)
    peer = buildah.Buildah(bench.folder, []) if buildah.is_there() else None
    steps = [["copy", str(tree), "/root/tree"]]
    past = time.time() - 3600
    for path in tree.rglob("*.py"):
        os.utime(path, (past, past))  # a file of just now might change again unseen, so it is always read
    env = {**bench.ours.env, "XDG_CACHE_HOME": str(bench.folder / "xdg")}
    bench.ours.env = env
    for number in range(bench.rounds + 1):
        (tree / "d5/m7.py").write_text(f"# {number}\n")
        seconds, _ = build(bench.ours, steps)
        theirs = 0.0
        if peer is not None:
            theirs = peer.build("FROM scratch\nCOPY tree /root/tree\n", bench.folder, cached=True)
        if number:  # the first sends everything
            took.add(OURS, seconds)
            if peer is not None:
                took.add(buildah.NAME, theirs)
    if peer is not None:
        peer.close()


def pip(bench: Any, section: Section) -> None:
    """pip_install of 20 common packages, downloads cached"""
    took = section.measure("install", "s")
    import uv

    binary = uv.find_uv_bin()
    place = bench.folder / "venv"
    host = _index_settings()
    cache = cache_home().cache / "uv-cache"
    build(bench.ours, [["env", "N", uuid.uuid4().hex], ["pip", *PACKAGES]])
    rounds = bench.rounds if bench.quick else max(bench.rounds, PIP_ROUNDS)
    for _ in range(rounds):
        _settle(bench.ours)
        seconds, _ = build(bench.ours, [["env", "N", uuid.uuid4().hex], ["pip", *PACKAGES]])
        took.add(OURS, seconds)
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([binary, "venv", "-q", "--python", sys.executable, str(place)], check=True)
        _settle(bench.ours)
        began = time.perf_counter()
        subprocess.run(
            [binary, "pip", "install", "-q", "--compile-bytecode", "--python", str(place / "bin/python"), *PACKAGES],
            env={**os.environ, **host, "UV_CACHE_DIR": str(cache)},
            check=True,
        )
        took.add(UV, time.perf_counter() - began)
    best = {who: min(samples) for who, samples in took.samples.items()}
    section.notes.append(f"the best round of each: {best[OURS] / best[UV]:.2f} times uv's")
    section.notes.append("both compile bytecode; ours includes the client's start, the container and the layer")


def _settle(ours: Intermodal) -> None:
    """Wait until what was built before is on the disk and read once more, as happens in the background."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        notes = [json.loads(path.read_text()) for path in ours.home.layers.glob("*.json")]
        if not any(note.get("boot") for note in notes):
            break
        time.sleep(0.1)
    os.sync()


def _index_settings() -> dict[str, str]:
    """This machine's package indexes, as builds use them."""
    from intermodal.worker.images.host import own_settings

    return {name: value for name, value in own_settings().environment().items() if name.startswith("UV_")}
