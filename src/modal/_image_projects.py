"""Local files that say which packages an image needs: requirements, pyproject.toml, lock files."""

from __future__ import annotations

import os
from typing import Any, Optional, Sequence

from modal.exception import InvalidError


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


def poetry_project(path: str, lockfile: Optional[str], ignore_lockfile: bool) -> dict[str, Any]:
    """The text of a Poetry project and of its lock file. Raises InvalidError."""
    from modal.config import parse_toml

    method = "poetry_install_from_file"
    text = read_text(path, method)
    contents = parse_toml(text, path)
    if "poetry" not in contents.get("tool", {}) and "project" not in contents:
        raise InvalidError(f"Image.{method}: {path} has neither [tool.poetry] nor [project].")
    if ignore_lockfile:
        return {"pyproject": text}
    lock = lockfile or os.path.join(os.path.dirname(os.path.expanduser(path)), "poetry.lock")
    if not os.path.isfile(os.path.expanduser(lock)):
        raise InvalidError(
            f"Image.{method}: there is no lock file {os.path.abspath(lock)}. Make it with `poetry lock`, name it with "
            "poetry_lockfile=, or use ignore_lockfile=True."
        )
    return {"pyproject": text, "lock": read_text(lock, method)}


def uv_project(directory: str, frozen: bool) -> dict[str, Any]:
    """The text of a uv project and of its lock file, where it has one. Raises InvalidError."""
    from modal.config import parse_toml

    method = "uv_sync"
    root = os.path.expanduser(directory)
    if not os.path.isdir(root):
        raise InvalidError(f"Image.{method}: there is no directory {os.path.abspath(root)}.")
    path, lock = os.path.join(root, "pyproject.toml"), os.path.join(root, "uv.lock")
    text = read_text(path, method)
    contents = parse_toml(text, path)
    if "workspace" in contents.get("tool", {}).get("uv", {}):
        raise InvalidError(f"Image.{method}: {path} is a uv workspace, which is not supported.")
    found: dict[str, Any] = {"pyproject": text}
    if os.path.isfile(lock):
        found["lock"] = read_text(lock, method)
        if frozen:
            found["frozen"] = True
    return found
