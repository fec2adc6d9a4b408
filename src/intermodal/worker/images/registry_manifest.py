"""What registries say of an image: indexes, manifests and configurations, of OCI's kind and Docker's."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

from intermodal.worker.images.failures import StepError
from modal._protocol.messages.image import ImageConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def architecture() -> str:
    """This machine's, as registries call it."""
    return _ARCHITECTURES.get(os.uname().machine, os.uname().machine)


@dataclass(frozen=True)
class Blob:
    """One layer as the registry has it."""

    digest: str
    size: int  # bytes, compressed
    diff_id: str  # digest of the uncompressed archive: the layer's identity


@dataclass
class Description:
    """An image of a registry: its layers, lowest first, and what its containers start with."""

    blobs: list[Blob]
    config: ImageConfig  # without layers
    onbuild: list[str] = field(default_factory=list)  # Dockerfile lines for whoever builds on it


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise StepError(f"{what} is no JSON ({error}): the registry is damaged, or it is none") from None
    if not isinstance(value, dict):
        raise StepError(f"{what} is not what a registry sends")
    return value


def choose(manifest: dict[str, Any], name: str, wanted: str) -> str:
    """The digest of the manifest for Linux on `wanted`, "" where this already is one image's. Raises StepError."""
    kind = manifest.get("mediaType", "")
    if kind not in _INDEXES and "manifests" not in manifest:
        if manifest.get("schemaVersion") == 1:
            raise StepError(f"{name} is of a format that Docker gave up in 2017: push it again with a newer client")
        return ""
    seen = []
    for entry in manifest.get("manifests") or []:
        platform = entry.get("platform") or {}
        system, processor = platform.get("os", ""), platform.get("architecture", "")
        if system == "linux" and processor == wanted and _DIGEST.match(str(entry.get("digest", ""))):
            return str(entry["digest"])
        if system not in ("", "unknown"):
            seen.append("/".join(part for part in (system, processor, platform.get("variant", "")) if part))
    known = ", ".join(dict.fromkeys(seen)) or "nothing"
    raise StepError(f"{name} is not built for linux/{wanted}; it has {known}")


def describe(manifest: dict[str, Any], config: dict[str, Any], name: str, wanted: str) -> Description:
    """Manifest and configuration together. Raises StepError where they make no image for this machine."""
    system, processor = config.get("os") or "linux", config.get("architecture") or wanted
    if system != "linux" or processor != wanted:
        raise StepError(f"{name} is built for {system}/{processor}, not for linux/{wanted}")
    layers, diff_ids = manifest.get("layers"), (config.get("rootfs") or {}).get("diff_ids")
    if not isinstance(layers, list) or not isinstance(diff_ids, list) or len(layers) != len(diff_ids):
        raise StepError(f"{name} is no container image: its manifest and its configuration do not fit together")
    blobs = []
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        digest, kind = str(layer.get("digest", "")), str(layer.get("mediaType", ""))
        if not _DIGEST.match(digest) or not _DIGEST.match(str(diff_id)):
            raise StepError(f"{name} has a layer with the digest {digest[:80]!r}: only sha256 is known here")
        if "tar" not in kind or "encrypted" in kind:
            raise StepError(f"{name} has a layer of the type {kind!r}, which is no file system")
        blobs.append(Blob(digest, int(layer.get("size") or 0), str(diff_id)))
    if not blobs:
        raise StepError(f"{name} is empty: it has no layers")
    return Description(blobs, *_settings(config.get("config") or {}))


def _settings(found: dict[str, Any]) -> tuple[ImageConfig, list[str]]:
    env = dict(str(entry).partition("=")[::2] for entry in found.get("Env") or [])
    env.setdefault("PATH", DEFAULT_PATH)
    config = ImageConfig(
        layers=[],
        env=env,
        workdir=str(found.get("WorkingDir") or ""),
        entrypoint=_words(found.get("Entrypoint")),
        cmd=_words(found.get("Cmd")),
        shell=_words(found.get("Shell")),
        user=str(found.get("User") or ""),
    )
    return config, _words(found.get("OnBuild"))


def _words(value: Any) -> list[str]:
    return [str(word) for word in value or []]
