"""Volumes and network file systems in the containers of one worker: mounted, committed, reloaded.

A container sees a volume as an overlay mount: below, read-only trees of the version that it began with, shared by all
containers (`checkouts`); above, a directory of its own that takes what it writes. A commit stores what that directory
holds (`scan`) and tells the server; a reload mounts the newest version over the same path (`mounted`).
"""

from __future__ import annotations

from intermodal.worker.volumes.volumes import Volumes

__all__ = ["Volumes"]
