"""Image recipes: a list of JSON steps becomes the instructions that are built one by one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from intermodal.worker.images.kinds import BASES, KINDS, Instruction
from intermodal.worker.images.workshop import DEFAULT_SHELL
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import ImageConfig


def parse(recipe: list[dict[str, Any]]) -> list[Instruction]:
    """The instructions of a recipe, checked. Raises Fault(invalid)."""
    if not recipe:
        raise _invalid("the recipe is empty: an image begins with a base such as debian_slim")
    instructions: list[Instruction] = []
    for step in recipe:
        kind = _check(step, first=not instructions)
        for fields, title in KINDS[kind].lines(step):
            instructions.append(
                Instruction(
                    number=len(instructions),
                    kind=kind,
                    title=title,
                    fields=fields,
                    secret_ids=[str(one) for one in step.get("secrets") or []],
                    force=bool(step.get("force")),
                    gpu=[str(one) for one in step.get("gpu") or []],
                    supplies=dict(step.get("supplies") or {}),
                )
            )
    return instructions


def _check(step: dict[str, Any], first: bool) -> str:
    name = step.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or kind.internal:
        raise _invalid(f"this worker knows no image step {name!r}: it and the client may be of different versions")
    if first != kind.base:
        where = "begins with" if first else "continues with"
        raise _invalid(f"the recipe {where} {name!r}: a base ({', '.join(BASES)}) must come first, and only there")
    kind.check(step)
    return kind.name


def makes_layer(instruction: Instruction) -> bool:
    return KINDS[instruction.kind].makes_layer


def apply(config: ImageConfig, instruction: Instruction) -> None:
    """Do to the configuration what an instruction without a layer says."""
    KINDS[instruction.kind].apply(config, instruction.fields)


def key(parent: str, config: ImageConfig, instruction: Instruction, secret_names: list[str], inputs: str = "") -> str:
    """The identity of the layer that an instruction makes on top of `parent` (a layer id).

    Secrets count by the names of their variables: a new value of a token does not build anything
    again, and no trace of the value is kept. `inputs` stands for content that the fields do not name.
    """
    parts: list[Any] = [parent, instruction.kind, instruction.fields, sorted(secret_names), inputs]
    if KINDS[instruction.kind].settings_matter:
        parts += [config.env, config.workdir, config.shell or DEFAULT_SHELL]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def _invalid(text: str) -> Fault:
    return Fault(Code.INVALID, text)
