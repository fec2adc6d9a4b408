"""What commands ask the server of this machine."""

from __future__ import annotations

from typing import Any

from intermodal import lifecycle
from intermodal.home import Home
from modal._protocol.message import Message

PATIENCE = 600.0  # seconds


def ask(message: Message, expect: type[Any]) -> Any:
    """Ask the server of this machine. Raises Failed where none runs."""
    home = Home()
    connection = lifecycle.connect(home)
    if connection is None:
        raise lifecycle.Failed(f"no server runs in {home.path}: start it with `intermodal up`")
    try:
        return connection.request(message, expect, timeout=PATIENCE)
    finally:
        connection.close()
