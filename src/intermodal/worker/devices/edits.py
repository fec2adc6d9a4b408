"""What a container needs so that a device works in it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """A device file of this machine and where the container sees it."""

    source: str
    target: str


@dataclass(frozen=True)
class Mount:
    """A file or directory of the driver."""

    source: str
    target: str


@dataclass
class Edits:
    """Nodes, files, variables and hooks (OCI hooks by the moment at which they run)."""

    nodes: list[Node] = field(default_factory=list)
    mounts: list[Mount] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    hooks: dict[str, list[dict[str, object]]] = field(default_factory=dict)

    def add(self, other: Edits) -> None:
        """Both, each thing once."""
        self.nodes += [node for node in other.nodes if node not in self.nodes]
        self.mounts += [mount for mount in other.mounts if mount not in self.mounts]
        self.env.update(other.env)
        for moment, hooks in other.hooks.items():
            known = self.hooks.setdefault(moment, [])
            known += [hook for hook in hooks if hook not in known]
