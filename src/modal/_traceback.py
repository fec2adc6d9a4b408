"""Tracebacks: the remote part attached to exceptions, our own frames taken out."""

from __future__ import annotations


def trim(error: BaseException) -> None:
    """Take the frames of `modal` itself out of the traceback of an error that is on its way to the user."""
