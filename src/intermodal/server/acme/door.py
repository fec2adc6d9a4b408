"""A TLS port that shows each client the certificate for the name that it asks for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from weakref import WeakKeyDictionary

from intermodal.server.acme.challenge import PROTOCOL
from intermodal.server.acme.issuance import Issuance
from intermodal.server.tls.certificate import Certificate
from intermodal.server.tls.greeting import Greeting

APPLICATIONS = ["h2", "http/1.1"]


class Door:
    """`choose` is a `Front`'s."""

    def __init__(
        self, issuance: Issuance, brought: Certificate | None, domain: str, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        """`brought` is the operator's own, which comes first for its names. Who gives no name gets the domain's."""
        self._issuance = issuance
        self._brought = brought
        self._domain = domain
        self._protocol = protocol
        self._contexts: WeakKeyDictionary[Certificate, ssl.SSLContext] = WeakKeyDictionary()

    async def choose(self, greeting: Greeting) -> tuple[ssl.SSLContext, Callable[[], asyncio.Protocol]] | None:
        """None where there is no certificate for the name."""
        if PROTOCOL in greeting.protocols:
            context = self._issuance.challenges.tls.get(greeting.name)
            return None if context is None else (context, _Nothing)
        brought = self._brought
        if brought is not None and (not greeting.name or brought.covers(greeting.name)):
            return self._context(brought), self._protocol
        found = await self._issuance.obtain(greeting.name or self._domain) or brought
        return None if found is None else (self._context(found), self._protocol)

    def _context(self, certificate: Certificate) -> ssl.SSLContext:
        context = self._contexts.get(certificate)
        if context is None:
            context = self._contexts[certificate] = certificate.new_context()
            context.set_alpn_protocols(APPLICATIONS)
        return context


class _Nothing(asyncio.Protocol):
    """The authority has seen what it wanted in the greeting."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
