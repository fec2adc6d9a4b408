"""Start the embedded server when nobody answers on this machine."""

from __future__ import annotations

import os
import sys
import threading
from typing import List

START_SECONDS = 120.0  # a first start on a slow disk takes a few seconds; this is for ever
_lock = threading.Lock()


def command() -> List[str]:
    """What starts server and worker in the background, and returns when the server answers."""
    return [sys.executable, "-m", "intermodal", "up", "--quiet"]


def start() -> None:
    """Start server and worker; two callers at once start one server. Raises modal.exception.ConnectionError."""
    import subprocess

    from modal.exception import ConnectionError

    if not sys.executable:
        raise ConnectionError("No server runs on this machine, and Python does not know its own path to start one.")
    line = command()
    shown = " ".join(["intermodal", *line[3:]])
    with _lock:
        try:
            done = subprocess.run(
                line,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=START_SECONDS,
                env=_environment(),
            )
        except subprocess.TimeoutExpired:
            raise ConnectionError(
                f"No server runs on this machine, and `{shown}` did not end within {START_SECONDS:.0f} s. "
                "Run `intermodal up` to see what it waits for."
            ) from None
        except OSError as error:
            raise ConnectionError(f"No server runs on this machine, and `{shown}` failed: {error}.") from None
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip() or f"it ended with code {done.returncode} and said nothing"
        if "No module named intermodal" in said:
            said = (
                "the platform is not installed in this Python environment (`pip install intermodal`, Python 3.11+). "
                "To use a server elsewhere, set MODAL_SERVER_URL"
            )
        raise ConnectionError(f"No server runs on this machine, and starting one failed: {said}")


def _environment() -> dict[str, str]:
    """The child must find the same packages, but be nobody's container and no part of this program."""
    env = dict(os.environ)
    for name in ("MODAL_SERVER_URL", "MODAL_IS_REMOTE", "MODAL_TASK_ID", "PYTHONSTARTUP", "PYTHONINSPECT"):
        env.pop(name, None)
    return env
