"""A disk that takes no more, for the store of this process: what is written beyond a file's size fails."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def no_room(store: Path) -> Iterator[None]:
    """The log of this store grows no more, so a transaction runs to its end and then cannot be committed.

    Files of this process that are smaller can be written still. The store must not be one that makes its log long in
    advance: there would be room in it.
    """
    size = store.with_name(store.name + "-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
