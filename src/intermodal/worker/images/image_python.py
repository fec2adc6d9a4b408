"""The Python of an image that did not come from us: found on its PATH, asked for its version, or put in."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

from intermodal.worker.images.composing import Composing
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.interpreters import OLDEST
from intermodal.worker.images.kinds.kind import Instruction, Making
from intermodal.worker.images.registry_manifest import DEFAULT_PATH
from intermodal.worker.images.view import View
from modal._protocol.messages.image import ImageConfig

REVISION = 1
_QUESTION = """
import sys
print("python %d.%d.%d" % sys.version_info[:3])
try:
    import pip
    print("pip")
except ImportError:
    pass
"""


def on_path(config: ImageConfig, layers: list[Path], name: str = "python") -> str:
    """The path of a program on the image's PATH, "" where there is none."""
    view = View(layers)
    for directory in config.env.get("PATH", DEFAULT_PATH).split(":"):
        if not directory.startswith("/"):
            continue
        path = f"{directory.rstrip('/')}/{name}"
        try:
            node = view.lookup(view.resolve(path))
        except OSError:
            continue  # links in circles
        if node is not None and stat.S_ISREG(node.found.st_mode) and node.found.st_mode & 0o111:
            return path
    return ""


async def find_python(composing: Composing, name: str) -> None:
    """Set the image's `python` and its version. Raises StepError where `name` (the image) has none that will do."""
    config = composing.config
    question = json.dumps([REVISION, config.layers, config.env.get("PATH", "")])
    workshop = composing.builder.workshop
    note = workshop.home.cache / "pythons" / hashlib.sha256(question.encode()).hexdigest()[:40]
    try:
        config.python, config.python_version = json.loads(note.read_text())
        return
    except (OSError, ValueError):
        pass
    path = on_path(config, composing.paths())
    if not path:
        raise StepError(
            f"{name} has no `python` on its PATH ({config.env.get('PATH', DEFAULT_PATH)}): "
            'give add_python="3.11" (or another version) to have one put in'
        )
    version, has_pip = await _ask(composing, path, name)
    if version < (3, OLDEST):
        text = ".".join(map(str, version))
        raise StepError(
            f"{name} has Python {text} as `python`; 3.{OLDEST} or newer is needed: "
            'give add_python="3.11" (or another version) to have one put in'
        )
    if not has_pip:
        raise StepError(
            f"the Python of {name} ({path}) has no pip: install it in the image, "
            'or give add_python="3.11" (or another version) to have a complete Python put in'
        )
    config.python, config.python_version = path, ".".join(map(str, version))
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f".{note.name}-{os.getpid()}")
    temporary.write_text(json.dumps([config.python, config.python_version]))
    temporary.rename(note)


async def _ask(composing: Composing, path: str, name: str) -> tuple[tuple[int, ...], bool]:
    said: list[str] = []

    def listen(kind: str, text: str) -> None:
        said.append(text)

    with composing.builder.scratch() as stage:
        instruction = Instruction(composing.instruction.number, "run", f"look at {path}", {})
        making = Making(instruction, composing.config, composing.paths(), stage, {}, listen)
        try:
            await composing.builder.workshop.run(making, [path, "-c", _QUESTION], [])
        except StepError as error:
            raise StepError(
                f"the Python of {name} ({path}) does not run: {error.reason}. "
                'Give add_python="3.11" (or another version) to have one put in',
                error.last_lines,
            ) from None
    lines = "".join(said).splitlines()
    version = next((line.split()[1] for line in lines if line.startswith("python ")), "0.0.0")
    return tuple(int(part) for part in version.split(".")), "pip" in lines
