"""Steps that change what containers start with, and add no layer."""

from __future__ import annotations

import json
import posixpath
import re
import shlex

from intermodal.worker.images.kinds.kind import Fields, Kind
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.image import ImageConfig

_VARIABLE = re.compile(r"[^=\0]+\Z")


class Env(Kind):
    name = "env"
    makes_layer = False
    required = {"vars": dict}

    def check(self, step: Fields) -> None:
        super().check(step)
        for name, value in step["vars"].items():
            if not _VARIABLE.match(name) or not isinstance(value, str) or "\0" in value:
                raise Fault(Code.INVALID, f"image step 'env': {name!r} = {value!r} cannot be an environment variable")

    def title(self, fields: Fields) -> str:
        return "ENV " + " ".join(f"{name}={shlex.quote(value)}" for name, value in fields["vars"].items())

    def apply(self, config: ImageConfig, fields: Fields) -> None:
        config.env = {**config.env, **fields["vars"]}


class Workdir(Kind):
    name = "workdir"
    makes_layer = False
    required = {"path": str}

    def title(self, fields: Fields) -> str:
        return f"WORKDIR {fields['path']}"

    def apply(self, config: ImageConfig, fields: Fields) -> None:
        config.workdir = posixpath.normpath(posixpath.join(config.workdir or "/", fields["path"]))


class Words(Kind):
    """`entrypoint`, `cmd` and `shell`: a list of words that replaces the one before."""

    makes_layer = False
    required = {"args": list}

    def __init__(self, name: str) -> None:
        self.name = name

    def title(self, fields: Fields) -> str:
        return f"{self.name.upper()} {json.dumps(fields['args'])}"

    def apply(self, config: ImageConfig, fields: Fields) -> None:
        setattr(config, self.name, list(fields["args"]))


KINDS = [Env(), Workdir(), Words("entrypoint"), Words("cmd"), Words("shell")]
