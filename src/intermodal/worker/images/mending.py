"""Caches of builds after a loss of power.

A cache is whole or useless: one that lacks some of its files, or has them empty, breaks every build that trusts it. So
whatever has something suspect in it goes, as one thing, and is fetched again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from intermodal.boots import tree_changed_since
from intermodal.worker.images.trees import remove_tree

TAGS = "tags"  # below `registry`: what a tag was when it was first pulled, which is synced
_SHELVES = ("registry", "dockerfile", "pythons")  # of things that do not depend on each other

log = logging.getLogger(__name__)


def mend_caches(cache: Path, since: float) -> list[Path]:
    """Remove those with something newer than this in them; which. Blocking. Raises OSError."""
    gone = []
    for place in _caches(cache):
        if not place.is_symlink() and tree_changed_since(place, since):
            log.info("the machine went down while %s was new: it is removed", place)
            remove_tree(place)
            gone.append(place)
    return gone


def _caches(cache: Path) -> Iterator[Path]:
    for place in cache.iterdir() if cache.is_dir() else ():
        if place.name not in _SHELVES:
            yield place
            continue
        for shelf in place.iterdir():
            if shelf.name == "pulls":
                yield from shelf.iterdir()
            elif shelf.name != TAGS:
                yield shelf
