"""Image recipes: a list of JSON steps becomes the instructions that are built one by one."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import ImageConfig

DEFAULT_SHELL = ["/bin/sh", "-c"]

BASES = ("debian_slim",)
METADATA = ("env", "workdir", "entrypoint", "cmd", "shell")  # change the image's configuration, add no layer
PIP_OPTIONS = ("find_links", "index_url", "extra_index_url", "pre", "extra_options")

_FIELDS: dict[str, dict[str, type]] = {
    "debian_slim": {"python_version": str},
    "pip_install": {"packages": list},
    "pip_requirements": {"requirements": str},
    "apt_install": {"packages": list},
    "run": {"commands": list},
    "env": {"vars": dict},
    "workdir": {"path": str},
    "copy": {"mount_id": str},
    "entrypoint": {"args": list},
    "cmd": {"args": list},
    "shell": {"args": list},
}
_VARIABLE = re.compile(r"[^=\0]+\Z")


@dataclass(frozen=True)
class Instruction:
    """One line of a build: a base, something that makes a layer, or a change of the configuration."""

    number: int
    kind: str
    title: str  # as a Dockerfile would say it
    fields: dict[str, Any]  # what decides the result, and nothing else
    secret_ids: list[str] = field(default_factory=list)
    force: bool = False

    @property
    def makes_layer(self) -> bool:
        return self.kind not in METADATA


def parse(recipe: list[dict[str, Any]]) -> list[Instruction]:
    """The instructions of a recipe, checked. Raises Fault(invalid)."""
    if not recipe:
        raise _invalid("the recipe is empty: an image begins with a base such as debian_slim")
    instructions: list[Instruction] = []
    for step in recipe:
        kind = _check(step, first=not instructions)
        for fields, title in _lines(kind, step):
            instructions.append(
                Instruction(
                    number=len(instructions),
                    kind=kind,
                    title=title,
                    fields=fields,
                    secret_ids=[str(one) for one in step.get("secrets") or []],
                    force=bool(step.get("force")),
                )
            )
    return instructions


def _check(step: dict[str, Any], first: bool) -> str:
    kind = step.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise _invalid(f"this worker knows no image step {kind!r}: it and the client may be of different versions")
    if first != (kind in BASES):
        where = "begins with" if first else "continues with"
        raise _invalid(f"the recipe {where} {kind!r}: a base ({', '.join(BASES)}) must come first, and only there")
    for name, wanted in _FIELDS[kind].items():
        value = step.get(name)
        if type(value) is not wanted:
            raise _invalid(f"image step {kind!r}: field {name!r} must be a {wanted.__name__}, not {value!r}")
        if isinstance(value, list) and not all(isinstance(part, str) for part in value):
            raise _invalid(f"image step {kind!r}: field {name!r} must hold strings")
    if kind == "env":
        for name, value in step["vars"].items():
            if not _VARIABLE.match(name) or not isinstance(value, str) or "\0" in value:
                raise _invalid(f"image step 'env': {name!r} = {value!r} cannot be an environment variable")
    return kind


def _lines(kind: str, step: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    fields = {name: step[name] for name in _FIELDS[kind]}
    if kind == "debian_slim":
        return [(fields, "FROM base")]
    if kind in ("pip_install", "pip_requirements"):
        for name in PIP_OPTIONS:
            if step.get(name):
                fields[name] = step[name]
        if kind == "pip_requirements":
            return [(fields, " ".join(["RUN python -m pip install -r requirements.txt", *_pip_words(fields)]))]
        words = [shlex.quote(package) for package in fields["packages"]]
        return [(fields, " ".join(["RUN python -m pip install", *words, *_pip_words(fields)]))] if words else []
    if kind == "apt_install":
        words = [shlex.quote(package) for package in fields["packages"]]
        return [(fields, " ".join(["RUN apt-get update && apt-get install -y", *words]))] if words else []
    if kind == "run":
        return [({"command": command}, f"RUN {command}") for command in fields["commands"]]
    if kind == "env":
        return [(fields, "ENV " + " ".join(f"{name}={shlex.quote(v)}" for name, v in fields["vars"].items()))]
    if kind == "workdir":
        return [(fields, f"WORKDIR {fields['path']}")]
    if kind == "copy":
        return [(fields, "COPY . /")]
    return [(fields, f"{kind.upper()} {json.dumps(fields['args'])}")]


def _pip_words(fields: dict[str, Any]) -> list[str]:
    words = []
    for name, option in (("find_links", "--find-links"), ("index_url", "--index-url")):
        if fields.get(name):
            words += [option, hide_password(str(fields[name]))]
    extra = fields.get("extra_index_url") or []
    for url in [extra] if isinstance(extra, str) else extra:
        words += ["--extra-index-url", hide_password(url)]
    if fields.get("pre"):
        words.append("--pre")
    if fields.get("extra_options"):
        words.append(str(fields["extra_options"]))
    return words


def hide_password(url: str) -> str:
    """A URL as logs may show it."""
    return re.sub(r"(?<=://)([^/@]*)@", "***@", url)


def apply(config: ImageConfig, instruction: Instruction) -> None:
    """Do to the configuration what an instruction without a layer says."""
    fields = instruction.fields
    if instruction.kind == "env":
        config.env = {**config.env, **fields["vars"]}
    elif instruction.kind == "workdir":
        config.workdir = posixpath.normpath(posixpath.join(config.workdir or "/", fields["path"]))
    elif instruction.kind == "entrypoint":
        config.entrypoint = list(fields["args"])
    elif instruction.kind == "cmd":
        config.cmd = list(fields["args"])
    elif instruction.kind == "shell":
        config.shell = list(fields["args"])


def key(parent: str, config: ImageConfig, instruction: Instruction, secret_names: list[str], inputs: str = "") -> str:
    """The identity of the layer that an instruction makes on top of `parent` (a layer id).

    Secrets count by the names of their variables: a new value of a token does not build anything
    again, and no trace of the value is kept. `inputs` stands for content that the fields do not name.
    """
    parts: list[Any] = [parent, instruction.kind, instruction.fields, sorted(secret_names), inputs]
    if instruction.kind not in (*BASES, "copy"):
        parts += [config.env, config.workdir, config.shell or DEFAULT_SHELL]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def _invalid(text: str) -> Fault:
    return Fault(Code.INVALID, text)
