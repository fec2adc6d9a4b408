"""All certificates of the server: which one a listener shows, and keeping them fresh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intermodal.server.tls.authority import Authority
from intermodal.server.tls.certificate import Certificate

LOOK = 10.0  # seconds between looks at the files
log = logging.getLogger("intermodal.tls")


class Certificates:
    """With `cert`, the operator's is shown everywhere; without, ones that the state directory's authority makes."""

    def __init__(self, directory: Path, cert: str, key: str) -> None:
        self._authority = Authority(directory)
        self._cert = cert
        self._key = key
        self._known: dict[tuple[str, ...], Certificate] = {}
        self.keep: Callable[[list[str], Certificate], bool] = lambda _names, _shown: False  # see acme.Issuance

    @property
    def own(self) -> bool:
        """Whether the operator has brought one."""
        return bool(self._cert)

    def get(self, names: list[str]) -> Certificate:
        """The one to show for these host names. Raises Refused where the operator's cannot be used."""
        wanted = () if self._cert else tuple(sorted(names))
        found = self._known.get(wanted)
        if found is None:
            paths = (self._cert, self._key) if self._cert else self._authority.certificate(names)
            found = self._known[wanted] = Certificate(*paths)
            if not self._cert:
                self.keep(names, found)
        return found

    def refresh(self) -> None:
        """Take over what has changed, and renew what we make ourselves."""
        for names, certificate in self._known.items():
            if names and self._authority.owns(certificate.path):
                self._authority.certificate(names)
            certificate.refresh()

    async def keep_fresh(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                self.refresh()
            except OSError as error:
                log.warning("certificates cannot be looked at: %s", error)

    def describe(self) -> list[dict[str, Any]]:
        """Those in use, for the status; an ACME authority's are described where they are looked after."""
        known = self._known.items()
        return [one.describe() for names, one in known if not names or self._authority.owns(one.path)]
