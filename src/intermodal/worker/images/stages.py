"""Trees in the making, beside those that are whole; what an ended process has left of them is removed."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from intermodal.processes import lives
from intermodal.worker.images.trees import remove_tree

PREFIX = ".new-"  # then `<pid>-<number>`

_numbers = itertools.count()


def new_stage(root: Path, ending: str = "") -> Path:
    """A name in `root` that nothing has."""
    return root / f"{PREFIX}{os.getpid()}-{next(_numbers)}{ending}"


def clean_stages(root: Path) -> None:
    """Remove what ended processes left half made in `root`, which is made where it is not there. Blocking."""
    root.mkdir(parents=True, exist_ok=True)
    for path in root.glob(f"{PREFIX}*"):
        pid = path.name[len(PREFIX) :].partition("-")[0]
        if not pid.isdigit() or not lives(int(pid)):
            remove_tree(path)
