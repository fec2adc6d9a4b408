"""Containers of one worker: start, watch, limit, adopt and remove them."""

from __future__ import annotations

from intermodal.worker.containers.launch import Bind, ContainersError, Exit, Launch, Limits, StartFailed

__all__ = ["Bind", "ContainersError", "Exit", "Launch", "Limits", "StartFailed"]
