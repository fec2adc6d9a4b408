"""The steps of an image: what a chain of `Image` methods amounts to (see docs/architecture.md, "Image recipes").

A step is described when the program is read and rendered when the image is built: only then are
local files read, so that a program can be imported where they are not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Optional, Sequence

from modal.exception import InvalidError, NotImplementedYetError

if TYPE_CHECKING:
    from modal._mounts import FileSet
    from modal._secret import Secret

UNBUILDABLE = frozenset(  # kinds of steps that no worker carries out yet
    (
        "dockerfile",
        "dockerfile_commands",
        "micromamba",
        "micromamba_install",
        "pip_private_repos",
        "poetry",
        "registry",
        "run_function",
    )
)


class Step:
    """One step: its kind, the fields of its recipe (or a function that makes them), and what it needs."""

    def __init__(
        self,
        kind: str,
        fields: dict[str, Any],
        *,
        late: Optional[Callable[[], dict[str, Any]]] = None,
        secrets: Sequence[Secret] = (),
        gpus: Sequence[str] = (),
        force: bool = False,
        files: Optional[FileSet] = None,
        method: str = "",
    ) -> None:
        self.kind = kind
        self.fields = fields
        self.late = late  # more fields, from local files
        self.secrets = list(secrets)
        self.gpus = list(gpus)
        self.force = force
        self.files = files
        self.method = method or kind  # the name that the user knows

    def render(self, secret_ids: dict[int, str], mount_ids: dict[Any, list[str]]) -> list[dict[str, Any]]:
        """The step as it stands in a recipe. Secrets by `id()` of the object, mounts by the file set's key."""
        if self.kind in UNBUILDABLE:
            raise NotImplementedYetError(
                f"Image.{self.method} is not implemented yet. Images can be made from debian_slim with pip_install, "
                "apt_install, run_commands and the other methods that install packages and add files."
            )
        common: dict[str, Any] = {}
        if self.secrets:
            common["secrets"] = [secret_ids[id(secret)] for secret in self.secrets]
        if self.force:
            common["force"] = True
        if self.gpus:
            common["gpu"] = self.gpus
        if self.files is not None and self.kind == "copy":
            return [{"kind": "copy", "mount_id": mount_id, **common} for mount_id in mount_ids[self.files.key]]
        late = self.late() if self.late is not None else {}
        if self.files is not None:
            late["mount_ids"] = mount_ids[self.files.key]
        return [{"kind": self.kind, **self.fields, **late, **common}]


def read_text(path: str, method: str) -> str:
    """A local file that an image method was given. Raises InvalidError."""
    full = os.path.expanduser(path)
    try:
        with open(full, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise InvalidError(f"Image.{method}: there is no file {full} (looked from {os.getcwd()}).") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"Image.{method}: {full} cannot be read: {error}.") from None


def pyproject_dependencies(path: str, extras: Sequence[str]) -> list[str]:
    """`[project] dependencies` of a pyproject.toml, and those of its named extras. Raises InvalidError."""
    from modal.config import parse_toml

    method = "pip_install_from_pyproject"
    project = parse_toml(read_text(path, method), path).get("project", {})
    if "dependencies" not in project and not extras:
        raise InvalidError(
            f"Image.{method}: {path} has no [project] dependencies. For a Poetry project use poetry_install_from_file."
        )
    packages = list(project.get("dependencies", []))
    groups = project.get("optional-dependencies", {})
    for extra in extras:
        if extra not in groups:
            known = ", ".join(groups) or "none"
            raise InvalidError(f"Image.{method}: {path} has no optional dependencies {extra!r} (it has: {known}).")
        packages.extend(groups[extra])
    return packages


def flatten(arguments: Sequence[Any], method: str, what: str) -> list[str]:
    """Strings and lists of strings as one list. Raises InvalidError."""
    flat: list[str] = []
    for argument in arguments:
        for item in argument if isinstance(argument, (list, tuple)) else (argument,):
            if not isinstance(item, str):
                raise InvalidError(f"Image.{method}: {what} must be strings or lists of strings, not {item!r}.")
            flat.append(item)
    return flat
