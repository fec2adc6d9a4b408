"""Certificates: self-made ones fit and are renewed; the operator's are taken over when their files change."""

from __future__ import annotations

import datetime
import os
import shutil
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from intermodal.server.store.migrations import Refused
from intermodal.server.tls import authority as authority_module
from intermodal.server.tls.authority import Authority, names_of
from intermodal.server.tls.certificate import Certificate
from intermodal.server.tls.certificates import Certificates
from tests.handshake import shake_hands

NAMES = ["localhost", "*.tunnel.localhost", "127.0.0.1", "::1"]


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_self_made_certificate_fits_its_names_and_no_others(tmp_path: Path) -> None:
    leaf, key = Authority(tmp_path).certificate(NAMES)
    assert (key.stat().st_mode & 0o777) == 0o600
    assert ((tmp_path / "ca-key.pem").stat().st_mode & 0o777) == 0o600
    server = Certificate(leaf, key).new_context()
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    for name in ("localhost", "abc.tunnel.localhost", "127.0.0.1"):
        shake_hands(server, client, name)
    for name in ("example.com", "tunnel.localhost", "a.b.tunnel.localhost", "127.0.0.2"):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(server, client, name)


def test_the_authority_may_vouch_for_this_machine_alone(tmp_path: Path) -> None:
    """Even whoever has its key cannot make a certificate for another site that its believers take."""
    mine, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    mine.certificate(NAMES)
    other.certificate(["bank.example"])
    ca = load(tmp_path / "a" / "ca.pem")
    allowed = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert allowed.critical
    subtrees = allowed.value.permitted_subtrees
    assert subtrees is not None
    assert {str(one.value) for one in subtrees} == {"localhost", "tunnel.localhost", "127.0.0.1/32", "::1/128"}


def test_it_stays_and_is_made_anew_where_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    leaf, key = authority.certificate(NAMES)
    first, ca = leaf.read_bytes(), (tmp_path / "ca.pem").read_bytes()
    authority.certificate(list(reversed(NAMES)))
    assert leaf.read_bytes() == first
    authority.certificate(["localhost"])  # other names, which the authority may vouch for
    assert names_of(load(leaf)) == ["localhost"]
    assert (tmp_path / "ca.pem").read_bytes() == ca
    later = authority_module.now() + datetime.timedelta(days=authority_module.LEAF_DAYS - 10)
    monkeypatch.setattr(authority_module, "now", lambda: later)
    authority.certificate(["localhost"])
    assert load(leaf).not_valid_after_utc > later + datetime.timedelta(days=300)
    authority.certificate(["*.box.example"])  # a name beyond its power: another authority
    assert (tmp_path / "ca.pem").read_bytes() != ca
    (tmp_path / "ca-key.pem").write_text("broken")
    key.write_text("broken")
    authority.certificate(["*.box.example"])
    Certificate(leaf, key)


def write(directory: Path, *names: str, expires: datetime.datetime | None = None) -> tuple[Path, Path]:
    made = trustme.CA().issue_cert(*names, not_after=expires)
    directory.mkdir(exist_ok=True)
    cert, key = directory / "cert.pem", directory / "key.pem"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    return cert, key


def test_renewed_files_are_taken_over_by_listeners_that_run(tmp_path: Path) -> None:
    cert, key = write(tmp_path / "one", "one.example")
    certificate = Certificate(cert, key)
    context = certificate.new_context()

    def shown() -> str:
        client = ssl.create_default_context()
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)]
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        data = ends[0].getpeercert(binary_form=True)
        assert data is not None
        return names_of(x509.load_der_x509_certificate(data))[0]

    assert shown() == "one.example"
    other, other_key = write(tmp_path / "two", "two.example")
    shutil.copy(other, cert)  # the key is not there yet: half of a pair
    certificate.refresh()
    assert shown() == "one.example"
    assert "cannot be used" in certificate.problem
    shutil.copy(other_key, key)
    certificate.refresh()
    assert shown() == "two.example"
    assert certificate.problem == ""
    cert.unlink()
    certificate.refresh()
    assert shown() == "two.example"
    assert "cannot be used" in certificate.describe()["problem"]


def test_the_end_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    cert, key = write(tmp_path / "soon", "a.example", expires=soon)
    certificate = Certificate(cert, key)
    assert "expires on" in certificate.problem
    certificate.refresh()
    assert len(caplog.records) == 1  # each is said once
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    write(tmp_path / "soon", "a.example", expires=past)
    certificate.refresh()
    assert "has expired on" in certificate.problem
    assert "has expired" in caplog.text


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_files_that_are_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "cert.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Refused, match="cannot be used"):
        Certificate(path)


def test_a_key_that_belongs_to_another(tmp_path: Path) -> None:
    cert, _key = write(tmp_path / "one", "one.example")
    _cert, key = write(tmp_path / "two", "two.example")
    with pytest.raises(Refused, match="does the key belong to it"):
        Certificate(cert, key)


def test_the_operators_is_shown_for_every_name(tmp_path: Path) -> None:
    cert, key = write(tmp_path / "one", "one.example")
    certificates = Certificates(tmp_path / "tls", str(cert), str(key))
    assert certificates.get(["a"]) is certificates.get(["b"])
    assert certificates.describe()[0]["names"] == ["one.example"]
    own = Certificates(tmp_path / "tls", "", "")
    first = own.get(NAMES)
    assert own.get(list(reversed(NAMES))) is first
    before = os.stat(first.path).st_ino
    own.refresh()
    assert os.stat(first.path).st_ino == before
