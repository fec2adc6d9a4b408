"""An order for one certificate: what is kept of it on the disk, and the way from nothing to the certificate.

Each step is written down before the next: a server that starts again after a crash goes on where the authority is.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from intermodal.server.acme.account import (
    UNKNOWN_ACCOUNT,
    Account,
    Answer,
    Authority,
    Away,
    Rejected,
    base64url,
    describe_problem,
    new_key,
)
from intermodal.server.acme.challenge import Challenges, Undo, record
from intermodal.server.acme.settings import DNS
from intermodal.server.private_files import PRIVATE, private_directory, replace

log = logging.getLogger("intermodal.acme")

POLL = 1.0  # seconds between two looks at what the authority is doing, unless it says when
POLL_MOST = 30.0
PATIENCE = 600.0  # seconds until an attempt leaves the order to a later one
Names = tuple[str, ...]


class Ended(Exception):
    """The server ends."""


@dataclass
class Order:
    """What is known of it. Times are Unix times."""

    names: Names
    key: str = field(default_factory=new_key)  # of the certificate to come, PEM
    url: str = ""  # at the authority; "": not begun
    kind: str = ""  # of the challenge that was shown last
    records: list[list[str]] = field(default_factory=list)  # of the DNS, that the hook has added: name, value
    failures: int = 0  # in a row
    failed: float = 0.0  # the last time
    again: float = 0.0  # not before
    error: str = ""


class Orders:
    """The orders that are not done, a file each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[Names, Order] = {}

    def open(self) -> None:
        """Read them. One that cannot be read is one that never was."""
        private_directory(self._directory)
        for path in self._directory.glob("*.json"):
            try:
                found = json.loads(path.read_text())
                order = Order(**{**found, "names": tuple(found["names"])})
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("%s cannot be read and is removed: %s", path, error)
                path.unlink(missing_ok=True)
            else:
                self._known[order.names] = order

    def all(self) -> list[Order]:
        return list(self._known.values())

    def find(self, names: Names) -> Order | None:
        return self._known.get(names)

    def get(self, names: Names) -> Order:
        """The one for these names, made where there is none."""
        found = self._known.get(names)
        if found is None:
            found = self._known[names] = Order(names)
            self.save(found)
        return found

    def save(self, order: Order) -> None:
        """On the disk when it returns."""
        replace(self._path(order.names), json.dumps(dataclasses.asdict(order), indent=1).encode(), PRIVATE)

    def drop(self, order: Order) -> None:
        """It is done."""
        self._known.pop(order.names, None)
        self._path(order.names).unlink(missing_ok=True)

    def _path(self, names: Names) -> Path:
        return self._directory / f"{file_name(names)}.json"


class Attempt:
    """One try to bring an order to its end, in a thread of its own: `run` blocks."""

    def __init__(
        self,
        order: Order,
        save: Callable[[Order], None],
        account: Account,
        challenges: Challenges,
        kinds: Iterable[str],
        ending: threading.Event,
    ) -> None:
        """`kinds`: challenges that may be answered, the best first. `ending` is set when the server ends."""
        self._order = order
        self._save = save
        self._account = account
        self._challenges = challenges
        self._kinds = list(kinds)
        self._ending = ending
        self._shown: dict[str, Undo] = {}  # challenge's URL -> how to stop answering it

    def run(self) -> bytes:
        """Key and chain, PEM. Raises Away, Rejected, Ended."""
        order = self._order
        resumed = bool(order.url)
        if resumed:
            log.info("going on with the order %s for %s", order.url, ", ".join(order.names))
        known = True
        try:
            while True:
                try:
                    return self._pursue(self._account.connect())
                except Rejected as error:
                    # What became invalid while no server answered, or belongs to an account of the past, is begun anew.
                    self._start_over()
                    if error.code == UNKNOWN_ACCOUNT and known:
                        self._account.forget()
                        known = False
                    elif not resumed:
                        raise
                    resumed = False
        finally:
            self._clean()

    def _start_over(self) -> None:
        self._clean()
        self._order.url = ""
        self._save(self._order)

    def _clean(self) -> None:
        """Nothing is answered any more."""
        order = self._order
        shown, self._shown = self._shown, {}
        for undo in shown.values():
            undo()
        if order.records and not self._ending.is_set():  # at the server's end the order goes on in its next life
            for name, value in order.records:
                self._challenges.remove_record(name, value)
            order.records = []
            self._save(order)

    def _pursue(self, authority: Authority) -> bytes:
        order = self._order
        if order.url:
            answer = authority.ask(order.url)
        else:
            answer = authority.order(list(order.names))
            order.url = answer.location
            self._save(order)
        until = time.monotonic() + PATIENCE
        while True:
            status = answer.data.get("status")
            if status == "pending":
                self._prove(authority, answer.data)
            elif status == "ready":
                request = base64url(_signing_request(order))
                try:
                    answer = authority.ask(answer.data["finalize"], {"csr": request})
                except Rejected as error:
                    if error.code != "orderNotReady":
                        raise
                else:
                    if answer.data.get("status") in ("ready", "valid"):
                        continue
            elif status == "valid" and answer.data.get("certificate"):
                return self._download(authority, answer.data["certificate"])
            elif status not in ("processing", "valid"):
                raise Rejected(self._reason(authority, answer.data))
            if time.monotonic() > until:
                raise Away(f"the authority takes longer than {PATIENCE / 60:.0f} minutes")
            self._pause(answer)
            answer = authority.ask(order.url)

    def _download(self, authority: Authority, url: str) -> bytes:
        chain = authority.ask(url).text.encode()
        try:
            certificate = x509.load_pem_x509_certificate(chain)
        except ValueError:
            raise Away("the authority's certificate is none") from None
        key = serialization.load_pem_private_key(self._order.key.encode(), None)
        if certificate.public_key() != key.public_key():
            raise Rejected("the authority's certificate is for another key")
        return self._order.key.encode() + chain

    # -- proving
    def _prove(self, authority: Authority, order: dict[str, Any]) -> None:
        """Answer what is asked and was not answered yet."""
        for url in order.get("authorizations", ()):
            asked = authority.ask(url).data
            name = asked.get("identifier", {}).get("value", "")
            if asked.get("status") != "pending":
                continue
            for one in self._chosen(asked, name):
                if one["url"] in self._shown:
                    continue
                proof = authority.key_authorization(one["token"])
                self._show(one, name, proof)
                if one.get("status") == "pending":  # else an earlier life has said so
                    authority.ask(one["url"], {})

    def _show(self, challenge: dict[str, Any], name: str, proof: str) -> None:
        order, kind = self._order, challenge["type"]
        order.kind = kind
        self._save(order)
        if kind != DNS:
            self._shown[challenge["url"]] = self._challenges.show(kind, name, challenge["token"], proof)
            return
        added = record(name, proof)
        if added not in order.records:  # noted before it is made: after a crash it is still removed
            order.records.append(added)
            self._save(order)
        self._challenges.run_hook("add", *added)
        self._shown[challenge["url"]] = _nothing

    def _chosen(self, asked: dict[str, Any], name: str) -> list[dict[str, Any]]:
        """The challenge to answer; one that the authority looks at already is the one."""
        offered = {one["type"]: one for one in asked.get("challenges", ())}
        begun = [one for kind, one in offered.items() if one.get("status") == "processing" and kind in self._kinds]
        if begun:
            return begun
        for kind in self._kinds:
            if kind in offered:
                return [offered[kind]]
        raise Rejected(
            f"the authority wants {' or '.join(sorted(offered)) or 'nothing'} as a proof for {name}, and only "
            f"{' and '.join(self._kinds)} can be given"
        )

    def _reason(self, authority: Authority, order: dict[str, Any]) -> str:
        """Why an order came to nothing: what the authority saw when it looked."""
        found = []
        for url in order.get("authorizations", ()):
            asked = authority.ask(url).data
            name = asked.get("identifier", {}).get("value", "")
            wrong = [one for one in asked.get("challenges", ()) if one.get("error")]
            found += [f"{name} ({one['type']}): {describe_problem(one['error'])}" for one in wrong]
        if not found and order.get("error"):
            found.append(describe_problem(order["error"]))
        return "; ".join(found) or f"the order is {order.get('status')}"

    def _pause(self, answer: Answer) -> None:
        if self._ending.wait(min(answer.retry_after or POLL, POLL_MOST)):
            raise Ended


def file_name(names: Names) -> str:
    """Of the files of these names: the first one, `*` being `_`, which begins no host name that has its own file."""
    return names[0].replace("*", "_")


def _signing_request(order: Order) -> bytes:
    key = serialization.load_pem_private_key(order.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in order.names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _nothing() -> None:
    """See `_clean`, which has the record."""
