"""Requirements files as an image gets them: one text, with the files that it names by `-r` and `-c` inside of it.

Other files of this machine are not in the image. Lines with the address of a file elsewhere stay as they are.
"""

from __future__ import annotations

import os
import re
from typing import Any, FrozenSet, List, Sequence, Tuple

from modal._image_projects import read_text
from modal.exception import InvalidError

_NAMES_FILE = re.compile(r"""\s*(-r|--requirement|-c|--constraint)(?:\s*=\s*|\s+|(?<=\s-[rc])|(?<=^-[rc]))(\S.*)\Z""")
_COMMENT = re.compile(r"(?:^|\s+)#.*\Z")


def requirements_of(paths: Sequence[str], method: str) -> Tuple[List[str], str]:
    """The text of each requirements file, and the constraints that they name. Raises InvalidError."""
    constraints: List[str] = []
    texts = [_resolved(path, path, method, constraints, False, frozenset()) for path in paths]
    return texts, "".join(constraints)


def recipe_fields(paths: Sequence[str], method: str, *, one: bool = False) -> dict[str, Any]:
    """The same as fields of a step; `one`: it takes one text."""
    texts, constraints = requirements_of(paths, method)
    fields: dict[str, Any] = {"requirements": texts[0] if one else texts}
    return {**fields, "constraints": constraints} if constraints else fields


def _resolved(path: str, shown: str, method: str, constraints: List[str], limiting: bool, above: FrozenSet[str]) -> str:
    """A file's text with what it names in place. `limiting`: it is a constraints file, and so is all that it names."""
    full = os.path.realpath(os.path.expanduser(path))
    if full in above:
        raise InvalidError(f"Image.{method}: {shown} includes itself.")
    lines: List[str] = []
    for line in read_text(path, method).splitlines(keepends=True):
        found = _NAMES_FILE.match(_COMMENT.sub("", line.rstrip("\r\n")))
        name = found.group(2).strip().strip("\"'") if found else ""
        if found is None or "://" in name or name.startswith("file:"):
            lines.append(line)
            continue
        inner = os.path.join(os.path.dirname(os.path.expanduser(path)), name)
        limits = limiting or found.group(1) in ("-c", "--constraint")
        text = _resolved(inner, name, method, constraints, limits, above | {full})
        if limits and not limiting:
            constraints.append(_whole(text))
        else:
            lines.append(_whole(text))
    return "".join(lines)


def _whole(text: str) -> str:
    return text if text.endswith("\n") or not text else text + "\n"
