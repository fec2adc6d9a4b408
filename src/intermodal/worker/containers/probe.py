"""Which runtimes this machine can use, found by trying and not by guessing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from intermodal.worker.containers.launch import StartFailed
from intermodal.worker.containers.overlay import Overlay, remove_tree
from intermodal.worker.containers.private_mounts import in_user_namespace
from intermodal.worker.containers.runtimes import find_binary


def runtimes(directory: Path, mounts_problem: str = "") -> dict[str, str]:
    """Runtimes, the best first, each with what is wrong: "" where it works.

    Blocking; to be called in the worker's own mount namespace. `directory` is on the file system of the containers.
    """
    overlay = mounts_problem or overlay_problem(directory)
    problems: dict[str, str] = {}
    for name in ("crun", "runc"):
        if find_binary(name) is None:
            problems[name] = f"{name} is not installed; `apt-get install {name}` as root adds it"
        elif name == "runc" and in_user_namespace():
            problems[name] = "runc is not used without root; install crun"
        else:
            problems[name] = overlay
    problems["host"] = ""
    return problems


def overlay_problem(directory: Path) -> str:
    """Why no overlay can be mounted with its upper directory here; "" when one can."""
    place = Path(tempfile.mkdtemp(prefix=".probe-", dir=directory))
    lower = place / "lower"
    lower.mkdir()
    overlay = Overlay([lower], place / "upper", place / "work", place / "root")
    try:
        overlay.mount(userxattr=in_user_namespace() or os.geteuid() != 0)
    except (StartFailed, OSError) as error:
        return str(error)
    finally:
        overlay.unmount()
        remove_tree(place)
    return ""
