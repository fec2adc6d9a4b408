"""What exists in the app of the container that this process is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Optional

from modal import _context

if TYPE_CHECKING:
    from modal._client import Client
    from modal._protocol.messages.function import FunctionHandle

_handles: dict[str, FunctionHandle] = {}  # by name
_lock = threading.Lock()


async def own_handle(client: Client, name: str) -> Optional[FunctionHandle]:
    """The function or class of that name in the container's own app; None where there is none, or no container."""
    app_id = _context.own_app_id()
    if not app_id:
        return None
    found = _handles.get(name)
    if found is None:
        from modal._protocol.messages.app import AppLayoutGet, AppPublished

        layout = await client.request(AppLayoutGet(app_id), AppPublished)
        with _lock:
            _handles.update({handle.name: handle for handle in layout.functions})
        found = _handles.get(name)
    return found
