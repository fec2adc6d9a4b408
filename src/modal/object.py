"""The base class of everything that lives on the server."""

from __future__ import annotations

from modal._object import Object

__all__ = ["Object"]
