"""Files that name conda packages: an `environment.yml`, or one specification a line."""

from __future__ import annotations

from typing import Any, Sequence

from modal._image_projects import read_text
from modal.exception import InvalidError

METHOD = "micromamba_install"


def conda_request(path: str, packages: Sequence[str], channels: Sequence[str]) -> dict[str, Any]:
    """The fields of the recipe for packages that were named and those of a file. Raises InvalidError."""
    text = read_text(path, METHOD)
    lines = [line.split(" #")[0].rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if any(line.startswith(("dependencies:", "channels:", "name:")) for line in lines):
        found = _environment(lines, path)
    else:
        found = {"dependencies": [line.strip() for line in lines], "channels": []}
    if "@EXPLICIT" in found["dependencies"]:
        raise InvalidError(
            f"Image.{METHOD}: {path} is an explicit list of URLs, which is not supported: name packages and versions."
        )
    if not found["dependencies"] and not packages:
        raise InvalidError(f"Image.{METHOD}: {path} names no packages.")
    return {"packages": [*packages, *found["dependencies"]], "channels": [*channels, *found["channels"]]}


def _environment(lines: Sequence[str], path: str) -> dict[str, list[str]]:
    """`dependencies` and `channels` of an environment file: lists of plain words, as conda writes them."""
    found: dict[str, list[str]] = {"dependencies": [], "channels": []}
    section = ""
    for line in lines:
        if not line.startswith((" ", "\t", "-")):
            section = line.partition(":")[0].strip()
            continue
        item = line.strip()
        if section not in found or not item.startswith("-"):
            continue
        word = item[1:].strip().strip("'\"")
        if word.rstrip().endswith(":"):
            raise InvalidError(
                f"Image.{METHOD}: {path} has {word} within its dependencies. Install these with pip_install."
            )
        found[section].append(word)
    return found
