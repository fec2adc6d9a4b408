"""The certificates that were obtained: a file each, with key and chain, below the state directory."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from intermodal.server.acme.order import Names, file_name
from intermodal.server.private_files import PRIVATE, private_directory, replace
from intermodal.server.store.migrations import Refused
from intermodal.server.tls.certificate import Certificate

log = logging.getLogger("intermodal.acme")

SPACING = 3600.0  # seconds between two certificates for the same names, at least
_HEADING = b"names: "


class CertificateStore:
    """`open` first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[Names, Certificate] = {}
        self._by_host: dict[str, Certificate] = {}  # `*.` names too
        self._made: dict[Names, float] = {}  # when, by this machine's clock

    def open(self) -> None:
        """Read them. One that cannot be used is obtained anew; its file is left until then."""
        private_directory(self._directory)
        for path in sorted(self._directory.glob("*.pem")):
            try:
                names = _names_in(path)
                self._add(names, Certificate(path))
                self._made[names] = os.stat(path).st_mtime
            except (Refused, OSError) as error:
                log.warning("%s", error)

    def put(self, names: Names, pem: bytes, at: float) -> Certificate:
        """A new one, which listeners show to clients that come. `at`: now. Raises Refused where it cannot be used."""
        path = self._directory / f"{file_name(names)}.pem"
        replace(path, b"%s%s\n%s" % (_HEADING, " ".join(names).encode(), pem), PRIVATE)
        self._made[names] = at
        known = self._known.get(names)
        if known is None:
            return self._add(names, Certificate(path))
        known.refresh()
        if known.error:
            raise Refused(known.error)
        return known

    def get(self, names: Names) -> Certificate | None:
        return self._known.get(names)

    def all(self) -> dict[Names, Certificate]:
        return dict(self._known)

    def renewal(self, names: Names) -> float:
        """When the one for these names is to be renewed, at two thirds of its life: Unix time."""
        certificate = self._known[names]
        begins, ends = certificate.begins.timestamp(), certificate.expires.timestamp()
        early = (ends - begins) * 2 / 3
        # Where the clock is wrong, or the authority's is, a new one is not asked for again and again.
        return max(begins + early, self._made[names] + min(SPACING, early))

    def find(self, host: str) -> Certificate | None:
        """The one to show for a host name."""
        found = self._by_host.get(host)
        if found is None:
            found = self._by_host.get(f"*.{host.partition('.')[2]}")
        return found

    def drop(self, names: Names) -> None:
        """Forget one that nobody needs, and its file."""
        certificate = self._known.pop(names)
        self._by_host = {host: one for host, one in self._by_host.items() if one is not certificate}
        certificate.path.unlink(missing_ok=True)

    def _add(self, names: Names, certificate: Certificate) -> Certificate:
        self._known[names] = certificate
        self._by_host |= dict.fromkeys(certificate.names, certificate)
        return certificate


def _names_in(path: Path) -> Names:
    """What was asked for, as the file's first line says: an authority may certify more."""
    with open(path, "rb") as file:
        return tuple(file.readline().removeprefix(_HEADING).decode("latin-1").split())


def is_over(certificate: Certificate, at: float) -> bool:
    """Whether clients refuse it."""
    return certificate.expires.timestamp() <= at
