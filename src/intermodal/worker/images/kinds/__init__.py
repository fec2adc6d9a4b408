"""The kinds of recipe steps, by name. A new kind is a module here and a line in `MODULES`."""

from __future__ import annotations

from intermodal.worker.images.kinds import (
    add_python,
    apt,
    builder_packages,
    conda,
    copy,
    debian_slim,
    dockerfile,
    pip,
    poetry,
    registry,
    run,
    run_function,
    settings,
    uv,
)
from intermodal.worker.images.kinds.kind import Context, Instruction, Kind, Made, Making

MODULES = (
    add_python,
    apt,
    builder_packages,
    conda,
    copy,
    debian_slim,
    dockerfile,
    pip,
    poetry,
    registry,
    run,
    run_function,
    settings,
    uv,
)
KINDS: dict[str, Kind] = {kind.name: kind for module in MODULES for kind in module.KINDS}
BASES = tuple(name for name, kind in KINDS.items() if kind.base)

__all__ = ["BASES", "KINDS", "Context", "Instruction", "Kind", "Made", "Making"]
