"""Buckets of object stores as directories: `rclone mount`, one process for each mount of a container."""

from intermodal.worker.buckets.buckets import Buckets

__all__ = ["Buckets"]
