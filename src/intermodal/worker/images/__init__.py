"""Images of one worker: recipes become layers, and sets of local files become mounts."""

from __future__ import annotations

from intermodal.worker.images.failures import BuildFailed
from intermodal.worker.images.host import host_environment
from intermodal.worker.images.images import Images

__all__ = ["BuildFailed", "Images", "host_environment"]
