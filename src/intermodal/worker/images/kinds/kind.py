"""What one kind of recipe step is: its fields, how a log shows it, and what it does.

Each kind has a module of its own beside this one; `kinds/__init__.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intermodal.worker.devices.edits import Edits
from intermodal.worker.images.host import HostSettings
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import ImageConfig

if TYPE_CHECKING:
    from intermodal.worker.images.composing import Composing
    from intermodal.worker.images.workshop import Workshop

Fields = dict[str, Any]


@dataclass(frozen=True)
class Instruction:
    """One line of a build: a base, something that makes a layer, or a change of the configuration."""

    number: int
    kind: str
    title: str  # as a Dockerfile would say it
    fields: Fields  # what decides the result, and nothing else
    secret_ids: list[str] = field(default_factory=list)
    force: bool = False
    gpu: list[str] = field(default_factory=list)
    supplies: Fields = field(default_factory=dict)  # what it is carried out with; no part of what comes of it

    def instead(self, kind: str, fields: Fields) -> Instruction:
        """The same line, carried out by another kind: without secrets."""
        return Instruction(self.number, kind, self.title, fields, [], self.force, self.gpu)


@dataclass(frozen=True)
class Context:
    """Whose build it is."""

    environment: str = ""  # where names resolve for functions that run in it; "" is the server's default
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)  # all of the build, by id


@dataclass
class Making:
    """One layer in the making."""

    instruction: Instruction
    config: ImageConfig  # of the image so far
    layers: list[Path]  # below, lowest first
    stage: Path  # a directory for the step; the layer itself is `stage/upper`
    secrets: dict[str, str]
    log: Callable[[str, str], None]  # a kind of BuildLog, and text
    context: Context = Context()
    edits: Edits = field(default_factory=Edits)  # the GPUs that the step has

    @property
    def fields(self) -> Fields:
        return self.instruction.fields

    @property
    def upper(self) -> Path:
        return self.stage / "upper"


@dataclass
class Made:
    """What a layer says about the image from here on; empty for most."""

    env: dict[str, str] = field(default_factory=dict)
    python: str = ""
    python_version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # other fields of ImageConfig that the layer sets


class Kind:
    """One kind of step. Subclasses say what differs."""

    name: str
    base = False  # an image begins with it, and only there
    pinned = False  # a base that the builder version pins: built again only where the step itself asks for it
    internal = False  # stands in no recipe: other kinds are made of it
    composite = False  # it puts any number of layers on the image by itself, with `compose`
    announced = True  # whether the log shows its title; else it says what it does by itself
    makes_layer = True  # else it changes the image's configuration alone
    settings_matter = True  # whether variables, working directory and shell of the image so far decide the result
    side_by_side = False  # whether its parts know nothing of each other: then each is kept by itself
    required: dict[str, type] = {}  # fields that a step must have, in the instruction as they are
    optional: dict[str, type] = {}  # fields that are left out where they are empty

    def check(self, step: Fields) -> None:
        """Raise Fault(invalid) where the step makes no sense."""
        for name, wanted in self.required.items():
            _check_type(self.name, name, step.get(name), wanted)
        for name, wanted in self.optional.items():
            if step.get(name):
                _check_type(self.name, name, step[name], wanted)

    def fields(self, step: Fields) -> Fields:
        """What of the step decides the result."""
        fields = {name: step[name] for name in self.required}
        fields.update({name: step[name] for name in self.optional if step.get(name)})
        return fields

    def title(self, fields: Fields) -> str:
        """The step as a Dockerfile would say it."""
        raise NotImplementedError

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        """The fields and titles of the instructions that the step stands for."""
        fields = self.fields(step)
        return [(fields, self.title(fields))]

    async def prepare(self, workshop: Workshop, instruction: Instruction, log: Callable[[str, str], None]) -> None:
        """Have what `parts` looks for on this machine. Raises StepError."""

    def parts(self, instruction: Instruction) -> list[Instruction]:
        """The layers that an instruction is made of, lowest first. Raises StepError."""
        return [instruction]

    def inputs(self, instruction: Instruction, host: HostSettings) -> str:
        """What else than the recipe decides the result: content that the fields do not name."""
        return ""

    def apply(self, config: ImageConfig, fields: Fields) -> None:
        """Change the configuration, for a kind that makes no layer."""
        raise NotImplementedError

    async def compose(self, composing: Composing) -> None:
        """Put the step's layers on the image, for a composite kind. Raises StepError."""
        raise NotImplementedError

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        """Fill `making.upper`. Raises StepError."""
        raise NotImplementedError


def _check_type(kind: str, name: str, value: Any, wanted: type) -> None:
    if type(value) is not wanted:
        raise Fault(Code.INVALID, f"image step {kind!r}: field {name!r} must be a {wanted.__name__}, not {value!r}")
    if isinstance(value, list) and not all(isinstance(part, str) for part in value):
        raise Fault(Code.INVALID, f"image step {kind!r}: field {name!r} must hold strings")
