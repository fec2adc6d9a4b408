"""What `modal dict` and `modal queue` share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from modal._protocol.messages.object import ObjectInfo


def listed(kind: str, environment: str) -> List[ObjectInfo]:
    """The named dicts or queues of an environment."""
    from modal._protocol.messages.object import ObjectList, ObjectsKnown
    from modal.cli.server import ask

    return ask(ObjectList(kind, environment), ObjectsKnown).objects


def shown(value: Any, use_repr: bool, as_json: bool) -> Any:
    """A key, value or item as a command prints it; in JSON what JSON has stays what it is."""
    if use_repr:
        return repr(value)
    if as_json:
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            return str(value)
        return value
    return str(value)
