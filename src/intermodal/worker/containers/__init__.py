"""Containers of one worker: start, watch, limit, adopt and remove them."""

from __future__ import annotations

from intermodal.worker.containers.containers import Containers, sweep_home
from intermodal.worker.containers.launch import Bind, ContainersError, Device, Exit, Launch, Limits, StartFailed
from intermodal.worker.containers.private_mounts import enter_private_mounts
from intermodal.worker.containers.running import Running

__all__ = [
    "Bind",
    "Containers",
    "ContainersError",
    "Device",
    "Exit",
    "Launch",
    "Limits",
    "Running",
    "StartFailed",
    "enter_private_mounts",
    "sweep_home",
]
