"""One question to a server."""

from __future__ import annotations

import os
import platform
from typing import TypeVar

from intermodal import lifecycle
from intermodal.home import Home
from modal._protocol.message import Message

M = TypeVar("M", bound=Message)


def ask(message: Message, expect: type[M]) -> M:
    """Ask the server of this machine. Raises Failed where none runs, Fault, WireError."""
    home = Home()
    connection = lifecycle.connect(home)
    if connection is None:
        raise lifecycle.Failed(f"no server runs in {home.path}: start it with `intermodal up`")
    try:
        return connection.request(message, expect, timeout=600.0)
    finally:
        connection.close()


def ask_workspace(message: Message, expect: type[M]) -> M:
    """Ask the server that MODAL_SERVER_URL names, with the token in the environment; else that of this machine."""
    url = os.environ.get("MODAL_SERVER_URL", "")
    if not url:
        return ask(message, expect)
    from modal._protocol import blocking
    from modal._protocol.frames import VERSION_MAX, VERSION_MIN
    from modal._protocol.messages.wire import Hello

    hello = Hello(
        "client", VERSION_MIN, VERSION_MAX, "", platform.python_version(),
        os.environ.get("MODAL_TOKEN_ID", ""), os.environ.get("MODAL_TOKEN_SECRET", ""),
    )  # fmt: skip
    connection = blocking.connect(url, hello)
    try:
        return connection.request(message, expect, timeout=60.0)
    finally:
        connection.close()
