"""The messages, one module per noun. A module registers its messages when it is imported.

Numbers: 1–19 wire, 20–39 calls, 40–59 functions and apps, 60–79 images and files,
80–99 secrets, environments, tokens, 100–119 logs and containers as users see them,
120–149 server and worker, 150–169 worker and runner, 170–189 volumes, 190–209 dicts and queues,
210–239 gateway and runner, 240–259 proxy auth tokens and tunnels. Those above came later, with the
next free number: 300–399 of the nouns of the first five lines, 450 volumes, 460 gateway and worker,
470–499 worker and runner. A number is never given twice: 157 was one that nothing sends any more.
"""

from __future__ import annotations

from typing import Any

NOUNS = (
    "app", "call", "container", "dict", "file", "fleet", "function", "image", "log", "object", "proxy", "queue",
    "secret", "tunnel", "volume", "web", "wire", "worker",
)  # fmt: skip


def load_all() -> None:
    """Register every message. A peer that asks for an unknown one may just not have been imported."""
    from importlib import import_module

    for noun in NOUNS:
        import_module(f"{__name__}.{noun}")


def __getattr__(name: str) -> Any:
    if name in NOUNS:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["NOUNS", "load_all"]
