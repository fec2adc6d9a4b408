"""The steps of an image: what a chain of `Image` methods amounts to (see docs/architecture.md, "Image recipes").

A step is described when the program is read and rendered when the image is built: only then are
local files read, so that a program can be imported where they are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional, Sequence

from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._mounts import FileSet
    from modal._secret import Secret


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

    @property
    def file_sets(self) -> list[FileSet]:
        """The local files that must be on the server before the step can be built."""
        return [] if self.files is None else [self.files]

    async def prepare(self, client: Client) -> None:
        """Look up what of the server's the step refers to, before it is rendered."""

    def render(self, secret_ids: dict[int, str], mount_ids: dict[Any, list[str]]) -> list[dict[str, Any]]:
        """The step as it stands in a recipe. Secrets by `id()` of the object, mounts by the file set's key."""
        common: dict[str, Any] = {}
        if self.secrets:
            common["secrets"] = [secret_ids[id(secret)] for secret in self.secrets]
        if self.force:
            common["force"] = True
        if self.gpus:
            common["gpu"] = self.gpus
        if self.files is not None and self.kind == "copy":
            ids = mount_ids[self.files.key]
            if len(ids) > 1:
                return [{"kind": "copy_parts", "mount_ids": ids, **common}]
            return [{"kind": "copy", "mount_id": mount_id, **common} for mount_id in ids]
        return [{"kind": self.kind, **self._own(mount_ids), **common}]

    def _own(self, mount_ids: dict[Any, list[str]]) -> dict[str, Any]:
        """The fields that are the kind's own."""
        late = self.late() if self.late is not None else {}
        if self.files is not None:
            late["mount_ids"] = mount_ids[self.files.key]
        return {**self.fields, **late}


def flatten(arguments: Sequence[Any], method: str, what: str) -> list[str]:
    """Strings and lists of strings as one list. Raises InvalidError."""
    flat: list[str] = []
    for argument in arguments:
        for item in argument if isinstance(argument, (list, tuple)) else (argument,):
            if not isinstance(item, str):
                raise InvalidError(f"Image.{method}: {what} must be strings or lists of strings, not {item!r}.")
            flat.append(item)
    return flat
