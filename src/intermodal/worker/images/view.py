"""A stack of layers as one tree, looked at without mounting it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from intermodal.worker.images.merge import is_opaque, is_whiteout

MOST_LINKS = 40  # symbolic links on the way to one file, as the kernel has it


@dataclass(frozen=True)
class Node:
    """What one path shows: its properties, and for a directory those of all layers that make it up."""

    found: os.stat_result
    places: list[Path]  # highest layer first; one place for anything but a directory

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.found.st_mode)


class View:
    """The tree that overlayfs would show of `layers` (lowest first)."""

    def __init__(self, layers: list[Path]) -> None:
        places = list(reversed(layers))
        self._root = Node(places[0].stat(), places)

    def resolve(self, directory: str) -> str:
        """Where a directory's path leads, relative to the root, with links on the way followed.

        What does not exist is taken as it is. Raises OSError(ELOOP) for links that lead in circles.
        """
        pending = [part for part in directory.split("/") if part not in ("", ".")]
        done: list[tuple[str, Node | None]] = []
        links = 0
        while pending:
            name = pending.pop(0)
            if name == "..":
                done = done[:-1]
                continue
            above = done[-1][1] if done else self._root
            node = self._child(above, name) if above is not None else None
            if node is not None and stat.S_ISLNK(node.found.st_mode):
                links += 1
                if links > MOST_LINKS:
                    raise OSError(40, f"too many symbolic links at /{directory}")
                target = os.readlink(node.places[0])
                if target.startswith("/"):
                    done = []
                pending = [part for part in target.split("/") if part not in ("", ".")] + pending
                continue
            done.append((name, node))
        return "/".join(name for name, _node in done)

    def lookup(self, path: str) -> Node | None:
        """What is at a path whose directories are resolved; None where nothing is."""
        node: Node | None = self._root
        for name in path.split("/"):
            if name and node is not None:
                node = self._child(node, name)
        return node

    def children(self, node: Node) -> dict[str, Node]:
        """What is in a directory, by name."""
        found: dict[str, Node] = {}
        for name in sorted({name for place in node.places for name in os.listdir(place)}):
            child = self._child(node, name)
            if child is not None:
                found[name] = child
        return found

    def _child(self, node: Node, name: str) -> Node | None:
        if not node.is_directory:
            return None
        first: os.stat_result | None = None
        places: list[Path] = []
        for place in node.places:
            path = place / name
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            if is_whiteout(found):
                break
            if not stat.S_ISDIR(found.st_mode):
                if first is None:
                    return Node(found, [path])
                break
            first = first or found
            places.append(path)
            if is_opaque(path):
                break
        return Node(first, places) if first is not None else None
