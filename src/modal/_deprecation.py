"""Warnings that point at the line of the user's that caused them."""

from __future__ import annotations

import os
import sys
import warnings

from modal.exception import DeprecationError, PendingDeprecationError

_PACKAGE = os.path.dirname(__file__) + os.sep


def _level_of_user() -> int:
    """`stacklevel` of the first frame outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level


def warn_deprecated(message: str, *, pending: bool = False) -> None:
    """Issue a DeprecationError (or PendingDeprecationError) warning at the caller outside this package."""
    category = PendingDeprecationError if pending else DeprecationError
    warnings.warn(message, category, stacklevel=_level_of_user())


def warn_definition(message: str) -> None:
    """The same for what a program says where it defines functions and images: each container imports that again, so
    only the machine that launches the program warns."""
    from modal._context import is_local

    if is_local():
        warn_deprecated(message)


def warn_user(message: str) -> None:
    """A plain warning at the caller outside this package."""
    warnings.warn(message, UserWarning, stacklevel=_level_of_user())
