"""The messages, one module per noun. A module registers its messages when it is imported.

Numbers: 1–19 wire, 20–39 calls, 40–59 functions and apps, 60–79 images and files,
80–99 secrets, environments, tokens, 100–119 logs and containers as users see them,
120–149 server and worker, 150–169 worker and runner, 170–189 volumes, 190–209 dicts and queues,
210–239 gateway and runner, 240–259 proxy auth tokens and tunnels. Those above came later, with the
next free number: 300–399 of the nouns of the first five lines, 450 volumes, 460 gateway and worker,
470–499 worker and runner. A number is never given twice: 157 was one that nothing sends any more.
"""

from __future__ import annotations


def load_all() -> None:
    """Register every message; elsewhere each module imports those that it speaks."""
    from importlib import import_module
    from pkgutil import iter_modules

    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
