"""Whether and how certificates come from an ACME authority: from environment variables (docs/web.md)."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from intermodal.server.store.migrations import Refused

DIRECTORIES = {
    "on": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}
HTTP, ALPN, DNS = "http-01", "tls-alpn-01", "dns-01"
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
# The letters of a host name that a certificate can be for, with a `*.` in front or not; it becomes a file's name too.
HOST = re.compile(r"(?:\*\.)?(?=.{1,240}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]*[a-z0-9])\Z")


@dataclass(frozen=True)
class AcmeSettings:
    """`hook`: the program that changes the DNS, "" for none. `root`: whom the authority's own certificate is from."""

    directory: str
    email: str = ""
    challenges: tuple[str, ...] = (ALPN, HTTP)  # that are tried in turn for names without `*.`
    hook: str = ""
    root: str = ""
    eab_kid: str = ""  # of the external account binding
    eab_key: str = ""
    hosts: tuple[str, ...] = ()  # names besides those of apps


def read_settings(environ: Mapping[str, str] = os.environ) -> AcmeSettings | None:
    """None where it is not turned on. Raises Refused, which names the variable."""

    def text(name: str) -> str:
        return environ.get(f"INTERMODAL_ACME{name}", "").strip()

    wanted = text("")
    if wanted.lower() in ("", "off", "no", "0"):
        return None
    directory = DIRECTORIES.get(wanted.lower(), wanted)
    if not directory.startswith("https://"):
        raise Refused(
            f"INTERMODAL_ACME={wanted!r} must be letsencrypt, letsencrypt-staging or the https:// URL of an "
            "ACME directory"
        )
    if text("_AGREE").lower() not in ("yes", "true", "1"):
        raise Refused(
            f"certificates from {directory} need its terms of service to be agreed to: read them, and set "
            "INTERMODAL_ACME_AGREE=yes"
        )
    if importlib.util.find_spec("acme") is None:
        raise Refused("INTERMODAL_ACME needs the Python package acme: pip install 'intermodal[acme]'")
    kid, key = text("_EAB_KID"), text("_EAB_HMAC_KEY")
    if bool(kid) != bool(key):
        raise Refused("INTERMODAL_ACME_EAB_KID and INTERMODAL_ACME_EAB_HMAC_KEY are only of use together")
    if not re.fullmatch(r"[A-Za-z0-9_-]*=*", key):
        raise Refused("INTERMODAL_ACME_EAB_HMAC_KEY must be the key as the authority shows it, in base64url")
    return AcmeSettings(
        directory,
        text("_EMAIL"),
        _challenges(text("_CHALLENGE")),
        _hook(text("_DNS_HOOK")),
        _root(text("_ROOT"), environ),
        kid,
        key.rstrip("="),
        _hosts(text("_HOSTS")),
    )


def _challenges(text: str) -> tuple[str, ...]:
    if not text:
        return ALPN, HTTP
    if text.lower() not in (HTTP, ALPN):
        raise Refused(
            f"INTERMODAL_ACME_CHALLENGE={text!r} must be {HTTP} or {ALPN}; {DNS} is INTERMODAL_ACME_DNS_HOOK's"
        )
    return (text.lower(),)


def _hook(text: str) -> str:
    if not text:
        return ""
    found = shutil.which(text)
    if found is None:
        raise Refused(f"INTERMODAL_ACME_DNS_HOOK={text!r} is no program that can be run")
    return os.path.abspath(found)


def _root(text: str, environ: Mapping[str, str]) -> str:
    if text and not os.path.isfile(text):
        raise Refused(f"INTERMODAL_ACME_ROOT={text!r} is no file")
    choices = (text, environ.get("SSL_CERT_FILE", ""), *BUNDLES)
    return next((path for path in choices if path and os.path.isfile(path)), "")


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for host in hosts:
        if not is_public(host) or host.startswith("*."):
            raise Refused(f"INTERMODAL_ACME_HOSTS: {host!r} is no host name that a certificate can be had for")
    return hosts


def is_public(name: str) -> bool:
    """Whether an authority can know a host name (or `*.` name): not this machine's own ones, and no address."""
    return HOST.match(name) is not None and not name.endswith(".localhost")
