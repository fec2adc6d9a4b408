"""An image's ENTRYPOINT: it is given the command that runs the user's code, and must `exec` it.

The documented rule (guide/images, "ENTRYPOINT"): the entrypoint's script does what it has to and ends
with `exec "$@"`. One that ends or goes on by itself never lets a runner appear; both are noticed here.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from intermodal.worker.containers.launch import Exit
from modal._protocol.messages.image import ImageConfig

if TYPE_CHECKING:
    from intermodal.worker.cell import Cell
    from intermodal.worker.containers.running import Running

PATIENCE_SETTING = "INTERMODAL_ENTRYPOINT_SECONDS"
PATIENCE = 180.0  # seconds that an entrypoint may take before it runs its command
ADVICE = 'its last line must be: exec "$@"'


def command(image: ImageConfig, start: str) -> list[str]:
    """What a container of the image runs, so that in the end its Python runs the program at `start`."""
    return [*image.entrypoint, image.python or "python3", start]


def patience(environ: Mapping[str, str] | None = None) -> float:
    """Seconds that an entrypoint may take; what makes no sense in the operator's setting counts as unset."""
    try:
        return max(0.1, float((os.environ if environ is None else environ)[PATIENCE_SETTING]))
    except (KeyError, ValueError):
        return PATIENCE


async def watch(cell: Cell, running: Running, entrypoint: list[str]) -> None:
    """End the container when its entrypoint does not run its command in time."""
    seconds = patience()
    try:
        await asyncio.wait_for(cell.met.wait(), seconds)
    except TimeoutError:
        cell.start_failure = (
            f"the image's ENTRYPOINT {shlex.join(entrypoint)} has not run the command that it was given within "
            f"{seconds:g} seconds: {ADVICE} (more time: {PATIENCE_SETTING} of the worker)"
        )
        await running.kill()


def explained(cell: Cell, exit: Exit, entrypoint: list[str]) -> Exit:
    """The end of a container whose runner never appeared, as what it means; any other end as it is."""
    if cell.met.is_set() or cell.stop_reason or cell.start_failure or exit.reason != "exited":
        return exit
    how = f"was ended by signal {exit.signal}" if exit.signal else f"ended with exit code {exit.code}"
    text = f"the image's ENTRYPOINT {shlex.join(entrypoint)} {how} before it ran the command that it was given"
    return Exit(exit.code, exit.signal, "start-failed", f"{text}: {ADVICE}")
