"""Names of images in registries: `ubuntu:22.04`, `ghcr.io/owner/name@sha256:…`, `localhost:5000/app:v1`."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from intermodal.worker.images.failures import StepError

DOCKER_HUB = "docker.io"
INSECURE_SETTING = "INTERMODAL_INSECURE_REGISTRIES"  # host:port,…: plain HTTP, or certificates nobody vouches for
MIRRORS_SETTING = "INTERMODAL_REGISTRY_MIRRORS"  # docker.io=mirror.example:5000/hub,…: asked first

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d+)?\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Reference:
    """One image in one registry."""

    host: str
    path: str
    tag: str = "latest"
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.path}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    def at(self, digest: str) -> Reference:
        return Reference(self.host, self.path, self.tag, digest)


def parse_reference(text: str) -> Reference:
    """The image that `text` names, by Docker's rules. Raises StepError."""
    rest = text.strip().removeprefix("docker://")
    rest, _, digest = rest.partition("@")
    first, slash, others = rest.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    host, path = (first, others) if named else (DOCKER_HUB, rest)
    path, colon, tag = path.partition(":")
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = DOCKER_HUB
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not _PATH.match(path):
        raise _wrong(text, "names are lower case: letters, digits and . _ - between slashes")
    if not _HOST.match(host):
        raise _wrong(text, f"{host!r} is no host of a registry")
    if colon and not _TAG.match(tag):
        raise _wrong(text, f"{tag!r} is no tag")
    if digest and not _DIGEST.match(digest):
        raise _wrong(text, "a digest is sha256: and 64 hexadecimal digits")
    return Reference(host, path, tag or "latest", digest)


def _wrong(text: str, why: str) -> StepError:
    return StepError(f"{text!r} names no image ({why}). Use for instance 'ubuntu:22.04' or 'ghcr.io/owner/name:tag'")


def is_insecure(host: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the registry may be asked without a certificate: on this machine itself, or as its operator says."""
    environ = os.environ if environ is None else environ
    name = host.rpartition(":")[0] if re.search(r":\d+\Z", host) else host
    if {host, name} & set(environ.get(INSECURE_SETTING, "").replace(",", " ").split()):
        return True
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def registries_conf(environ: Mapping[str, str] | None = None) -> str:
    """The operator's mirrors as a registries.conf; "" where there are none and this machine's own file counts.

    Raises StepError for a setting that cannot be read.
    """
    environ = os.environ if environ is None else environ
    mirrors: dict[str, list[str]] = {}
    for word in environ.get(MIRRORS_SETTING, "").replace(",", " ").split():
        registry, equals, mirror = word.partition("=")
        if not equals or not registry or not _HOST.match(mirror.partition("/")[0]):
            raise StepError(f"{MIRRORS_SETTING}: {word!r} is not of the form docker.io=mirror.example:5000")
        mirrors.setdefault(registry, []).append(mirror)
    if not mirrors:
        return ""
    lines = ['unqualified-search-registries = ["docker.io"]']
    for registry, places in mirrors.items():
        lines += ["[[registry]]", f'prefix = "{registry}"', f'location = "{registry}"']
        for place in places:
            insecure = str(is_insecure(place.partition("/")[0], environ)).lower()
            lines += ["[[registry.mirror]]", f'location = "{place}"', f"insecure = {insecure}"]
    return "\n".join(lines) + "\n"
