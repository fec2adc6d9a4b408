"""A certificate authority of the state directory, for a machine whose operator has brought no certificate.

It may vouch for the names of this machine alone, so that trusting it gives nobody power over other sites.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from intermodal.server.private_files import PRIVATE, PUBLIC, private_directory, replace

YEARS = 10  # of the authority
LEAF_DAYS = 397  # browsers take no longer ones
RENEW_DAYS = 30
EARLY = datetime.timedelta(hours=1)  # clocks differ

CA, CA_KEY, LEAF, LEAF_KEY = "ca.pem", "ca-key.pem", "cert.pem", "key.pem"


class Authority:
    """Keeps its files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def certificate(self, names: Iterable[str]) -> tuple[Path, Path]:
        """A certificate for these host names and addresses, and its key; made where there is none that will do."""
        wanted = sorted(set(names))
        leaf, key = self.directory / LEAF, self.directory / LEAF_KEY
        if not self._will_do(leaf, key, wanted):
            self._make(wanted)
        return leaf, key

    def owns(self, path: Path) -> bool:
        """Whether a certificate's file is one of its own."""
        return path == self.directory / LEAF

    def _will_do(self, leaf: Path, key: Path, names: list[str]) -> bool:
        try:
            found = x509.load_pem_x509_certificate(leaf.read_bytes())
            authority = x509.load_pem_x509_certificate((self.directory / CA).read_bytes())
            found.verify_directly_issued_by(authority)
            serialization.load_pem_private_key(key.read_bytes(), None)
        except Exception:  # whatever is wrong with them: they are made anew
            return False
        return names_of(found) == names and found.not_valid_after_utc - now() > datetime.timedelta(days=RENEW_DAYS)

    def _make(self, names: list[str]) -> None:
        private_directory(self.directory)
        authority, authority_key = self._authority(names)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(names[0]), authority.subject, key.public_key(), datetime.timedelta(days=LEAF_DAYS))
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        self._write_key(LEAF_KEY, key)
        self._write(LEAF, builder.sign(authority_key, hashes.SHA256()))

    def _authority(self, names: list[str]) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """The one that is there, or a new one where it may not vouch for these names."""
        try:
            found = x509.load_pem_x509_certificate((self.directory / CA).read_bytes())
            key = serialization.load_pem_private_key((self.directory / CA_KEY).read_bytes(), None)
            permitted = found.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
            fits = all(_covered(name, permitted) for name in names)
            if fits and isinstance(key, ec.EllipticCurvePrivateKey) and found.not_valid_after_utc > now():
                return found, key
        except Exception:  # none, or none that can be used: a new one is made
            pass
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"Intermodal on {os.uname().nodename}"[:64])
        domains = sorted({name.removeprefix("*.") for name in names if not _address(name)})
        subtrees: list[x509.GeneralName] = [x509.DNSName(domain) for domain in domains]
        subtrees += [x509.IPAddress(ipaddress.ip_network(name)) for name in names if _address(name)]
        builder = (
            _builder(subject, subject, key.public_key(), datetime.timedelta(days=365 * YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.NameConstraints(subtrees, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        )
        made = builder.sign(key, hashes.SHA256())
        self._write_key(CA_KEY, key)
        self._write(CA, made)
        return made, key

    def _write_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        private = serialization.PrivateFormat.PKCS8
        data = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
        replace(self.directory / name, data, PRIVATE)

    def _write(self, name: str, certificate: x509.Certificate) -> None:
        replace(self.directory / name, certificate.public_bytes(serialization.Encoding.PEM), PUBLIC)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def names_of(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses that it is for, sorted."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = [str(name.value) for name in names if isinstance(name, (x509.DNSName, x509.IPAddress))]
    return sorted(found)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    begin = now() - EARLY
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + lifetime)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _general(name: str) -> x509.GeneralName:
    address = _address(name)
    return x509.DNSName(name) if address is None else x509.IPAddress(address)


def _covered(name: str, permitted: Iterable[x509.GeneralName]) -> bool:
    address = _address(name)
    plain = name.removeprefix("*.")
    for one in permitted:
        if (
            address is None
            and isinstance(one, x509.DNSName)
            and (plain == one.value or plain.endswith(f".{one.value}"))
        ):
            return True
        if address is not None and isinstance(one, x509.IPAddress) and address in one.value:  # type: ignore[operator]
            return True
    return False
