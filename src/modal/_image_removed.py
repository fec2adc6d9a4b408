"""Methods that images once had. Who calls one is told what to write instead."""

from __future__ import annotations

from typing import Any, NoReturn

from modal.exception import InvalidError


def _gone(name: str, instead: str) -> NoReturn:
    raise InvalidError(f"Image.{name} was removed. {instead}")


class RemovedMethods:
    """A part of `Image`."""

    @staticmethod
    def conda(*_args: Any, **_kwargs: Any) -> NoReturn:
        """Removed: use `Image.micromamba`."""
        _gone("conda", "Use Image.micromamba() instead.")

    def conda_install(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Removed: use `micromamba_install`."""
        _gone("conda_install", "Use Image.micromamba().micromamba_install(...) instead.")

    def conda_update_from_environment(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Removed: use `micromamba_install(spec_file=...)`."""
        _gone("conda_update_from_environment", "Use Image.micromamba().micromamba_install(spec_file=...) instead.")

    def copy_mount(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Removed: use `add_local_file`, `add_local_dir` or `add_local_python_source`."""
        _gone("copy_mount", "Use add_local_file, add_local_dir or add_local_python_source with copy=True instead.")

    def extend(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Removed: use the other methods, or `dockerfile_commands`."""
        _gone("extend", "Use the method for what you want to add, or dockerfile_commands(...).")
