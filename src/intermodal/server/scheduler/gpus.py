"""GPU requests, and which devices of a machine answer one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ANY = "ANY"

# Types that may stand for another one, the best first. A type always stands for itself before all others.
STAND_FOR: Mapping[str, tuple[str, ...]] = {
    "A10": ("A10G",),
    "A10G": ("A10",),
    "A100": ("A100-40GB",),
    "H100": ("H200",),
    ANY: ("L4", "A10G", "A10", "T4"),
}


@dataclass(frozen=True)
class Gpu:
    """One alternative of a request: so many devices of one type, on one machine."""

    kind: str
    count: int = 1

    def __str__(self) -> str:
        return self.kind if self.count == 1 else f"{self.kind}:{self.count}"


def parse(text: str) -> Gpu:
    """ "A100-80GB:4", as the SDK writes it. Raises ValueError."""
    kind, _, count = text.partition(":")
    return Gpu(kind.upper(), int(count) if count else 1)


def choose(options: Iterable[Gpu], devices: Mapping[str, str]) -> tuple[str, ...] | None:
    """The devices (of those given, id to type) for the first alternative that they can satisfy; None for none.

    `()` where nothing is asked for. All devices of one container are of one type.
    """
    asked = tuple(options)
    if not asked:
        return ()
    by_kind: dict[str, list[str]] = {}
    for device, kind in devices.items():
        by_kind.setdefault(kind, []).append(device)
    for option in asked:
        for kind in _kinds(option.kind, by_kind):
            found = by_kind.get(kind, [])
            if len(found) >= option.count:
                return tuple(found[: option.count])
    return None


def _kinds(kind: str, there: Iterable[str]) -> list[str]:
    kinds = [kind, *STAND_FOR.get(kind, ())]
    if kind == ANY:  # better another one than none
        kinds += [other for other in there if other not in kinds]
    return kinds


def usable(options: Iterable[Gpu], kind: str) -> bool:
    """Whether a device of this type would serve any of the alternatives."""
    return any(kind in _kinds(option.kind, [kind]) for option in options)


def describe(devices: Iterable[str]) -> str:
    """Types of devices for people: "2 x A100-80GB, 1 x T4", or "no GPU"."""
    counts: dict[str, int] = {}
    for kind in devices:
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{count} x {kind}" for kind, count in counts.items()) or "no GPU"
