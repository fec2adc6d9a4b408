"""The workspace's image builder version: what the bases of its images contain."""

from __future__ import annotations

from intermodal.image_builder import DEFAULT, SETTING, VERSIONS
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault


class WorkspaceBuilderVersion:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = ""

    async def get(self, wanted: str = "") -> str:
        """The version that is asked for, else the workspace's. Fault: invalid."""
        if wanted:
            check(wanted)
            return wanted
        if not self._name:
            self._name = await self._store.setting(SETTING, lambda: DEFAULT)
        return self._name

    async def set(self, name: str) -> None:
        """Fault: invalid."""
        check(name)
        await self._store.set_setting(SETTING, name)
        self._name = name


def check(name: str) -> None:
    if name not in VERSIONS:
        raise Fault(
            Code.INVALID,
            f"there is no image builder version {name!r} here. Unset MODAL_IMAGE_BUILDER_VERSION for the workspace's, "
            f"or choose one of: {', '.join(VERSIONS)}",
        )
