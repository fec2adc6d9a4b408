"""Takes away what a test run leaves when it is killed: platforms, containers, mounts, control groups and bridges.

A process of its own that reads from a pipe what the run makes, and what the run has taken away itself. The end of the
pipe is the end of the run, however that came about; what is left then goes, and the process ends.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
DOWN_SECONDS = 300.0
OURS = ("MODAL_", "INTERMODAL_", "PYTEST_")

_pipe: IO[str] | None = None


def start() -> None:
    """From now on, in this process. Once."""
    global _pipe
    if _pipe is None:
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith(OURS)},
            cwd=ROOT,
            start_new_session=True,
            text=True,
        )
        process.returncode = 0  # nobody waits for it: it ends after this process
        _pipe = process.stdin
        assert _pipe is not None
        atexit.register(_pipe.close)


def tell(what: str, path: Path) -> None:
    """`home`: a state directory, to be deleted; `disk`: a mount; `below`: state directories that only may lie there;
    `gone`: that of this name is taken care of."""
    if _pipe is not None:
        _pipe.write(json.dumps([what, str(path)]) + "\n")
        _pipe.flush()


def _read() -> dict[str, list[str]]:
    """What is left at the end of the run."""
    left: dict[str, list[str]] = {"home": [], "disk": [], "below": []}
    for line in sys.stdin:
        what, path = json.loads(line)
        if what == "gone":
            for paths in left.values():
                if path in paths:
                    paths.remove(path)
        elif path not in left[what]:
            left[what].append(path)
    return left


def _homes_below(place: str) -> set[str]:
    """State directories that processes or records name."""
    named = []
    for entry in Path("/proc").iterdir():
        try:
            variables = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        named += [one.partition(b"=")[2] for one in variables if one.startswith(b"INTERMODAL_HOME=")]
    records = Path("/run/intermodal")
    for record in records.iterdir() if records.is_dir() else ():
        try:
            named.append(record.read_bytes())
        except OSError:
            continue
    return {os.fsdecode(one) for one in named if one.startswith(os.fsencode(place) + b"/")}


def _take_away(left: dict[str, list[str]]) -> None:
    found = {home for place in left["below"] for home in _homes_below(place)}
    for home in [*left["home"], *sorted(found)]:
        if os.path.isdir(home):
            _run([sys.executable, "-m", "intermodal", "down"], {"INTERMODAL_HOME": home})
    for home in left["home"]:
        shutil.rmtree(home, ignore_errors=True)
    for disk in left["disk"]:
        _run(["umount", "-l", disk])
        shutil.rmtree(disk, ignore_errors=True)
    if left["home"] or left["disk"] or found:  # of directories that the run had begun to delete
        _run([sys.executable, "-m", "intermodal.worker.containers.leftovers", "--remove"])


def _run(command: list[str], variables: dict[str, str] | None = None) -> None:
    """Whatever comes of it: the rest is to be taken away too."""
    try:
        subprocess.run(command, env={**os.environ, **(variables or {})}, check=False, timeout=DOWN_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _take_away(_read())
