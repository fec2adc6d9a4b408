"""Proxies: a static address for outbound traffic."""

from __future__ import annotations

from typing import Optional

from modal._named import _Named


class Proxy(_Named):
    """Proxy objects give your Modal containers a static outbound IP address."""

    _kind = "proxy"

    @staticmethod
    def from_name(
        name: str,
        *,
        environment_name: Optional[str] = None,
    ) -> Proxy:
        """Reference a Proxy by its name. It must have been created before."""
        return Proxy._named(name, environment_name, False)  # type: ignore[no-any-return]
