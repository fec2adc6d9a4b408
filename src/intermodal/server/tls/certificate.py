"""One certificate that a listener shows: read again when its files change, looked at before it expires."""

from __future__ import annotations

import datetime
import logging
import os
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509

from intermodal.server.store.migrations import Refused
from intermodal.server.tls.authority import names_of, now

log = logging.getLogger("intermodal.tls")

SOON = datetime.timedelta(days=14)  # before its end a certificate is mentioned; short-lived ones at a quarter of it


class Certificate:
    """`new_context` is for a listener; `refresh` takes over renewed files without a restart."""

    def __init__(self, path: str | Path, key: str | Path = "") -> None:
        """Raises Refused where the files cannot be used. `key` "": in the same file."""
        self.path = Path(path)
        self.key = Path(key) if key else self.path
        self._contexts: list[ssl.SSLContext] = []
        self._stamp = self._look()
        self.error = ""  # why the newest files could not be taken over
        self._found: x509.Certificate | None = None
        try:
            self._load()
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise Refused(f"the certificate {self.path} cannot be used: {_reason(error)}") from None
        self._warned = ""
        self.warn()

    def new_context(self) -> ssl.SSLContext:
        """For one listener."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path, self.key)
        self._contexts.append(context)
        return context

    def show(self, path: Path) -> None:
        """From now on the one in this file, with its key. Raises OSError, ValueError where it cannot be used."""
        before = self.path, self.key
        self.path = self.key = path
        try:
            self._load()
        except (OSError, ValueError):
            self.path, self.key = before
            raise
        self._stamp, self.error = self._look(), ""

    def refresh(self) -> None:
        """Take over changed files. Those that cannot be used change nothing but `problem`."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._load()
            except (OSError, ValueError) as error:
                self.error = f"{self.path} was changed but cannot be used ({_reason(error)}): the one before goes on"
            else:
                self.error = ""
                log.info("took over the certificate %s, valid until %s", self.path, self.expires.date())
        self.warn()

    @property
    def expires(self) -> datetime.datetime:
        assert self._found is not None
        return self._found.not_valid_after_utc

    @property
    def begins(self) -> datetime.datetime:
        assert self._found is not None
        return self._found.not_valid_before_utc

    @property
    def names(self) -> list[str]:
        """What it is for, sorted."""
        assert self._found is not None
        return names_of(self._found)

    def covers(self, host: str) -> bool:
        """Whether it is for a host: lower case."""
        return host in self.names or f"*.{host.partition('.')[2]}" in self.names

    @property
    def problem(self) -> str:
        """What the operator should know, "" where all is well."""
        if self.error:
            return self.error
        left = self.expires - now()
        if left < datetime.timedelta():
            return (
                f"the certificate {self.path} has expired on {self.expires:%Y-%m-%d %H:%M} UTC: clients refuse it. "
                "Replace the file; it is read again by itself"
            )
        if left < min(SOON, (self.expires - self.begins) / 4):
            return f"the certificate {self.path} expires on {self.expires:%Y-%m-%d %H:%M} UTC"
        return ""

    def describe(self) -> dict[str, Any]:
        """For the status."""
        return {
            "path": str(self.path),
            "names": self.names,
            "expires": self.expires.timestamp(),
            "problem": self.problem,
        }

    def warn(self) -> None:
        """Log a problem, each once."""
        problem = self.problem
        if problem and problem != self._warned:
            log.warning("%s", problem)
        self._warned = problem

    def _load(self) -> None:
        found = x509.load_pem_x509_certificate(self.path.read_bytes())
        trial = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # half of a pair must not get into a real one
        trial.load_cert_chain(self.path, self.key)
        for context in self._contexts:
            context.load_cert_chain(self.path, self.key)
        self._found = found

    def _look(self) -> tuple[int, ...]:
        stamp: list[int] = []
        for path in (self.path, self.key):
            try:
                status = os.stat(path)
            except OSError:
                stamp.append(0)
            else:
                stamp += [status.st_mtime_ns, status.st_size, status.st_ino]
        return tuple(stamp)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error}: is it PEM, and does the key belong to it?"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is no PEM file with a certificate"
