"""Logs of an app or a container: what is stored, then what comes, until it ends or Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from modal._protocol.message import Message


def follow_logs(
    app_id: str, *, container_id: str = "", timestamps: bool = False, active: bool = True, from_seq: int = 0
) -> None:
    """Print logs. `active`: stay as long as there may be more. Raises modal.exception's errors, BrokenPipeError."""
    import threading

    from modal._output.logs import LogLines
    from modal._output.screen import Screen
    from modal._protocol.messages.app import AppEnded
    from modal._protocol.messages.log import LogBatch
    from modal.cli.server import client

    over = threading.Event()
    screen = Screen(live=False, on_broken=over.set)
    lines = LogLines(screen, timestamps)
    reason: Optional[str] = None

    def take(message: Message) -> None:
        nonlocal reason
        if isinstance(message, LogBatch):
            lines.feed(message.entries)
        elif isinstance(message, AppEnded):
            reason = message.reason

    attachment = client().attach(app_id, take, hold=False, follow=active, container_id=container_id, from_seq=from_seq)
    try:
        while not over.is_set() and not attachment.wait_ended(0.1):
            continue
    finally:
        attachment.close()
        lines.finish()
        screen.close()
    if over.is_set():
        raise BrokenPipeError
    if attachment.error is not None:
        raise attachment.error
