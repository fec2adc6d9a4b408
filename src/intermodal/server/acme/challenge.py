"""How a name is shown to be ours: what the authority asks for, while it asks (RFC 8555, 8.3 and 8.4; RFC 8737)."""

from __future__ import annotations

import datetime
import hashlib
import logging
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from intermodal.server.acme.account import Rejected, base64url
from intermodal.server.acme.settings import ALPN, HTTP

log = logging.getLogger("intermodal.acme")

PROTOCOL = "acme-tls/1"
HOOK_SECONDS = 600.0  # that the hook may take: it returns when the record can be seen
_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")

Undo = Callable[[], None]
T = TypeVar("T")


class Challenges:
    """Threads show answers and take them away again; the event loop reads `http` and `tls`."""

    def __init__(self, hook: str) -> None:
        self.http: dict[bytes, bytes] = {}  # token -> body
        self.tls: dict[str, ssl.SSLContext] = {}  # name -> what is shown to whom asks by PROTOCOL
        self._hook = hook

    def show(self, kind: str, name: str, token: str, proof: str) -> Undo:
        """Answer from now on; what is returned ends that. `proof` is the key authorization."""
        if kind == HTTP:
            self.http[token.encode()] = proof.encode()
            return lambda: _end(self.http, token.encode())
        assert kind == ALPN, kind
        self.tls[name] = _context(name, proof)
        return lambda: _end(self.tls, name)

    def remove_record(self, name: str, value: str) -> None:
        """A record that is left over harms nobody: a hook that fails is logged."""
        try:
            self.run_hook("remove", name, value)
        except Rejected as error:
            log.warning("%s", error)

    def run_hook(self, action: str, name: str, value: str) -> None:
        """Have a TXT record added or removed. Raises Rejected, with what the hook has said."""
        try:
            done = subprocess.run(
                [self._hook, action, name, value],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=HOOK_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Rejected(f"{self._hook} {action} {name} failed: {error}") from None
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-300:]
            raise Rejected(
                f"{self._hook} {action} {name} ended with code {done.returncode}: {said or 'it said nothing'}"
            )


def record(name: str, proof: str) -> list[str]:
    """Name and value of the TXT record that answers DNS-01; `name` is without `*.`."""
    value = base64url(hashlib.sha256(proof.encode()).digest())
    return [f"_acme-challenge.{name}", value]


def _end(table: dict[T, Any], key: T) -> None:
    table.pop(key, None)


def _context(name: str, proof: str) -> ssl.SSLContext:
    """With a certificate that nobody else could have made for this challenge."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme challenge")])
    digest = hashlib.sha256(proof.encode()).digest()
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_IDENTIFIER, b"\x04\x20" + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # the ssl module reads files alone
        file.write(private + made.public_bytes(encoding))
        file.flush()
        context.load_cert_chain(file.name)
    context.set_alpn_protocols([PROTOCOL])
    return context
