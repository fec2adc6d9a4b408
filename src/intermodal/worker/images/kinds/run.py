"""`run`: shell commands, each a layer."""

from __future__ import annotations

from intermodal.worker.images.kinds.kind import Fields, Kind, Made, Making
from intermodal.worker.images.workshop import DEFAULT_SHELL, Workshop


class Run(Kind):
    name = "run"
    required = {"commands": list}

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        return [({"command": command}, f"RUN {command}") for command in step["commands"]]

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        shell = making.config.shell or DEFAULT_SHELL
        await workshop.run(making, [*shell, making.fields["command"]], workshop.caches())
        return None


KINDS = [Run()]
