"""What steps work with that are made of other steps: an image from a registry, a Dockerfile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from intermodal.worker.images.kinds.kind import Fields, Instruction
from intermodal.worker.images.layers import Layer
from modal._protocol.message import from_json, to_json
from modal._protocol.messages.image import ImageConfig

if TYPE_CHECKING:
    from intermodal.worker.images.registry import Registry
    from intermodal.worker.images.workshop import Workshop

Log = Callable[[str, str], None]  # takes a kind of BuildLog, and text


class Builder(Protocol):
    """The images of one worker, as far as steps of steps need them."""

    workshop: Workshop
    registry: Registry

    def find_layer(self, key: str) -> Layer | None: ...

    def layer_path(self, layer_id: str) -> Path: ...

    async def make_layer(self, key: str, rebuild: bool, fill: Callable[[Path], Awaitable[Layer]]) -> Layer: ...

    def scratch(self) -> AbstractContextManager[Path]: ...

    async def put(
        self, instruction: Instruction, config: ImageConfig, secrets: dict[str, str], emit: Log, rebuild: bool
    ) -> None:
        """Put the layers of an instruction on the image. Raises StepError."""


@dataclass
class Composing:
    """One step that puts any number of layers on an image."""

    builder: Builder
    instruction: Instruction
    config: ImageConfig  # of the image so far; changed in place
    secrets: dict[str, str]
    emit: Log
    rebuild: bool

    @property
    def fields(self) -> Fields:
        return self.instruction.fields

    def paths(self, config: ImageConfig | None = None) -> list[Path]:
        return [self.builder.layer_path(layer) for layer in (config or self.config).layers]

    async def put(self, kind: str, fields: Fields, title: str = "", config: ImageConfig | None = None) -> None:
        """Put a layer of another kind on the image (or on `config`): without secrets. Raises StepError."""
        one = Instruction(self.instruction.number, kind, title or self.instruction.title, fields)
        await self.builder.put(one, config or self.config, {}, self.emit, self.rebuild)


def copied(config: ImageConfig) -> ImageConfig:
    """The same again, to be changed by itself."""
    copy: ImageConfig = from_json(ImageConfig, to_json(config))
    return copy


def become(config: ImageConfig, other: ImageConfig) -> None:
    """Make `config` what `other` is, in place."""
    for name, value in vars(copied(other)).items():
        setattr(config, name, value)
